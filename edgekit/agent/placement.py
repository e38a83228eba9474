"""Where onnxruntime runs the nodes of a model, and how that compares with the manifest.

Its profile names each node's operator and execution provider, after it has joined and replaced
nodes. Integer operators can be told apart by their names, so their numbers compare with the
manifest's; what it makes of float32 nodes (fused, folded, reordered) has other names and numbers.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.runtime.pipeline import MODEL_MEMBER, Pipeline
from edgekit.runtime.session import (
    DISABLED_OPTIMIZERS,
    OPTIMIZATION_LEVEL,
    import_onnxruntime,
    runner,
)
from edgekit.runtime.tasks import create_task
from edgekit.wire.bundle import Bundle
from edgekit.wire.errors import BuildError
from edgekit.wire.manifest import Placement
from edgekit.wire.selftest import Placed

if TYPE_CHECKING:
    import onnxruntime

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
    session = _profiling_session(bundle.read(MODEL_MEMBER), folder / "profile")
    Pipeline(task, runner(session)).predict(sample)
    profile = Path(session.end_profiling())
    try:
        if profile.stat().st_size > MAX_PROFILE_BYTES:
            return None
        return read_profile(json.loads(profile.read_bytes()))
    except (OSError, ValueError):
        return None
    finally:
        profile.unlink(missing_ok=True)


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


def _profiling_session(model: bytes, prefix: Path) -> onnxruntime.InferenceSession:
    """Open a session as :func:`edgekit.runtime.session.open_session` does, with the profiler on."""
    ort: Any = import_onnxruntime()
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, OPTIMIZATION_LEVEL)
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_profiling = True
    options.profile_file_prefix = str(prefix)
    try:
        return ort.InferenceSession(
            model,
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=list(DISABLED_OPTIMIZERS),
        )
    except Exception as error:
        raise BuildError(f"onnxruntime cannot load the model: {error}") from error
