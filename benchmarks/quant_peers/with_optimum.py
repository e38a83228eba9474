"""Optimum's ORTQuantizer with its configuration for AVX512-VNNI."""

from __future__ import annotations

from harness import Job, Reader, run

IMPORTS = [
    "onnxruntime.quantization",
    "optimum.onnxruntime",
    "optimum.onnxruntime.configuration",
]


def work(job: Job) -> None:
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    static = job.variant == "static"
    config = AutoQuantizationConfig.avx512_vnni(is_static=static, per_channel=True)
    job.settings["call"] = f"ORTQuantizer.quantize(avx512_vnni(is_static={static}, per_channel))"
    quantizer = ORTQuantizer.from_pretrained(job.source.parent, file_name=job.source.name)
    ranges = calibrated(job, config.operators_to_quantize) if static else None
    quantizer.quantize(
        config, save_dir=job.work / "out", file_suffix=None, calibration_tensors_range=ranges
    )
    (job.work / "out" / job.source.name).replace(job.out)


def calibrated(job: Job, operators: list[str]) -> dict[str, tuple[float, float]]:
    """Return ranges as ORTQuantizer.fit does, which reads Hugging Face's data sets alone."""
    from onnxruntime.quantization import CalibrationMethod
    from optimum.onnxruntime.configuration import CalibrationConfig

    config = CalibrationConfig(
        dataset_name="feeds",
        dataset_config_name="",
        dataset_split="",
        dataset_num_samples=len(job.sample_files()),
        method=CalibrationMethod.MinMax,
    )
    job.settings["calibration"] = "MinMax, as AutoCalibrationConfig.minmax has it"
    calibrator = config.create_calibrator(
        onnx_model_path=str(job.source),
        operators_to_quantize=operators,
        augmented_model_name=str(job.work / "augmented.onnx"),
    )
    calibrator.collect_data(Reader(job))
    ranges: dict[str, tuple[float, float]] = calibrator.compute_data()
    return ranges


if __name__ == "__main__":
    run(
        IMPORTS,
        work,
        ["optimum", "optimum-onnx", "onnxruntime", "onnx", "numpy", "torch", "transformers"],
    )
