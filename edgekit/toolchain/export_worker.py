"""The worker that exports: reads a job on stdin, leaves ``model.onnx`` and ``result.json``.

Run by :mod:`edgekit.toolchain.export` as ``python -m edgekit.toolchain.export_worker``. Its output
is only kept for the case that it dies without a result.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import json
import os
import resource
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

from edgekit.toolchain.graph import Graph
from edgekit.wire.errors import BuildError, ConfigError, MissingToolError

_PR_SET_PDEATHSIG = 1
_KINDS = {MissingToolError: "missing", ConfigError: "config", BuildError: "build"}


def main() -> None:
    """Do the job on stdin."""
    job: dict[str, Any] = json.load(sys.stdin)
    _end_with_parent(job["parent"])
    # Counts private memory, not the address space that torch reserves.
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    limit = (
        job["memory_bytes"] if hard == resource.RLIM_INFINITY else min(job["memory_bytes"], hard)
    )
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    warnings.simplefilter("ignore")
    result = Path(job["result"])
    try:
        document = _export(job)
    except (MissingToolError, ConfigError, BuildError) as error:
        document = {"error": _KINDS[type(error)], "message": error.message, "hint": error.hint}
    except MemoryError:
        limit_gib = job["memory_bytes"] / 2**30
        document = {"error": "build", "message": f"the export needs over {limit_gib:.0f} GiB"}
    result.write_text(json.dumps(document), encoding="utf-8")


def _export(job: dict[str, Any]) -> dict[str, Any]:
    out = Path(job["out"])
    if job["kind"] == "torch":
        from edgekit.toolchain.export_torch import export_torch

        made = export_torch(job, out)
    else:
        from edgekit.toolchain.export_hf import export_hf

        made = export_hf(job, out)
    label = made.pop("label")
    graph = finish(out)
    nodes = len(graph.proto.graph.node)
    return {
        **made,
        "opset": graph.opset,
        "nodes": nodes,
        "detail": f"{label} → ONNX opset {graph.opset}, {nodes} nodes",
        "inputs": graph.input_names,
        "outputs": graph.output_names,
    }


def finish(path: Path) -> Graph:
    """Check an exported file and strip what does not belong to the model.

    Exporters leave notes in it: stack traces with absolute paths, names of Python classes.

    Raises:
        BuildError: It is no valid ONNX model.
    """
    import onnx

    model = Graph.load(path).proto
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BuildError(
            f"the exporter left an invalid model: {str(error).strip().splitlines()[0][:200]}"
        ) from error
    strip(model)
    graph = Graph.of(model)
    graph.save(path)
    return graph


def strip(message: Any) -> None:  # noqa: ANN401 - any protobuf message
    """Remove metadata and texts from a model and everything in it, in place."""
    for name in ("metadata_props", "doc_string"):
        if name in message.DESCRIPTOR.fields_by_name:
            message.ClearField(name)
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None or descriptor.name == "initializer":
            continue
        for item in [value] if hasattr(value, "DESCRIPTOR") else value:
            strip(item)
    if "initializer" in message.DESCRIPTOR.fields_by_name:
        for tensor in message.initializer:
            tensor.ClearField("doc_string")
            tensor.ClearField("metadata_props")


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of packages, without their local part (``+cpu``)."""
    found = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package).partition("+")[0]
    return found


def _end_with_parent(parent: int) -> None:
    """Die when edgekit is killed; otherwise an export could go on for nobody."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


if __name__ == "__main__":
    main()
