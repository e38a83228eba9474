"""Predictions through the agent's engine against a bare onnxruntime loop.

Models of 5 ms and more, on their own golden samples, in alternating pairs: the engine on one side,
``session.run`` in a plain loop on the other, both with the task's own pre- and post-processing, the
same session and the bundle's threads. Writes docs/benchmarks/agent_pipeline.json.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent_load import bundles

from edgekit.agent.engine import Engine, info_of
from edgekit.runtime.golden import from_members
from edgekit.runtime.host import host_kind
from edgekit.runtime.pipeline import MODEL_MEMBER, Pipeline
from edgekit.runtime.session import open_session, runner
from edgekit.runtime.tasks import create_task
from edgekit.wire.bundle import open_bundle

ROOT = Path(__file__).resolve().parents[1]
MODELS = ("efficientnet-lite0", "ppocr-v4-rec", "ppocr-v4-det")
GOAL = 1.03


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--bundles", type=Path, help="folder of built bundles instead of building")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs" / "benchmarks" / "agent_pipeline.json"
    )
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="edgekit-bench-") as folder:
        for model in arguments.models:
            if arguments.bundles:
                (path,) = arguments.bundles.glob(f"{model}-*.ekb")
            else:
                path = bundles.bundle(model, Path(folder))
            rows.append(measure(model, path, arguments.pairs))
            print(json.dumps(rows[-1]), file=sys.stderr)
    document = {
        "schema": "edgekit.bench.agent_pipeline/1",
        "where": f"{host_kind()} host, {os.cpu_count()} cores, measured here",
        "versions": {
            name: importlib.metadata.version(name) for name in ("edgekit", "onnxruntime", "numpy")
        },
        "load_average": round(os.getloadavg()[0], 2),
        "goal": GOAL,
        "models": rows,
    }
    arguments.out.write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(document, indent=2))
    return 0


def measure(model: str, path: Path, pairs: int) -> dict[str, Any]:
    with open_bundle(path, None) as opened:
        manifest = opened.manifest
        files = {name: opened.read(place) for name, place in manifest.pipeline.files.items()}
        task = create_task(manifest.pipeline.task, manifest.pipeline.options, files)
        # One session for both: two would differ by where their memory lies.
        session = open_session(opened.read(MODEL_MEMBER), threads=manifest.session.threads)
        samples = [
            from_members(index, list(manifest.members), opened.read)[0]
            for index in range(manifest.golden.count)
        ]
    names = [output.name for output in session.get_outputs()]

    def bare_run(feeds: Any) -> Any:  # noqa: ANN401
        return dict(zip(names, session.run(names, feeds), strict=True))

    def bare(data: bytes) -> Any:  # noqa: ANN401
        return task.predict(bare_run, data)

    engine = Engine()
    engine.serve(info_of(manifest), Pipeline(task, runner(session)))

    def through(data: bytes) -> Any:  # noqa: ANN401
        return engine.predict(manifest.model, data)

    for data in samples[:4]:
        assert bare(data) == through(data)  # noqa: S101
    found: dict[str, list[float]] = {"bare": [], "engine": []}
    contenders: list[tuple[str, Callable[[bytes], Any]]] = [("bare", bare), ("engine", through)]
    for index in range(pairs):
        data = samples[index % len(samples)]
        # Each goes first every other time.
        for name, predict in contenders if index % 2 else reversed(contenders):
            start = time.perf_counter()
            predict(data)
            found[name].append((time.perf_counter() - start) * 1e3)
    engine.close()
    bare_ms, engine_ms = (statistics.median(found[name]) for name in ("bare", "engine"))
    by_pair = [b / a for a, b in zip(found["bare"], found["engine"], strict=True)]
    return {
        "model": model,
        "threads": manifest.session.threads,
        "pairs": pairs,
        "bare_p50_ms": round(bare_ms, 3),
        "engine_p50_ms": round(engine_ms, 3),
        "ratio_of_p50": round(engine_ms / bare_ms, 4),
        "median_of_pair_ratios": round(statistics.median(by_pair), 4),
        "difference_of_p50_us": round((engine_ms - bare_ms) * 1e3),
    }


if __name__ == "__main__":
    sys.exit(main())
