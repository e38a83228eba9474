"""Export: a PyTorch factory or a Hugging Face checkpoint becomes one .onnx file.

The work is done by a worker (:mod:`edgekit.toolchain.export_worker`) in a process group of its own,
with limits of time and memory: the factory's code, torch and optimum never run in this process.
What counts is the file that the worker leaves, not what it prints.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.toolchain.events import Event, OnEvent
from edgekit.toolchain.process import Finished, run
from edgekit.toolchain.recipe import Recipe
from edgekit.toolchain.sources.torch import parse as parse_torch
from edgekit.wire.errors import (
    BuildError,
    ConfigError,
    EdgekitError,
    MissingToolError,
    did_you_mean,
)

TIMEOUT_S = 1800.0
# optimum's name for "the hidden states as they are"; a recipe's export_task names another.
DEFAULT_TASK = "feature-extraction"
# One thread: the sums of constant folding come in the same order everywhere.
THREADS = 1
_GIB = 1 << 30
_MEMORY_BYTES = (4 * _GIB, 16 * _GIB)
_ERRORS: Mapping[str, type[EdgekitError]] = {
    "missing": MissingToolError,
    "config": ConfigError,
    "build": BuildError,
}


@dataclass(frozen=True)
class ExportNotes:
    """What an export did.

    Attributes:
        exporter: ``torch-dynamo``, ``torchscript`` or ``optimum``.
        opset: Default operator set of the file.
        nodes: Nodes of its graph.
        max_error: Largest difference from the framework's own outputs on one input, relative to
            their largest value; None where the exporter checks that itself.
        detail: One line for people.
        fallback: Why the first exporter was not used, or empty.
        tools: Versions of what made the file.
    """

    exporter: str
    opset: int
    nodes: int
    max_error: float | None
    detail: str
    fallback: str = ""
    tools: Mapping[str, str] = field(default_factory=dict)


def needs_export(recipe: Recipe) -> bool:
    """Tell whether a recipe's source is no .onnx file yet."""
    return recipe.source.uri.startswith(("torch:", "hf:"))


def export(
    recipe: Recipe,
    source_path: Path,
    packages: Sequence[Path],
    opset: int,
    out: Path,
    on_event: OnEvent,
) -> ExportNotes:
    """Export a recipe's model.

    Equal inputs and tools give equal bytes, in whichever folders they lie.

    Args:
        recipe: The recipe; its source is ``torch:`` or ``hf:``.
        source_path: What fetching the source gave: the recipe's folder, or the checkpoint's.
        packages: Unpacked packages that a factory imports.
        opset: Lowest default operator set; an exporter that begins higher gives its lowest.
        out: The file to write.
        on_event: Hears that the export begins, and why it falls back.

    Raises:
        MissingToolError: torch or optimum is not installed, or does not load.
        ConfigError: The factory or the task is wrong, or inputs and outputs are not the recipe's.
        BuildError: The exporter failed, took too long or too much memory.
    """
    on_event(Event(recipe.name, "export"))
    with tempfile.TemporaryDirectory(prefix="export-", dir=out.parent) as name:
        work = Path(name)
        job = _job(recipe, source_path, packages, opset, work)
        done = run(
            [sys.executable, "-P", "-m", "edgekit.toolchain.export_worker"],
            timeout_s=TIMEOUT_S,
            missing="the Python that runs edgekit is gone",
            cwd=work,
            env=_environment(work),
            stdin=json.dumps(job).encode(),
        )
        notes = _judge(recipe, work, done)
        (work / "model.onnx").rename(out)
    if notes.fallback:
        on_event(Event(recipe.name, "export", detail=f"fell back: {notes.fallback}"))
    return notes


def _job(
    recipe: Recipe, source_path: Path, packages: Sequence[Path], opset: int, work: Path
) -> dict[str, Any]:
    job: dict[str, Any] = {
        "out": str(work / "model.onnx"),
        "result": str(work / "result.json"),
        "opset": opset,
        "threads": THREADS,
        "memory_bytes": _memory_bytes(),
        "parent": os.getpid(),
        "inputs": [{"name": t.name, "dtype": t.dtype, "shape": t.shape} for t in recipe.inputs],
        "outputs": [t.name for t in recipe.outputs],
    }
    if recipe.source.uri.startswith("torch:"):
        module, factory = parse_torch(recipe.source)
        paths = [str(p.resolve()) for p in (source_path, *packages)]
        return {**job, "kind": "torch", "module": module, "factory": factory, "paths": paths}
    task = recipe.export_task or DEFAULT_TASK
    return {**job, "kind": "hf", "folder": str(source_path.resolve()), "task": task}


def _memory_bytes() -> int:
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    low, high = _MEMORY_BYTES
    return max(low, min(high, physical * 3 // 4))


def _environment(work: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONHASHSEED": "0",  # orders of sets end up in names
        "PYTHONDONTWRITEBYTECODE": "1",  # the packages lie in the cache, which stays as it is
        "OMP_NUM_THREADS": str(THREADS),
        "CUDA_VISIBLE_DEVICES": "",
        "ORT_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HOME": str(work / "hf"),
        "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor"),
        "TORCH_LOGS": "-all",
    }


def _judge(recipe: Recipe, work: Path, done: Finished) -> ExportNotes:
    try:
        result: dict[str, Any] = json.loads((work / "result.json").read_bytes())
    except (OSError, ValueError) as error:
        why = f"it was ended by signal {-done.code}" if done.code < 0 else done.tail()
        raise BuildError(
            f"the export failed: {why}",
            hint="a signal 9 is mostly a lack of memory" if done.code < 0 else None,
            where=recipe.source.where,
        ) from error
    if "error" in result:
        raise _ERRORS[result["error"]](
            result["message"], hint=result.get("hint"), where=recipe.source.where
        )
    _check_names(recipe, "input", [t.name for t in recipe.inputs], result.pop("inputs"))
    _check_names(recipe, "output", [t.name for t in recipe.outputs], result.pop("outputs"))
    return ExportNotes(**result)


def _check_names(recipe: Recipe, what: str, wanted: list[str], found: list[str]) -> None:
    for name in wanted:
        if name not in found:
            close = did_you_mean(name, found)
            hint = f"did you mean {close}?" if close else f"it has {', '.join(found)}"
            if recipe.source.uri.startswith("hf:"):
                hint += "; export_task in [source] decides which outputs there are"
            raise ConfigError(
                f'the exported model has no {what} "{name}"',
                hint=hint,
                where=recipe.file,
            )
