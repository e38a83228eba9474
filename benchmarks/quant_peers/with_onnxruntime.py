"""onnxruntime's own quantizers: the defaults, and what its documentation recommends."""

from __future__ import annotations

from pathlib import Path

from harness import Job, Reader, first_line, raised_opset, run

STATIC_OPS = ["Conv", "MatMul", "Gemm", "Clip", "Relu"]


IMPORTS = [
    "onnx.version_converter",
    "onnxruntime.quantization",
    "onnxruntime.quantization.shape_inference",
]


def work(job: Job) -> None:
    from onnxruntime.quantization import quantize_static

    if job.variant == "default":
        job.settings["call"] = "quantize_static(source, out, reader)"
        quantize_static(str(job.source), str(job.out), Reader(job))
        return
    ready = prepared(job)
    if job.variant.startswith("dynamic"):
        dynamic(job, ready)
    else:
        static(job, ready)


def static(job: Job, ready: Path) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

    method = {"minmax": "MinMax", "percentile": "Percentile"}[job.variant]
    job.settings["call"] = (
        f"quantize_static(per_channel, u8 activations, s8 weights, "
        f"{'/'.join(STATIC_OPS)}, {method})"
    )
    # By default Percentile makes its ranges symmetric, which wastes half of u8 behind a Relu.
    extra = {"CalibTensorRangeSymmetric": False} if method == "Percentile" else {}
    job.settings["extra_options"] = extra
    quantize_static(
        str(ready),
        str(job.out),
        Reader(job),
        op_types_to_quantize=STATIC_OPS,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[method],
        extra_options=extra,
    )


def dynamic(job: Job, ready: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    ops = ["MatMul", "Gemm"] if job.variant == "dynamic-matmul" else None
    job.settings["call"] = f"quantize_dynamic(per_channel, s8 weights, {ops or 'all operators'})"
    quantize_dynamic(
        str(ready),
        str(job.out),
        op_types_to_quantize=ops,
        per_channel=True,
        weight_type=QuantType.QInt8,
    )


def prepared(job: Job) -> Path:
    """Return the model after quant_pre_process, with as much of it as the model takes."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    source = job.source
    if raised_opset(source, job.work / "opset.onnx"):
        source = job.work / "opset.onnx"
        job.settings["opset"] = "raised to 17 by onnx.version_converter"
    ready = job.work / "ready.onnx"
    for skip in ({}, {"skip_symbolic_shape": True}):
        try:
            quant_pre_process(str(source), str(ready), **skip)
        except Exception as error:  # noqa: BLE001 - it has many ways to fail
            job.settings["quant_pre_process"] = f"failed: {first_line(error)}"
        else:
            job.settings["quant_pre_process"] = "skip_symbolic_shape" if skip else "default"
            return ready
    return source


if __name__ == "__main__":
    run(IMPORTS, work, ["onnxruntime", "onnx", "numpy"])
