"""The worker's part for ``torch:``. Imported in the worker's process alone."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.wire.errors import BuildError, ConfigError, MissingToolError

# torch's dynamo exporter has no functions for older operator sets.
DYNAMO_OPSET = 18
# The newest that its older exporter knows.
SCRIPT_OPSET = 20
# Relative to the largest output; float32 sums in another order differ by 1e-6 to 1e-4.
TOLERANCE = 1e-3
# A dynamic dimension named so is a batch: 2, as 1 would be taken for a constant.
_BATCH_NAMES = frozenset({"batch", "batch_size", "n", "N"})
_BATCH = 2
_EXTENT, _EXTENT_STEP = 64, 32
MISSING = 'pip install "edgekit[hf]"'


def export_torch(job: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Export what a factory makes; by dynamo, or else by TorchScript.

    Returns:
        The fields of the export's notes that the file itself does not tell.

    Raises:
        MissingToolError: torch is not installed.
        ConfigError: The factory is missing or makes no module.
        BuildError: Neither exporter gives a file whose outputs are torch's.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingToolError(f"this recipe needs torch: {error}", hint=MISSING) from error
    from edgekit.toolchain.export_worker import versions

    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    model = _make(job, torch)
    sizes = example_sizes([spec["shape"] for spec in job["inputs"]])
    examples = tuple(_example(spec, sizes, torch) for spec in job["inputs"])
    failures = []
    for exporter, label in ((_dynamo, "torch"), (_script, "torch (TorchScript)")):
        try:
            exporter(model, examples, job, out)
            difference = _difference(model, examples, job, out)
        except Exception as failure:  # noqa: BLE001 - exporters raise whatever their passes raise
            failures.append(f"{exporter.__name__[1:]}: {_first_line(failure)}")
            continue
        if difference <= TOLERANCE:
            return {
                "exporter": "torch-dynamo" if exporter is _dynamo else "torchscript",
                "label": label,
                "max_error": difference,
                "fallback": "; ".join(failures),
                "tools": versions("torch", "onnx", "onnxscript"),
            }
        failures.append(f"{exporter.__name__[1:]}: outputs differ from torch's by {difference:.1e}")
    raise BuildError(f"torch cannot export the model: {'; '.join(failures)}")


def example_sizes(shapes: Sequence[Sequence[int | str]]) -> dict[str, int]:
    """Choose a size for every dynamic dimension.

    Sizes differ from each other, as the exporter takes equal ones for one dimension.
    """
    sizes: dict[str, int] = {}
    for shape in shapes:
        for dim in shape:
            if isinstance(dim, str) and dim not in sizes:
                extents = sum(name not in _BATCH_NAMES for name in sizes)
                sizes[dim] = _BATCH if dim in _BATCH_NAMES else _EXTENT + _EXTENT_STEP * extents
    return sizes


def _make(job: Mapping[str, Any], torch: Any) -> Any:  # noqa: ANN401 - torch is untyped here
    # After the import of torch, so that no file of the recipe's can stand in for a part of it.
    sys.path[:0] = job["paths"]
    where = f"{job['module']}:{job['factory']}"
    try:
        factory = getattr(importlib.import_module(job["module"]), job["factory"])
        model = factory()
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{where} cannot be imported: {error}",
            hint="put its .py file beside the recipe, or add the wheel that holds it to "
            "[[source.packages]]",
        ) from error
    except AttributeError as error:
        raise ConfigError(f"{where}: {error}", hint="is the factory's name right?") from error
    except Exception as error:
        raise BuildError(f"{where} failed: {_first_line(error)}") from error
    if not isinstance(model, torch.nn.Module):
        raise ConfigError(f"{where} made a {type(model).__name__}, expected a torch.nn.Module")
    return model.eval().requires_grad_(requires_grad=False)


def _example(spec: Mapping[str, Any], sizes: Mapping[str, int], torch: Any) -> Any:  # noqa: ANN401
    shape = [dim if isinstance(dim, int) else sizes[dim] for dim in spec["shape"]]
    dtype = getattr(torch, spec["dtype"], None)
    if not isinstance(dtype, torch.dtype):
        raise ConfigError(f'input "{spec["name"]}": torch has no type {spec["dtype"]}')
    # Ones are valid where numbers are indices or masks.
    make = torch.rand if dtype.is_floating_point else torch.ones
    return make(shape, dtype=dtype)


def _dynamo(model: Any, examples: tuple[Any, ...], job: Mapping[str, Any], out: Path) -> None:  # noqa: ANN401
    import torch

    dims: dict[str, Any] = {}
    shapes = []
    for spec in job["inputs"]:
        axes = {}
        for axis, dim in enumerate(spec["shape"]):
            if isinstance(dim, str):
                axes[axis] = dims.setdefault(dim, torch.export.Dim(dim))
        shapes.append(axes)
    program = torch.onnx.export(
        model,
        examples,
        dynamo=True,
        optimize=True,
        opset_version=max(DYNAMO_OPSET, job["opset"]),
        input_names=[spec["name"] for spec in job["inputs"]],
        output_names=job["outputs"] or None,
        dynamic_shapes=tuple(shapes) if dims else None,
        external_data=False,
        verbose=False,
    )
    program.save(str(out))


def _script(model: Any, examples: tuple[Any, ...], job: Mapping[str, Any], out: Path) -> None:  # noqa: ANN401
    import torch

    axes = {
        spec["name"]: {i: dim for i, dim in enumerate(spec["shape"]) if isinstance(dim, str)}
        for spec in job["inputs"]
    }
    torch.onnx.export(
        model,
        examples,
        str(out),
        dynamo=False,
        opset_version=min(SCRIPT_OPSET, job["opset"]),
        input_names=[spec["name"] for spec in job["inputs"]],
        output_names=job["outputs"] or None,
        dynamic_axes={name: named for name, named in axes.items() if named} or None,
        do_constant_folding=True,
    )


def _difference(model: Any, examples: tuple[Any, ...], job: Mapping[str, Any], out: Path) -> float:  # noqa: ANN401
    """Run the file and the module on one input; return their largest relative difference."""
    import numpy as np
    import torch

    from edgekit.runtime.session import open_session, runner

    with torch.no_grad():
        expected = model(*examples)
    outputs = list(expected.values()) if isinstance(expected, dict) else expected
    outputs = list(outputs) if isinstance(outputs, list | tuple) else [outputs]
    names = [spec["name"] for spec in job["inputs"]]
    session = open_session(out)
    given = {i.name for i in session.get_inputs()}
    feeds = {n: e.numpy() for n, e in zip(names, examples, strict=True) if n in given}
    worst = 0.0
    for reference, result in zip(outputs, runner(session)(feeds).values(), strict=True):
        wanted = reference.numpy().astype(np.float64)
        if wanted.shape != result.shape:
            raise BuildError(f"an output has shape {result.shape}, torch gives {wanted.shape}")
        if wanted.size:
            scale = max(float(np.abs(wanted).max()), 1e-6)
            difference = float(np.abs(result.astype(np.float64) - wanted).max()) / scale
            worst = max(worst, difference) if difference == difference else float("inf")  # noqa: PLR0124 - NaN
    return worst


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:200]}" if text else type(error).__name__
