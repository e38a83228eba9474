"""The worker's part for ``hf:``. Imported in the worker's process alone."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.wire.errors import BuildError, ConfigError, MissingToolError

# The set that resolves together; optimum 2.3 or transformers 5 beside optimum-onnx does not.
PINS = (
    'pip install "optimum==2.1.0" "optimum-onnx[onnxruntime]==0.1.0" "transformers==4.57.6"'
    ' "huggingface_hub<1"'
)
TORCH = 'pip install "edgekit[hf]"'


def export_hf(job: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Export a local checkpoint through optimum's exporter, without the network.

    Returns:
        The fields of the export's notes that the file itself does not tell.

    Raises:
        MissingToolError: torch, optimum or transformers is missing, or their versions clash.
        ConfigError: The exporter does not know the task or the architecture.
        BuildError: It failed, or gave several files.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingToolError(f"this recipe needs torch: {error}", hint=TORCH) from error
    try:
        from optimum.exporters.onnx import main_export
    except ImportError as error:
        raise MissingToolError(
            f"optimum's ONNX exporter does not load: {str(error).splitlines()[0]}", hint=PINS
        ) from error
    from edgekit.toolchain.export_worker import versions

    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory(dir=out.parent) as name:
        folder = Path(name)
        try:
            main_export(
                job["folder"],
                output=folder,
                task=job["task"],
                opset=job["opset"],
                device="cpu",
                dtype="fp32",
                framework="pt",
                library_name="transformers",
                local_files_only=True,
                trust_remote_code=False,
                monolith=True,
                do_validation=True,
            )
        except (KeyError, ValueError) as error:
            raise ConfigError(
                f"optimum cannot export this checkpoint as {job['task']}: {_first_line(error)}",
                hint="another export_task, or another architecture",
            ) from error
        except Exception as error:
            raise BuildError(f"optimum failed: {_first_line(error)}") from error
        files = sorted(folder.glob("*.onnx"))
        if len(files) != 1:
            raise BuildError(f"optimum left {len(files)} .onnx files, expected one")
        _take(files[0], out)
    return {
        "exporter": "optimum",
        "label": "checkpoint",
        "max_error": None,
        "fallback": "",
        "tools": versions("torch", "onnx", "optimum", "optimum-onnx", "transformers"),
    }


def _take(file: Path, out: Path) -> None:
    """Move a model into place, with its weights inside; they may lie in a file beside it."""
    from edgekit.toolchain.graph import Graph

    Graph.load(file).save(out)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:300]}" if text else type(error).__name__
