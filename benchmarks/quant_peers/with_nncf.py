"""NNCF's post-training quantization of ONNX models."""

from __future__ import annotations

from harness import Job, raised_opset, run

IMPORTS = ["nncf", "nncf.onnx", "onnx.version_converter", "onnxruntime"]


def work(job: Job) -> None:
    import nncf
    import onnx

    source = job.source
    if job.variant == "opset17":
        if not raised_opset(source, job.work / "opset.onnx"):
            raise ValueError("the model's opset is new enough")
        source = job.work / "opset.onnx"
    count = len(job.sample_files())
    model_type = nncf.ModelType.TRANSFORMER if job.transformer else None
    job.settings["call"] = f"nncf.quantize(preset=MIXED, subset_size={count}" + (
        ", model_type=TRANSFORMER)" if job.transformer else ")"
    )
    if job.variant == "opset17":
        job.settings["opset"] = "raised to 17 by onnx.version_converter"
    quantized = nncf.quantize(
        onnx.load(source),
        nncf.Dataset(list(job.samples())),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=count,
        model_type=model_type,
    )
    onnx.save(quantized, job.out)


if __name__ == "__main__":
    run(IMPORTS, work, ["nncf", "onnxruntime", "onnx", "numpy", "torch"])
