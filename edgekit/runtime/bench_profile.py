"""Where a model's time goes: onnxruntime's own profile, added up by node and by operator.

The profiler slows the run, so these times are for comparison among each other: the shares count,
and what a call takes without it stands elsewhere in the document.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.runtime.pipeline import MODEL_MEMBER, Pipeline
from edgekit.runtime.session import end_profile, open_session, runner
from edgekit.runtime.tasks import Task
from edgekit.wire.canonical import Json

MAX_PROFILE_BYTES = 256 << 20
# The document travels in one MQTT message of 64 KiB.
MAX_NODES = 64
MAX_OPS = 32
MAX_NAME = 120
MAX_CALLS = 100
_SUFFIX = "_kernel_time"


@dataclass(frozen=True)
class Call:
    """One call of the model in a profile, in microseconds of its clock."""

    start_us: int
    end_us: int


def profile(
    task: Task,
    read: Callable[[str], bytes],
    samples: Sequence[bytes],
    *,
    threads: int,
    folder: Path,
    seconds: float,
    clock_s: Callable[[], float],
    stop: Callable[[], bool],
) -> dict[str, Json] | None:
    """Run a model with the profiler on.

    Args:
        task: Of the bundle.
        read: Returns a member's verified bytes.
        samples: Raw inputs, taken in turn.
        threads: Intra-op threads.
        folder: Where the profile goes; it is removed.
        seconds: No further sample after this long.
        clock_s: Monotonic clock.
        stop: Asked before each sample; true ends it early.

    Returns:
        See :func:`read_profile`; None where the profile says nothing that can be read.

    Raises:
        BuildError: The model cannot be loaded or run.
    """
    prefix = folder / "profile"
    session = open_session(read(MODEL_MEMBER), threads=threads, profile_to=prefix)
    pipeline = Pipeline(task, runner(session))
    began, done = clock_s(), 0
    while done < MAX_CALLS and (done < 2 or clock_s() - began < seconds):  # noqa: PLR2004 - the first warms up
        if done and stop():
            break
        pipeline.predict(samples[done % len(samples)])
        done += 1
    return read_profile(end_profile(session, MAX_PROFILE_BYTES))


def read_profile(events: object) -> dict[str, Json] | None:
    """Add a profile up; the first call, which warms the caches, is left out where there are more.

    Args:
        events: The profile's JSON: a list of events in Chrome's trace format.

    Returns:
        ``calls``, ``ms`` (all nodes, a call), ``ops`` and ``nodes`` (most time first, each with
        ``ms`` a call and its ``share``), and how many were ``left_out`` of the two lists. None
        where no event tells of a node.
    """
    listed = events if isinstance(events, list) else []
    rows = [event for event in listed if isinstance(event, dict)]
    calls = sorted(_calls(rows), key=lambda call: call.start_us)
    after_us = calls[0].end_us if len(calls) > 1 else 0
    counted = max(1, len(calls) - (1 if len(calls) > 1 else 0))
    spans: Counter[tuple[str, str, str]] = Counter()
    for event in rows:
        found = _node(event, after_us)
        if found is not None:
            spans[found[0]] += found[1]
    total_us = sum(spans.values())
    if not total_us:
        return None
    ops: Counter[tuple[str, str]] = Counter()
    number: Counter[tuple[str, str]] = Counter()
    for (_, op, provider), span_us in spans.items():
        ops[op, provider] += span_us
        number[op, provider] += 1

    def times(span_us: int) -> dict[str, Json]:
        ms = float(f"{span_us / 1000 / counted:.4g}")
        return {"ms": ms, "share": round(span_us / total_us, 4)}

    return {
        "calls": counted,
        "ms": float(f"{total_us / 1000 / counted:.4g}"),
        "ops": [
            {"op": op, "provider": provider, "nodes": number[op, provider], **times(span_us)}
            for (op, provider), span_us in ops.most_common(MAX_OPS)
        ],
        "nodes": [
            {"name": name, "op": op, "provider": provider, **times(span_us)}
            for (name, op, provider), span_us in spans.most_common(MAX_NODES)
        ],
        "left_out": {
            "ops": max(0, len(ops) - MAX_OPS),
            "nodes": max(0, len(spans) - MAX_NODES),
        },
    }


def _calls(rows: Sequence[Mapping[str, Any]]) -> list[Call]:
    return [
        Call(row["ts"], row["ts"] + row["dur"])
        for row in rows
        if row.get("name") == "model_run"
        and isinstance(row.get("ts"), int)
        and isinstance(row.get("dur"), int)
    ]


def _node(event: Mapping[str, Any], after_us: int) -> tuple[tuple[str, str, str], int] | None:
    args, name, span_us = event.get("args"), event.get("name"), event.get("dur")
    if event.get("cat") != "Node" or not isinstance(args, Mapping) or not isinstance(name, str):
        return None
    op, provider, at_us = args.get("op_name"), args.get("provider"), event.get("ts")
    if not name.endswith(_SUFFIX) or not isinstance(op, str) or not isinstance(provider, str):
        return None
    if not isinstance(span_us, int) or not isinstance(at_us, int) or at_us < after_us:
        return None
    plain = "".join(c if c.isprintable() else "?" for c in name.removesuffix(_SUFFIX))
    return (plain[-MAX_NAME:] or f"{op} {args.get('node_index')}", op, provider), span_us
