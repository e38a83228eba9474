"""Run in a process of its own, in edgekit's environment: build, predict, or time one graph.

A graph that ends its process ends this one, and becomes a row of the table.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from quant_peers.harness import cpu_s, peak_mib, status_mib  # noqa: E402
from quant_peers.inputs import open_plain, workbench, wrapped  # noqa: E402

MIN_PAIRS, MAX_PAIRS, WARM_UP = 15, 2000, 3


def main() -> None:
    action, job, result = sys.argv[1], json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3])
    document = {"build": build, "predict": predict, "time": time_pair}[action](job)
    result.write_text(json.dumps(document))


def build(job: dict[str, Any]) -> dict[str, Any]:
    """Build with edgekit as `edgekit build` does, and take the model out of the bundle."""
    import numpy as np  # noqa: F401 - part of the base
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401

    from edgekit.toolchain import api
    from edgekit.wire.bundle import MODEL_NAME, open_bundle

    base, imported = status_mib("VmRSS"), cpu_s()
    stages: list[list[Any]] = []

    def on_event(event: Any) -> None:  # noqa: ANN401 - edgekit's Event
        if getattr(event, "seconds", None):
            stages.append([event.stage, round(event.seconds, 2)])

    began = time.perf_counter()
    (outcome,) = api.build(
        [job["name"]],
        target=job["target"],
        project=Path(job["project"]),
        dist=Path(job["dist"]),
        on_event=on_event,
    ).outcomes
    document = {
        "base_mib": base,
        "import_cpu_s": round(imported, 2),
        "cpu_s": round(cpu_s() - imported, 2),
        "wall_s": round(time.perf_counter() - began, 2),
        "peak_mib": peak_mib(),
        "stages": stages,
        "status": outcome.status,
        "error": None if outcome.error is None else outcome.error["message"].splitlines()[0],
        "summary": outcome.summary,
    }
    if outcome.path is not None:
        with open_bundle(Path(outcome.path), None) as bundle:
            Path(job["out"]).write_bytes(bundle.read(MODEL_NAME))
    return document


def opened(job: dict[str, Any]) -> Callable[[Any], Any]:
    """Open the graph as its maker's users do."""
    if job["edgekit"]:
        from edgekit.runtime.session import open_session

        return wrapped(open_session(Path(job["graph"]), threads=1), job["fixed"])
    return open_plain(Path(job["graph"]), job["fixed"])


def predict(job: dict[str, Any]) -> dict[str, Any]:
    """Return the predictions on the evaluation set."""
    from edgekit.toolchain.verify import predict_all

    bench = workbench(job["name"], job["project"] and Path(job["project"]))
    try:
        run = opened(job)
    except Exception as error:  # noqa: BLE001 - whatever it is, the model does not load
        return {"status": "does not load", "error": said(error)}
    try:
        found = predict_all(bench.task, run, bench.evaluation_set, lambda _done: None)
    except Exception as error:  # noqa: BLE001 - whatever it is, the model does not run
        return {"status": "does not run", "error": said(error)}
    return {"status": "ok", "predictions": found}


def said(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}".strip()
    return text.splitlines()[0][:300]


def time_pair(job: dict[str, Any]) -> dict[str, Any]:
    """Time the published model and a graph in turns, by the CPU time of the one thread.

    As edgekit.toolchain.timing.time_pair does, which opens both alike: here each is opened as it
    ships. The thread's CPU time leaves out what other processes take.
    """
    import numpy as np

    plain = {**job, "graph": job["published"], "edgekit": False}
    runs = [opened(plain), opened(job)]
    feeds = []
    for path in sorted(Path(job["feeds"]).glob("*.npz"))[:16]:
        with np.load(path) as arrays:
            feeds.append({name: arrays[name] for name in arrays.files})
    for run in runs:
        for feed in feeds[:WARM_UP]:
            run(feed)
    pairs: list[tuple[int, int]] = []
    began = time.perf_counter()
    while len(pairs) < MIN_PAIRS or (
        len(pairs) < MAX_PAIRS and time.perf_counter() - began < job["seconds"]
    ):
        feed = feeds[len(pairs) % len(feeds)]
        spans = [0, 0]
        # Alternate who goes first: the second finds the caches warm.
        for which in (0, 1) if len(pairs) % 2 else (1, 0):
            start = time.thread_time_ns()
            runs[which](feed)
            spans[which] = time.thread_time_ns() - start
        pairs.append((spans[0], spans[1]))
    return {
        "fp32_ms": statistics.median(a for a, _ in pairs) / 1e6,
        "ms": statistics.median(b for _, b in pairs) / 1e6,
        "ratio": statistics.median(b / a for a, b in pairs),
        "pairs": len(pairs),
    }


if __name__ == "__main__":
    main()
