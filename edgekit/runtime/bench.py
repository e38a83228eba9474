"""Measure a bundle on the machine that this runs on; the host and the device run this same code.

:func:`run` returns one JSON document, ``edgekit.bench/1``. Its inputs are the bundle's own golden
samples, its requests come one after another. Every number in it was measured on this machine; it
is a figure of the bundle's target only where ``measured.target`` says so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.runtime.bench_profile import profile
from edgekit.runtime.bench_windows import Recorder, Window, summarise
from edgekit.runtime.golden import from_members
from edgekit.runtime.host import host_kind
from edgekit.runtime.pipeline import Pipeline, load_pipeline
from edgekit.runtime.session import Run, import_onnxruntime
from edgekit.runtime.tasks import Task
from edgekit.wire.canonical import Json
from edgekit.wire.errors import DeviceError, UsageError
from edgekit.wire.manifest import Manifest
from edgekit.wire.strict import Fields

if TYPE_CHECKING:
    from edgekit.runtime.session import Array

SCHEMA = "edgekit.bench/1"
MAX_THREADS = 256
MAX_SUSTAINED_S = 24 * 3600.0
WINDOWS = 60
SHORT_S = 5.0
_SHORT_WINDOWS = 10
_MIN_WINDOW_S = 1.0
_PROFILE_S = 2.0
_WARM_UP = 3
# Of everything that a board tells, what explains a latency.
_VITALS = ("temp_c", "clock_mhz", "cooling_share", "throttled", "under_voltage")
_MAX_FILE_BYTES = 256


@dataclass(frozen=True)
class Ask:
    """What is to be measured.

    Attributes:
        threads: Intra-op threads; None for the bundle's own.
        sustained_s: How long to run until the board has settled; None for a short run of 5 s.
    """

    threads: int | None = None
    sustained_s: float | None = None

    def __post_init__(self) -> None:
        if self.threads is not None and not 1 <= self.threads <= MAX_THREADS:
            raise UsageError(f"{self.threads} threads", hint=f"1 to {MAX_THREADS}")
        if self.sustained_s is not None and not SHORT_S <= self.sustained_s <= MAX_SUSTAINED_S:
            raise UsageError(
                f"{self.sustained_s:g} s are no sustained run", hint="10m; from 5 s to 24 h"
            )

    @classmethod
    def from_args(cls, args: Mapping[str, Json]) -> Ask:
        """Read the arguments of the command ``run benchmark``: ``threads``, ``sustained_s``.

        Raises:
            TrustError: Another argument, or one of another type.
            UsageError: Out of range.
        """
        fields = Fields(dict(args), "benchmark")
        threads = fields.integer("threads") if fields.has("threads") else None
        sustained_s = fields.number("sustained_s") if fields.has("sustained_s") else None
        fields.close()
        return cls(threads, sustained_s)

    @property
    def total_s(self) -> float:
        """How long requests are sent."""
        return self.sustained_s or SHORT_S

    @property
    def window_s(self) -> float:
        """Length of a window."""
        if self.sustained_s is None:
            return SHORT_S / _SHORT_WINDOWS
        return max(_MIN_WINDOW_S, self.sustained_s / WINDOWS)


@dataclass(frozen=True)
class Machine:
    """Where the numbers come from.

    Attributes:
        host: Kind of CPU: ``arm64``.
        board: What the board calls itself; None where it says nothing.
        device: Its id in the fleet; None outside of one.
        target: The target that it is one of; None where nobody can tell.
        cores: Logical ones.
    """

    host: str = field(default_factory=host_kind)
    board: str | None = None
    device: str | None = None
    target: str | None = None
    cores: int | None = field(default_factory=os.cpu_count)

    def says(self, built_for: str) -> str:
        """Say in a sentence what the numbers are worth."""
        name = self.device or self.board
        here = f"measured on {name} ({self.host})" if name else f"measured on this {self.host} host"
        if self.target == built_for:
            return f"{here}, a {built_for}"
        return f"{here}; not figures of {built_for}"


@dataclass(frozen=True)
class Hooks:
    """What a run needs of the outside.

    Attributes:
        folder: Empty; for the runtime's profile.
        date: Today, ISO 8601; it stands in the document.
        vitals: How the board is now; see :func:`edgekit.agent.vitals.reader`.
        clock_ns: Monotonic clock.
        on_progress: Told of the seconds done and of all.
        stop: Asked before each request; true ends the run with what there is.
    """

    folder: Path
    date: str
    vitals: Callable[[], Mapping[str, Json]] = dict
    clock_ns: Callable[[], int] = time.perf_counter_ns
    on_progress: Callable[[float, float], None] = lambda _done, _total: None
    stop: Callable[[], bool] = lambda: False


def run(
    manifest: Manifest,
    read: Callable[[str], bytes],
    *,
    sha256: str,
    ask: Ask,
    machine: Machine,
    hooks: Hooks,
) -> dict[str, Json]:
    """Measure a bundle here.

    Args:
        manifest: Of the verified bundle.
        read: Returns a member's verified bytes.
        sha256: Of the bundle.
        ask: What is to be measured.
        machine: What this machine is.
        hooks: Clock, vitals, progress.

    Returns:
        The document, with its ``schema``. ``interrupted`` is true where ``stop`` ended it.

    Raises:
        DeviceError: The bundle has no golden samples to run.
        BuildError: The model cannot be loaded or run.
    """
    samples = _samples(manifest, read)
    threads = ask.threads or manifest.session.threads
    loaded = load_pipeline(manifest, read, threads=threads)
    watch = _Watch(loaded.run, hooks.clock_ns)
    before = _told(hooks.vitals(), (*_VITALS, "load_1m"))
    windows, interrupted = _measure(Pipeline(loaded.task, watch), samples, watch, ask, hooks)
    found = None if interrupted else _profile(loaded.task, read, samples, threads, hooks)
    return {
        "schema": SCHEMA,
        **_about(manifest, sha256, machine, hooks.date),
        "threads": threads,
        "samples": len(samples),
        "inputs": watch.inputs(),
        "sustained_s": ask.sustained_s,
        "interrupted": interrupted,
        "before": before,
        **summarise(windows, sustained=ask.sustained_s is not None),
        "windows": [window.to_json() for window in windows],
        "profile": found,
    }


def _profile(
    task: Task, read: Callable[[str], bytes], samples: list[bytes], threads: int, hooks: Hooks
) -> dict[str, Json] | None:
    return profile(
        task,
        read,
        samples,
        threads=threads,
        folder=hooks.folder,
        seconds=_PROFILE_S,
        clock_s=lambda: hooks.clock_ns() / 1e9,
        stop=hooks.stop,
    )


def _samples(manifest: Manifest, read: Callable[[str], bytes]) -> list[bytes]:
    names = list(manifest.members)
    samples = [from_members(i, names, read)[0] for i in range(manifest.golden.count)]
    if not samples:
        raise DeviceError("the bundle has no golden samples to run", hint="edgekit build makes 16")
    return samples


def _about(manifest: Manifest, sha256: str, machine: Machine, date: str) -> dict[str, Json]:
    contract: dict[str, Json] = {
        r.metric: r.maximum
        for r in manifest.contract
        if r.metric.startswith("latency_") and r.vs == "absolute" and r.maximum is not None
    }
    return {
        "model": manifest.model,
        "title": manifest.title,
        "serial": manifest.serial,
        "precision": manifest.precision,
        "bundle_sha256": sha256,
        "built_for": manifest.target.name,
        "measured": {
            "kind": "measured",
            "host": machine.host,
            "board": machine.board,
            "device": machine.device,
            "target": machine.target,
            "cores": machine.cores,
            "date": date,
            "onnxruntime": str(import_onnxruntime().__version__),
            "says": machine.says(manifest.target.name),
        },
        "contract_max_ms": contract,
    }


class _Watch:
    """A model whose calls are timed."""

    def __init__(self, run: Run, clock_ns: Callable[[], int]) -> None:
        self._run = run
        self._clock_ns = clock_ns
        self._inputs: dict[str, tuple[str, tuple[int, ...]]] = {}
        self._vary: set[str] = set()
        self.calls_ms: list[float] = []

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        began = self._clock_ns()
        outputs = self._run(feeds)
        self.calls_ms.append((self._clock_ns() - began) / 1e6)
        for name, value in feeds.items():
            seen = self._inputs.setdefault(name, (str(value.dtype), value.shape))
            if seen[1] != value.shape:
                self._vary.add(name)
        return outputs

    def inputs(self) -> dict[str, Json]:
        return {
            name: {"dtype": dtype, "shape": list(shape), "varies": name in self._vary}
            for name, (dtype, shape) in self._inputs.items()
        }


def _measure(
    pipeline: Pipeline, samples: list[bytes], watch: _Watch, ask: Ask, hooks: Hooks
) -> tuple[list[Window], bool]:
    for sample in samples[:_WARM_UP]:
        pipeline.predict(sample)
    recorder = Recorder(ask.window_s)
    began, done, elapsed_s = hooks.clock_ns(), 0, 0.0
    interrupted = False
    while elapsed_s < ask.total_s:
        if hooks.stop():
            interrupted = True
            break
        watch.calls_ms.clear()
        start = hooks.clock_ns()
        pipeline.predict(samples[done % len(samples)])
        end = hooks.clock_ns()
        done += 1
        elapsed_s = (end - began) / 1e9
        closed = recorder.add(elapsed_s, (end - start) / 1e6, watch.calls_ms)
        if closed is not None:
            closed.vitals = _told(hooks.vitals(), _VITALS)
            hooks.on_progress(min(elapsed_s, ask.total_s), ask.total_s)
    recorder.close()
    return recorder.windows, interrupted


def _told(vitals: Mapping[str, Json], names: tuple[str, ...]) -> dict[str, Json]:
    return {name: vitals[name] for name in names if name in vitals}


def board_name(root: Path) -> str | None:
    """Return what the board calls itself in its device tree; None where there is none.

    Args:
        root: ``/``.
    """
    with suppress(OSError):
        with (root / "proc" / "device-tree" / "model").open("rb") as file:
            text = file.read(_MAX_FILE_BYTES).decode("ascii", "replace")
        name = "".join(c for c in text if c.isprintable()).strip()
        return name or None
    return None


def is_one_of(target: str, title: str, *, host: str, board: str | None) -> bool:
    """Tell whether this machine is of a target's kind: by its board's name, or its CPU's.

    A CPU's kind says so only for the targets that are named after one (``x86-64-vnni``); that a
    machine is some 64-bit Arm does not make it a Raspberry Pi.

    Args:
        target: Its name.
        title: Its title: ``Raspberry Pi 5``, which the board's own name begins with.
        host: Kind of CPU.
        board: What the board calls itself.
    """
    if target == host:
        return True
    return board is not None and f"{board} ".startswith(f"{title} ")


def text_of(document: Mapping[str, Any]) -> str:
    """Return one line with the figures of a document that counts, for logs and ``--quiet``."""
    call = document["model_call"]
    if not call.get("n"):
        return "nothing was measured"
    return f"p50 {call['p50_ms']:g} ms, p90 {call['p90_ms']:g} ms, p99 {call['p99_ms']:g} ms"
