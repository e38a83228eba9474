"""Calibrators side by side: CPU time and memory of edgekit's and of onnxruntime's three.

    python benchmarks/calibration.py                     # writes docs/benchmarks/calibration.json
    python benchmarks/calibration.py yolo11n --samples 16,64

All calibrate the same tensors of the same graph (edgekit's canonical one) on the same samples, each
in a process of its own and with one thread. Samples are read from disk one by one. What is counted
starts after the imports: the model, its session, all passes, and the choice of the ranges.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from quant_peers.harness import cpu_s, peak_mib, status_mib
from quant_peers.inputs import own_models, workbench

from edgekit.runtime.host import host_kind

ROOT = Path(__file__).resolve().parents[1]
MODELS = ("efficientnet-lite0", "yolo11n", "nudenet-320n")
SAMPLES = (16, 64, 256)
METHODS = ("edgekit", "MinMax", "Percentile", "Entropy")
OPS = ["Conv", "MatMul", "Gemm", "Clip", "Relu"]
VIEWS = 4
SPARE_BYTES = 2 << 30  # of free memory, left to others
TIMEOUT_S = 3600.0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--samples", type=counts, default=SAMPLES, help="16,64,256")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        method, model, samples, folder = options.child
        print(json.dumps(calibrate(method, Path(model), int(samples), Path(folder))))
        return 0
    models = [measure(name, options.samples) for name in options.models]
    document = {
        "schema": "edgekit.bench.calibration/1",
        "where": f"{host_kind()} host, {os.cpu_count()} cores, measured here, one thread each",
        "counted": "CPU seconds and peak resident memory from after the imports to the ranges",
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("edgekit", "onnx", "onnxruntime", "numpy")
        },
        "models": models,
    }
    show(models)
    default = tuple(options.models) == MODELS and tuple(options.samples) == SAMPLES
    out = options.out or (ROOT / "docs" / "benchmarks" / "calibration.json" if default else None)
    if out is not None:
        out.write_text(json.dumps(document, indent=1) + "\n")
        print(f"wrote {out}", file=sys.stderr)
    return 0


def counts(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def measure(name: str, samples: Sequence[int]) -> dict[str, Any]:
    """Let every calibrator run on a model with every number of samples."""
    bench = workbench(name, own_models()[name])
    with tempfile.TemporaryDirectory(prefix="edgekit-bench-") as temporary:
        folder = Path(temporary)
        model = folder / "model.onnx"
        bench.canonical.graph.save(model)
        write_samples(bench.feeds, max(samples), folder)
        rows = []
        for method in METHODS:
            for count in samples:
                rows.append(in_process(method, model, count, folder))
                print(f"  {name} {line(rows[-1])}", file=sys.stderr, flush=True)
        return {"model": name, "size_bytes": model.stat().st_size, "rows": rows}


def write_samples(feeds: Sequence[dict[str, Any]], count: int, folder: Path) -> None:
    """Write that many distinct samples: the recipe's own, mirrored, and windows of them."""
    import numpy as np

    for index in range(count):
        turn, which = divmod(index, len(feeds))
        if turn >= VIEWS:
            raise SystemExit(f"{len(feeds)} feeds in {VIEWS} views are not {count} samples")
        np.savez(
            folder / f"{index:04}.npz",
            **{name: view(value, turn) for name, value in feeds[which].items()},
        )


def view(images: Any, turn: int) -> Any:  # noqa: ANN401 - a numpy array
    """Return a picture (N, C, H, W): as it is, mirrored, or three quarters of it, enlarged."""
    import numpy as np

    if turn == 0:
        return images
    if turn == 1:
        return np.ascontiguousarray(images[..., ::-1])
    height, width = images.shape[-2:]
    rows, columns = (np.arange(size) * 3 // 4 for size in (height, width))
    if turn == 3:  # noqa: PLR2004 - the opposite corner
        rows, columns = rows + height // 4, columns + width // 4
    return np.ascontiguousarray(images[..., rows[:, None], columns[None, :]])


def in_process(method: str, model: Path, count: int, folder: Path) -> dict[str, Any]:
    """Run one calibrator in a process of its own."""
    command = [sys.executable, __file__, "--child", method, str(model), str(count), str(folder)]
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1", "TMPDIR": str(folder)}
    limit = free_bytes() - SPARE_BYTES
    row: dict[str, Any] = {"method": method, "samples": count}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env={**environment, "EDGEKIT_BENCH_LIMIT": str(limit)},
            check=False,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return row | {"error": f"over {TIMEOUT_S:.0f} s"}
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1][:200]
        return row | {"error": f"exit {done.returncode} within {limit / 2**30:.0f} GiB: {said}"}
    return row | json.loads(done.stdout.splitlines()[-1])


def free_bytes() -> int:
    for text in Path("/proc/meminfo").read_text().splitlines():
        if text.startswith("MemAvailable:"):
            return int(text.split()[1]) * 1024
    raise SystemExit("no MemAvailable in /proc/meminfo: this needs Linux")


def calibrate(method: str, model: Path, count: int, folder: Path) -> dict[str, Any]:
    """Calibrate in this process and say what it took."""
    limit = int(os.environ["EDGEKIT_BENCH_LIMIT"])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    import onnx  # noqa: F401 - part of the base
    import onnxruntime
    import onnxruntime.quantization.calibrate  # noqa: F401

    import edgekit.toolchain.quantize.static  # noqa: F401

    files = sorted(folder.glob("*.npz"))[:count]
    base, imported = status_mib("VmRSS"), cpu_s()
    began = time.perf_counter()
    tensors = with_edgekit(model, files) if method == "edgekit" else with_ort(method, model, files)
    return {
        "cpu_s": round(cpu_s() - imported, 2),
        "wall_s": round(time.perf_counter() - began, 2),
        "base_mib": base,
        "peak_mib": peak_mib(),
        "over_base_mib": round(peak_mib() - base, 1),
        "tensors": tensors,
    }


class Samples(Sequence[dict[str, Any]]):
    """The samples on disk; one is alive at a time."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401 - int or slice
        import numpy as np

        with np.load(self._files[index]) as arrays:
            return {name: arrays[name] for name in arrays.files}


class Reader:
    """The samples as onnxruntime's calibrators want them."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._samples: Iterator[dict[str, Any]] = iter(Samples(files))

    def get_next(self) -> dict[str, Any] | None:
        """Return the next sample, or None."""
        return next(self._samples, None)


def with_edgekit(model: Path, files: Sequence[Path]) -> int:
    from edgekit.toolchain.graph import Graph
    from edgekit.toolchain.quantize.calibrate import choose_range, collect
    from edgekit.toolchain.quantize.static import RULES

    graph = Graph.load(model)
    stats = collect(graph, tensors_of(model), Samples(files))
    # The rules that a build tries before it takes the best one.
    for rule in RULES:
        for found in stats.values():
            choose_range(found, rule)
    return len(stats)


def tensors_of(model: Path) -> list[str]:
    """Return the tensors that onnxruntime's calibrators take, so that all take the same."""
    from onnxruntime.quantization.calibrate import CalibraterBase

    calibrator = CalibraterBase(str(model), OPS)
    return sorted(calibrator.select_tensors_to_calibrate(calibrator.model)[0])


def with_ort(method: str, model: Path, files: Sequence[Path]) -> int:
    import onnxruntime
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    # As quantize_static does where no extra option is given.
    calibrator = create_calibrator(
        str(model),
        OPS,
        augmented_model_path=f"{model}.{method}.onnx",
        calibrate_method=CalibrationMethod[method],
    )
    # As create_inference_session does, with one thread as edgekit's sessions have.
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    calibrator.infer_session = onnxruntime.InferenceSession(
        calibrator.augmented_model_path, options, providers=["CPUExecutionProvider"]
    )
    calibrator.collect_data(Reader(files))
    return len(calibrator.compute_data().data)


def show(models: Sequence[dict[str, Any]]) -> None:
    """Print the table, and each calibrator against edgekit's."""
    for model in models:
        print(f"\n{model['model']} ({model['size_bytes'] / 2**20:.1f} MiB of float32)")
        rows = {(row["method"], row["samples"]): row for row in model["rows"]}
        for row in model["rows"]:
            print(f"  {line(row)}")
        counts_here = sorted({samples for _, samples in rows})
        for method in METHODS:
            first, last = rows[method, counts_here[0]], rows[method, counts_here[-1]]
            pairs = [(row, rows["edgekit", row["samples"]]) for row in (first, last)]
            if any("error" in row for pair in pairs for row in pair):
                continue
            growth = last["over_base_mib"] - first["over_base_mib"]
            text = (
                f"  {method}: {growth:+.0f} MiB from {counts_here[0]} to {counts_here[-1]} samples"
            )
            if method != "edgekit":
                cpu = statistics.fmean(row["cpu_s"] / own["cpu_s"] for row, own in pairs)
                memory = [row["over_base_mib"] / own["over_base_mib"] for row, own in pairs]
                text += (
                    f"; {cpu:.1f} × edgekit's CPU, {memory[0]:.1f} … {memory[1]:.1f} × its memory"
                )
            print(text)


def line(row: dict[str, Any]) -> str:
    head = f"{row['method']:<11}{row['samples']:>4} samples"
    if "error" in row:
        return f"{head}  {row['error']}"
    return (
        f"{head}  {row['cpu_s']:7.1f} CPU s  {row['over_base_mib']:8.0f} MiB over "
        f"{row['base_mib']:.0f}  {row['tensors']} tensors"
    )


if __name__ == "__main__":
    sys.exit(main())
