"""Olive's workflow of ONNX passes, run from Python."""

from __future__ import annotations

import logging
from typing import Any

from harness import Job, first_line, run

IMPORTS = [
    "olive",
    "olive.data.config",
    "olive.passes.onnx.quantization",
    "onnxruntime.quantization",
    "torch.utils.data",
]


def work(job: Job) -> None:
    import onnx
    from olive import run as run_workflow

    passes = {**opset_pass(job), "quantize": quantize_pass(job)}
    job.settings["passes"] = {
        p["type"]: {k: v for k, v in p.items() if k not in ("type", "data_config")}
        for p in passes.values()
    }
    heard = Heard()
    logging.getLogger("olive").addHandler(heard)
    output = run_workflow(
        {
            "input_model": {"type": "ONNXModel", "model_path": str(job.source)},
            "systems": {
                "here": {
                    "type": "LocalSystem",
                    "accelerators": [
                        {"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}
                    ],
                }
            },
            "data_configs": [feeds_config(job)],
            "passes": passes,
            "host": "here",
            "target": "here",
            "cache_dir": str(job.work / "cache"),
            "output_dir": str(job.work / "out"),
        }
    )
    best = output.get_best_candidate() if output is not None else None
    if best is None:
        raise RuntimeError(f"the workflow gave no model: {heard.said}")
    onnx.save(onnx.load(best.model_path), job.out)


class Heard(logging.Handler):
    """Keeps the last error that Olive logs: a failed pass ends its workflow without raising."""

    said = "no message"

    def emit(self, record: logging.LogRecord) -> None:
        """Keep an error's cause."""
        if record.exc_info and record.exc_info[1]:
            error = record.exc_info[1].__cause__ or record.exc_info[1]
            self.said = f"{type(error).__name__}: {first_line(error)}"


def opset_pass(job: Job) -> dict[str, Any]:
    import onnx

    model = onnx.load(job.source, load_external_data=False)
    version = max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if job.variant == "dynamic" or version >= 13:  # noqa: PLR2004 - per-channel needs 13
        return {}
    return {"opset": {"type": "OnnxOpVersionConversion", "target_opset": 17}}


def quantize_pass(job: Job) -> dict[str, Any]:
    common = {"precision": "int8", "per_channel": True}
    if job.variant == "dynamic":
        return {"type": "OnnxDynamicQuantization", **common}
    return {
        "type": "OnnxStaticQuantization",
        **common,
        "activation_type": "uint8",
        "calibrate_method": {"minmax": "MinMax", "percentile": "Percentile"}[job.variant],
        "data_config": "feeds",
    }


def feeds_config(job: Job) -> dict[str, Any]:
    from olive.data.registry import Registry
    from torch.utils.data import Dataset

    class Samples(Dataset):  # type: ignore[type-arg, misc]
        def __len__(self) -> int:
            return len(job.sample_files())

        def __getitem__(self, index: int) -> tuple[dict[str, Any], int]:
            import numpy as np

            with np.load(job.sample_files()[index]) as arrays:
                return {name: arrays[name] for name in arrays.files}, 0

    @Registry.register_dataset("benchmark_feeds")
    def benchmark_feeds() -> Samples:
        return Samples()

    # The samples have their batch axis already.
    return {
        "name": "feeds",
        "load_dataset_config": {"type": "benchmark_feeds"},
        "pre_process_data_config": {"type": "skip_pre_process"},
        "post_process_data_config": {"type": "skip_post_process"},
        "dataloader_config": {"type": "no_auto_batch_dataloader"},
    }


if __name__ == "__main__":
    run(IMPORTS, work, ["olive-ai", "onnxruntime", "onnx", "numpy", "torch", "transformers"])
