"""The whole agent, idle: memory without and with a model, CPU at 1 Hz, CPU until it says hello.

A real broker (mosquitto) and a real agent process; the peer is a process that loads the same model
with onnxruntime and nothing else. Both have answered 200 requests, the agent over HTTP. Memory is
resident size. Writes docs/benchmarks/agent_idle.json.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from agent_load import bundles

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from edgekit.runtime.host import host_kind  # noqa: E402 - tests/ stands beside the package
from edgekit.wire.bundle import open_bundle  # noqa: E402
from tests.agent_broker import Broker  # noqa: E402
from tests.agent_receiver import Receiver  # noqa: E402

MODEL = "digits-cnn"
GOALS = {"rss_without_model_mb": 42.0, "rss_over_bare_mb": 28.0, "idle_core_share": 0.006}
HELLO_GOAL_CPU_S = 1.0
REQUESTS = 200
BARE = """
import sys, time
import numpy as np
import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
types = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}
feeds = {
    i.name: np.zeros([d if isinstance(d, int) else 1 for d in i.shape], types[i.type])
    for i in session.get_inputs()
}
for _ in range(200):
    session.run(None, feeds)
print("ready", flush=True)
time.sleep(600)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long it idles")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs" / "benchmarks" / "agent_idle.json"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgekit-bench-") as temporary:
        folder = Path(temporary)
        bundle = bundles.bundle(MODEL, folder)
        without = agent(folder / "without", None, options.seconds)
        with_model = agent(folder / "with", bundle, options.seconds)
        bare_mb = bare(bundle, folder)
    figures = {
        "rss_without_model_mb": without["rss_mb"],
        "rss_with_model_mb": with_model["rss_mb"],
        "bare_onnxruntime_mb": bare_mb,
        "rss_over_bare_mb": round(with_model["rss_mb"] - bare_mb, 1),
        "idle_core_share": with_model["core_share"],
        "idle_core_share_without_model": without["core_share"],
        "cpu_until_hello_s": without["hello_cpu_s"],
    }
    met = {key: figures[key] <= goal for key, goal in GOALS.items()}
    met["cpu_until_hello_s"] = figures["cpu_until_hello_s"] <= HELLO_GOAL_CPU_S
    document = {
        "schema": "edgekit.bench.agent-idle/1",
        "where": f"{host_kind()} host, {os.cpu_count()} cores, measured here",
        "model": MODEL,
        "requests": REQUESTS,
        "idle_s": options.seconds,
        "period_s": 1.0,
        **figures,
        "goals": {**GOALS, "cpu_until_hello_s": HELLO_GOAL_CPU_S},
        "met": met,
        "versions": {
            "python": platform.python_version(),
            **{n: importlib.metadata.version(n) for n in ("edgekit", "onnxruntime", "paho-mqtt")},
        },
    }
    options.out.write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(document, indent=2))
    return int(not all(met.values()))


def agent(folder: Path, bundle: Path | None, seconds: float) -> dict[str, float]:
    """Run an agent, wait until it is idle, and measure it."""
    folder.mkdir()
    settings: dict[str, Any] = {
        "schema": "edgekit.agent/1",
        "fleet": "bench",
        "device": "board",
        "target": host_kind(),
        "state_dir": "state",
        "trusted_keys": [public_pem()],
        "http": {"port": 0},
        "trial": {"duration_s": 1, "min_requests": 1},
        "bundles": [str(bundle)] if bundle else [],
    }
    with Broker(folder / "broker") as broker:
        receiver = Receiver(broker.port, folder / "store.db").start()
        settings["broker"] = {"host": "127.0.0.1", "port": broker.port}
        (folder / "agent.json").write_text(json.dumps(settings))
        command = [sys.executable, "-m", "edgekit.agent.main", "--config", "agent.json"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        try:
            seen = psutil.Process(process.pid)
            until(lambda: receiver.of("hello"))
            hello_cpu_s = sum(seen.cpu_times()[:2])
            if bundle:
                until(lambda: is_confirmed(folder))
                ask(folder, bundle)
            time.sleep(5)
            before = sum(seen.cpu_times()[:2])
            time.sleep(seconds)
            spent = sum(seen.cpu_times()[:2]) - before
            rss_mb = seen.memory_info().rss / 1e6
        finally:
            process.terminate()
            process.wait(30)
            receiver.stop()
    return {
        "rss_mb": round(rss_mb, 1),
        "core_share": round(spent / seconds, 5),
        "hello_cpu_s": round(hello_cpu_s, 3),
    }


def public_pem() -> str:
    """Return the developer key's public half, as the bundle is signed with it."""
    edgekit = Path(sys.executable).with_name("edgekit")
    done = subprocess.run([edgekit, "keys", "show", "--json"], capture_output=True, check=True)
    return str(json.loads(done.stdout)["public_pem"])


def is_confirmed(folder: Path) -> bool:
    try:
        status = json.loads((folder / "state" / "status.json").read_text())
    except (OSError, ValueError):
        return False
    return any(model["phase"] == "confirmed" for model in status["models"].values())


def ask(folder: Path, bundle: Path) -> None:
    """Send requests."""
    with open_bundle(bundle, None) as opened:
        sample = opened.read("golden/00/input.npy")
    url = json.loads((folder / "state" / "status.json").read_text())["http"]
    for _ in range(REQUESTS):
        request = urllib.request.Request(f"{url}infer/{MODEL}", data=sample)  # noqa: S310 - ours
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            answer.read()


def bare(bundle: Path, folder: Path) -> float:
    """Return what onnxruntime alone takes with the same model."""
    model = folder / "model.onnx"
    with open_bundle(bundle, None) as opened:
        model.write_bytes(opened.read("model.onnx"))
    process = subprocess.Popen([sys.executable, "-c", BARE, str(model)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None  # noqa: S101
        process.stdout.readline()
        return round(psutil.Process(process.pid).memory_info().rss / 1e6, 1)
    finally:
        process.kill()
        process.wait()


def until(condition: Callable[[], Any], timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the agent did not get there")
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
