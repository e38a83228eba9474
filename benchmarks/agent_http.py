"""HTTP of the agent against FastAPI + onnxruntime: throughput, memory, 10,000 fuzzed requests.

The same small model (handwritten digits) behind both, the same load from the same client, in
alternating rounds. The peer is what people write: a pydantic request with nested lists, in three
forms: a plain function (FastAPI runs it in a thread pool), an async one, and an async one with
onnxruntime on one thread, which is its best. It runs in an environment of its own in the user's
cache. Writes docs/benchmarks/agent_http.json.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import json
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from agent_load import bundles, client, fuzz
from PIL import Image

from edgekit.runtime.host import host_kind
from edgekit.wire.bundle import open_bundle

ROOT = Path(__file__).resolve().parents[1]
HERE = Path(__file__).resolve().parent / "agent_load"
PEERS = {
    "fastapi def": {"PEER_KIND": "def"},
    "fastapi async": {"PEER_KIND": "async"},
    "fastapi async, 1 thread": {"PEER_KIND": "async", "PEER_THREADS": "1"},
}
IDLE_S = 10.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--fuzzed", type=int, default=10_000)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs" / "benchmarks" / "agent_http.json"
    )
    arguments = parser.parse_args()
    peer_python = bundles.fastapi_python()
    with tempfile.TemporaryDirectory(prefix="edgekit-bench-") as folder:
        bundle = bundles.bundle("digits-cnn", Path(folder))
        model = Path(folder) / "model.onnx"
        with open_bundle(bundle, None) as opened:
            model.write_bytes(opened.read("model.onnx"))
        throughput = measure_throughput(bundle, model, peer_python, arguments)
        memory = measure_memory(bundle, model)
        fuzzed = measure_fuzzed(bundle, arguments.fuzzed)
    document = {
        "schema": "edgekit.bench.agent_http/1",
        "where": f"{host_kind()} host, {os.cpu_count()} cores, measured here",
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("edgekit", "onnxruntime", "numpy", "uvicorn", "h11")
        },
        "peer_versions": bundles.versions_of(
            peer_python, "fastapi", "pydantic", "uvicorn", "h11", "onnxruntime", "numpy"
        ),
        "load_average": round(os.getloadavg()[0], 2),
        "connections": arguments.connections,
        "throughput": throughput,
        "memory": memory,
        "fuzzed": fuzzed,
    }
    arguments.out.write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(document, indent=2))
    return 0


def measure_throughput(
    bundle: Path, model: Path, peer_python: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Alternate all contenders, round by round."""
    values = np.random.default_rng(1).random((1, 1, 8, 8), dtype=np.float32)
    requests = {
        "edgekit JSON": ours(values, binary=False),
        "edgekit binary": ours(values, binary=True),
        **dict.fromkeys(PEERS, theirs(values)),
    }
    with contextlib.ExitStack() as stack:
        mine = stack.enter_context(our_server(bundle))
        servers = {"edgekit JSON": mine, "edgekit binary": mine}
        for name, settings in PEERS.items():
            servers[name] = stack.enter_context(peer_server(peer_python, model, settings))
        loads: dict[str, list[client.Load]] = {name: [] for name in requests}
        for number in range(arguments.rounds + 1):
            for name, request in requests.items():
                port, pid = servers[name]
                load = client.drive(
                    port,
                    pid,
                    request,
                    connections=arguments.connections,
                    seconds=arguments.seconds if number else 1.0,
                )
                if number:  # the first warms up
                    loads[name].append(load)
    rows = {name: row(found) for name, found in loads.items()}
    ratios = {
        f"{mine} over {peer}": paired(loads[mine], loads[peer])
        for mine in ("edgekit JSON", "edgekit binary")
        for peer in PEERS
    }
    return {"contenders": rows, "ratios": ratios}


def row(loads: list[client.Load]) -> dict[str, Any]:
    return {
        "requests_per_s": round(statistics.median(x.per_second for x in loads)),
        "cpu_us_per_request": round(statistics.median(x.cpu_us for x in loads), 1),
        "p50_ms": round(statistics.median(x.p50_ms for x in loads), 3),
        "p99_ms": round(statistics.median(x.p99_ms for x in loads), 3),
        "rounds": [round(x.per_second) for x in loads],
    }


def paired(mine: list[client.Load], peer: list[client.Load]) -> dict[str, Any]:
    """Compare round by round: both sides of a pair have met nearly the same machine."""
    pairs = list(zip(mine, peer, strict=True))
    ratios = [a.per_second / b.per_second for a, b in pairs]
    return {
        "throughput": round(statistics.median(ratios), 2),
        "throughput_range": [round(min(ratios), 2), round(max(ratios), 2)],
        # On a busy machine the median request is disturbed least.
        "p50": round(statistics.median(b.p50_ms / a.p50_ms for a, b in pairs), 2),
        "cpu": round(statistics.median(b.cpu_us / a.cpu_us for a, b in pairs), 2),
    }


def ours(values: Any, *, binary: bool) -> bytes:  # noqa: ANN401
    tensor: dict[str, Any] = {"name": "image", "datatype": "FP32", "shape": list(values.shape)}
    if not binary:
        tensor["data"] = values.ravel().tolist()
        return client.post(fuzz.INFER, json.dumps({"inputs": [tensor]}).encode())
    tensor["parameters"] = {"binary_data_size": values.nbytes}
    document = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    head = json.dumps(document).encode()
    body = head + struct.pack(f"<{values.size}f", *values.ravel())
    return client.post(fuzz.INFER, body, f"Inference-Header-Content-Length: {len(head)}")


def theirs(values: Any) -> bytes:  # noqa: ANN401
    return client.post("/predict", json.dumps({"data": values.tolist()}).encode())


@contextlib.contextmanager
def running(line: list[str], port: int, **environment: str) -> Iterator[tuple[int, int]]:
    """Run a server and yield its port and process id."""
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1", **environment}
    process = subprocess.Popen(line, env=environment, cwd=HERE, stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            time.sleep(0.1)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(10)


def our_server(*served: Path) -> contextlib.AbstractContextManager[tuple[int, int]]:
    port = free_port()
    return running([sys.executable, "serve.py", str(port), *map(str, served)], port)


def peer_server(
    python: Path, model: Path, settings: dict[str, str]
) -> contextlib.AbstractContextManager[tuple[int, int]]:
    port = free_port()
    line = [str(python), "-m", "uvicorn", "fastapi_peer:app", "--port", str(port)]
    quiet = ["--no-access-log", "--log-level", "warning"]
    return running([*line, *quiet], port, PEER_MODEL=str(model), **settings)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def measure_memory(bundle: Path, model: Path) -> dict[str, Any]:
    """Memory and idle CPU of a serving process, against bare onnxruntime with the same model."""
    found: dict[str, Any] = {}
    for name, served in (("without a model", ()), ("with a model", (bundle,))):
        with our_server(*served) as (_, pid):
            time.sleep(1)
            before, start = client.cpu_s(pid), time.monotonic()
            time.sleep(IDLE_S)
            share = (client.cpu_s(pid) - before) / (time.monotonic() - start)
            found[name] = {
                "rss_mib": round(client.rss_mib(pid), 1),
                "idle_cpu_percent": round(100 * share, 2),
            }
    script = (
        "import sys, onnxruntime as o; s = o.SessionOptions(); s.intra_op_num_threads = 1;"
        "k = o.InferenceSession(sys.argv[1], s); print(flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(model)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
    )
    assert process.stdout is not None  # noqa: S101
    process.stdout.readline()
    found["bare onnxruntime with the model"] = {"rss_mib": round(client.rss_mib(process.pid), 1)}
    process.communicate()
    return found


def measure_fuzzed(bundle: Path, count: int) -> dict[str, Any]:
    """Throw broken requests; the first thousand fill the allocator's pools and do not count."""
    out = io.BytesIO()
    Image.fromarray(np.full((8, 8), 200, np.uint8)).save(out, "PNG")
    with our_server(bundle) as (port, pid):
        fuzz.throw(port, fuzz.fuzzed(0, min(1000, count), out.getvalue()))
        time.sleep(1)
        before, opened = client.rss_mib(pid), client.handles(pid)
        statuses = fuzz.throw(port, fuzz.fuzzed(1, count, out.getvalue()))
        time.sleep(1)
        return {
            "requests": count,
            "statuses": dict(sorted(statuses.items())),
            "rss_growth_mib": round(client.rss_mib(pid) - before, 2),
            "handles_growth": client.handles(pid) - opened,
        }


if __name__ == "__main__":
    sys.exit(main())
