"""Where onnxruntime runs the nodes of a model, and how that compares with the manifest.

Its profile names each node's operator and execution provider, after it has joined and replaced
nodes. Integer operators can be told apart by their names, so their numbers compare with the
manifest's; what it makes of float32 nodes (fused, folded, reordered) has other names and numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekit.runtime.pipeline import MODEL_MEMBER, Pipeline
from edgekit.runtime.session import end_profile, open_session, runner
from edgekit.runtime.tasks import create_task
from edgekit.wire.bundle import Bundle
from edgekit.wire.manifest import Placement
from edgekit.wire.selftest import Placed

MAX_PROFILE_BYTES = 64 << 20
# onnxruntime's own integer operators, by the name that a manifest has for them.
_INTEGER = {
    "QGemm": "Gemm",
    "ConvInteger": "Conv",
    "MatMulInteger": "MatMul",
    "MatMulIntegerToFloat": "MatMul",
    "DynamicQuantizeMatMul": "MatMul",
    "DynamicQuantizeLSTM": "DynamicQuantizeLSTM",
    "NhwcMaxPool": "MaxPool",
}
_PREFIX = "QLinear"


@dataclass(frozen=True)
class Found:
    """What the runtime says.

    Attributes:
        nodes: Nodes by execution provider.
        integer: Integer nodes by operator, as a manifest names it, and provider.
    """

    nodes: Mapping[str, int]
    integer: Mapping[tuple[str, str], int]


def profile_placement(bundle: Bundle, sample: bytes, folder: Path) -> Found | None:
    """Run a bundle once with the runtime's profiler on.

    Args:
        bundle: Verified and open.
        sample: Its raw input.
        folder: Where the profile goes; it is removed.

    Returns:
        What the profile says; None where it says nothing that can be read.

    Raises:
        BuildError: The model cannot be loaded or run.
    """
    manifest = bundle.manifest
    files = {name: bundle.read(member) for name, member in manifest.pipeline.files.items()}
    task = create_task(manifest.pipeline.task, manifest.pipeline.options, files)
    model, prefix = bundle.read(MODEL_MEMBER), folder / "profile"
    session = open_session(model, profile_to=prefix)
    Pipeline(task, runner(session)).predict(sample)
    return read_profile(end_profile(session, MAX_PROFILE_BYTES))


def read_profile(events: object) -> Found | None:
    """Count the nodes of a profile.

    Args:
        events: The profile's JSON: a list of events in Chrome's trace format.

    Returns:
        None where no event tells of a node.
    """
    nodes: dict[tuple[str, str], tuple[str, str]] = {}
    for event in events if isinstance(events, list) else ():
        args = event.get("args") if isinstance(event, dict) else None
        if not isinstance(args, dict) or event.get("cat") != "Node":
            continue
        op, provider = args.get("op_name"), args.get("provider")
        if isinstance(op, str) and isinstance(provider, str):
            # A model that is called several times runs each of its nodes as often.
            nodes[str(event.get("name")), str(args.get("node_index"))] = (op, provider)
    if not nodes:
        return None
    integer: Counter[tuple[str, str]] = Counter()
    for op, provider in nodes.values():
        name = _INTEGER.get(op) or (op.removeprefix(_PREFIX) if op.startswith(_PREFIX) else None)
        if name is not None:
            integer[name, provider] += 1
    return Found(Counter(provider for _, provider in nodes.values()), integer)


def compare_placement(expected: Iterable[Placement], found: Found) -> tuple[Placed, ...]:
    """Put what the runtime says beside what the manifest expects.

    Args:
        expected: Of the manifest.
        found: Of the profile.
    """
    return tuple(
        Placed(
            op=row.op,
            precision=row.precision,
            provider=row.provider,
            expected=row.count,
            found=found.integer.get((row.op, row.provider), 0) if row.precision == "int8" else None,
        )
        for row in expected
    )
