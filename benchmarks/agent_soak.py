"""A day of an agent in minutes: does it grow?

Its clock runs 200 times as fast; everything else is real: process, model, mosquitto, requests,
commands, a broker that is killed every hour of that day. Writes docs/benchmarks/agent_soak.json.
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
from pathlib import Path

from agent_load import bundles

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from edgekit.runtime.host import host_kind  # noqa: E402 - tests/ stands beside the package
from edgekit.wire.bundle import open_bundle  # noqa: E402
from edgekit.wire.signing import PrivateKey  # noqa: E402
from tests.agent_board import DEVICE, FLEET, Board  # noqa: E402
from tests.agent_broker import Broker  # noqa: E402
from tests.agent_receiver import Receiver  # noqa: E402
from tests.agent_soak import SPEED, Look, Soaked, soak  # noqa: E402

MODEL = "digits-cnn"
GOALS = {"rss_growth_mb": 2.0, "file_growth": 0, "thread_growth": 0}
_SHOWN = 48


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=24.0, help="of the agent's own time")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs" / "benchmarks" / "agent_soak.json"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgekit-bench-") as temporary:
        found = run(Path(temporary), options.hours)
    growth = {
        "rss_growth_mb": round(found.growth(lambda look: look.rss_mb), 2),
        "file_growth": found.growth(lambda look: look.files),
        "thread_growth": found.growth(lambda look: look.threads),
    }
    met = {key: growth[key] <= goal for key, goal in GOALS.items()}
    met["all_stored"] = found.stored >= options.hours * 3600
    document = {
        "schema": "edgekit.bench.soak/1",
        "where": f"{host_kind()} host, {os.cpu_count()} cores, measured here",
        "model": MODEL,
        "hours": options.hours,
        "speed": SPEED,
        "samples_stored": found.stored,
        "requests": found.requests,
        "commands": found.commands,
        "broker_kills": found.outages,
        **growth,
        "goals": GOALS,
        "met": met,
        "looks": [shown(look) for look in found.looks[:: max(1, len(found.looks) // _SHOWN)]],
        "versions": {
            "python": platform.python_version(),
            **{n: importlib.metadata.version(n) for n in ("edgekit", "onnxruntime", "paho-mqtt")},
        },
    }
    options.out.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps({k: v for k, v in document.items() if k != "looks"}, indent=1))
    return int(not all(met.values()))


def run(folder: Path, hours: float) -> Soaked:
    """Live with an agent."""
    path = bundles.bundle(MODEL, folder)
    with open_bundle(path, None) as bundle:
        sample = bundle.read("golden/00/input.npy")
    settings = {
        "schema": "edgekit.agent/1",
        "fleet": FLEET,
        "device": DEVICE,
        "target": host_kind(),
        "state_dir": "state",
        "trusted_keys": [public_pem()],
        "http": {"port": 0},
        "trial": {"duration_s": 1, "min_requests": 1},
        "bundles": [str(path)],
    }
    with Broker(folder / "broker") as broker:
        settings["broker"] = {"host": "127.0.0.1", "port": broker.port}
        receiver = Receiver(broker.port, folder / "store.db").start()
        (folder / "board").mkdir()
        # The bundle is signed already: this key signs nothing.
        board = Board(folder / "board", PrivateKey(bytes(32)), settings, model=MODEL)
        try:
            return soak(board, broker, receiver, sample, hours=hours, outages=int(hours))
        finally:
            if board.process is not None and board.process.poll() is None:
                board.kill()
            receiver.stop()


def public_pem() -> str:
    """Return the developer key's public half, as the bundle is signed with it."""
    edgekit = Path(sys.executable).with_name("edgekit")
    done = subprocess.run([edgekit, "keys", "show", "--json"], capture_output=True, check=True)
    return str(json.loads(done.stdout)["public_pem"])


def shown(look: Look) -> dict[str, float]:
    """Return a look as the file has it."""
    return {**vars(look), "rss_mb": round(look.rss_mb, 2)}


if __name__ == "__main__":
    sys.exit(main())
