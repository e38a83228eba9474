"""The fleet under load: simulated devices, a real broker, the real ingest, counted end to end.

    python benchmarks/fleet.py                       # 10,000 devices for 60 s
    python benchmarks/fleet.py --minutes 10          # the whole
    python benchmarks/fleet.py --minutes 10 --kills 20
    python benchmarks/fleet.py --broker amqtt --devices 1000

Each device measures once a second and sends ten samples in a batch. Lag is from the publish of a
batch to its acknowledgement, which ingest sends after it has committed. In the end every message
that a device has made must be in the store, once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from fleet_load import plot  # noqa: E402
from fleet_load.homes import make_home, stored  # noqa: E402
from fleet_load.processes import Part, files_limit, python  # noqa: E402
from fleet_load.versions import versions  # noqa: E402

from edgekit.fleet.broker import mosquitto, process  # noqa: E402
from edgekit.runtime.host import host_kind  # noqa: E402
from edgekit.sim.device import names  # noqa: E402

LOOK_S = 1.0
DRAIN_S = 180.0


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run one load; return its figures."""
    seconds, load = options.minutes * 60, round(os.getloadavg()[0], 2)
    home, settings, passwords = make_home(folder / "fleet", names(options.devices))
    mosquitto.prepare(home, settings)
    if options.broker == "mosquitto":
        command = mosquitto.command(home)
    else:
        command = python("-m", process.MODULE, str(home.path))
    broker = Part("broker", command, folder, settings.broker_port).start()
    ingest = Part("ingest", python("-m", "edgekit.fleet.ingest", str(home.path)), folder).start()
    words = ["-m", "edgekit", "sim", "--devices", str(options.devices), "--json"]
    words += ["--broker", f"127.0.0.1:{settings.broker_port}", "--fleet", settings.name]
    words += ["--for", str(seconds), "--passwords", str(passwords), "--seed", str(options.seed)]
    words += ["--drain", str(DRAIN_S)]
    words += [word for fault in options.fault for word in ("--fault", fault)]
    simulator = Part("simulator", python(*words), folder)
    parts = (broker, ingest, simulator)
    time.sleep(2.0)
    began = time.monotonic()
    try:
        with (folder / "sim.json").open("wb") as out, (folder / "simulator.log").open("wb") as log:
            simulator.adopt(subprocess.Popen(python(*words), stdout=out, stderr=log))
        killed = watch(parts, seconds, options.kills, random.Random(options.seed))  # noqa: S311
        took_s = time.monotonic() - began
        time.sleep(1.0)
    finally:
        for part in reversed(parts):
            part.stop()
    said = (folder / "sim.json").read_text(encoding="utf-8")
    if not said:
        raise RuntimeError(f"the simulator has failed: {simulator.log[-2000:]}")
    devices = json.loads(said)
    devices.pop("schema")
    held = stored(home)
    return {
        "broker": options.broker,
        "seconds": round(seconds, 1),
        "load_before": load,
        "kills": killed,
        "devices": devices,
        "store": held,
        "lost": max(0, devices["acked"] - held["committed"]) + devices["dropped"],
        "undelivered": devices["held"],
        "messages_per_s": round(devices["acked"] / took_s, 1),
        "bytes_per_message": round(held["bytes"] / max(held["rows"], 1), 1),
        "parts": {part.name: part.to_json(took_s) for part in parts},
    }


def watch(
    parts: tuple[Part, Part, Part], seconds: float, kills: int, generator: random.Random
) -> dict[str, int]:
    """Look at the processes until the simulator ends; kill broker and ingest at random moments."""
    *victims, simulator = parts
    began = time.monotonic()
    moments = sorted(generator.uniform(0.1, 0.9) * seconds for _ in range(kills))
    killed = {part.name: 0 for part in victims}
    while simulator.runs:
        now_s = time.monotonic() - began
        if now_s > seconds + DRAIN_S + 30:
            break
        if moments and now_s >= moments[0]:
            moments.pop(0)
            victim = generator.choice(victims)
            victim.stop(kill=True)
            killed[victim.name] += 1
            time.sleep(generator.random())
            victim.start()
        for part in parts:
            part.look()
        time.sleep(LOOK_S)
    return killed


def is_good(result: dict[str, Any]) -> bool:
    """Tell whether everything arrived, once."""
    wanted = result["devices"]["messages"]
    counts = (result["store"]["committed"], result["store"]["rows"])
    return (
        result["lost"] == result["undelivered"] == result["store"]["doubled"] == 0
        and all(count == wanted for count in counts)
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--broker", choices=("mosquitto", "amqtt"), default="mosquitto")
    parser.add_argument("--fault", action="append", default=[])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder of the run, which stays")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks" / "fleet.json")
    options = parser.parse_args()
    if options.broker == "mosquitto" and mosquitto.find_mosquitto() is None:
        print("error: mosquitto is not installed\n  hint: make system-packages", file=sys.stderr)
        return 4
    if files_limit() < options.devices + 100:
        print("error: too few open files are allowed\n  hint: ulimit -Hn", file=sys.stderr)
        return 4
    folder = options.keep or Path(tempfile.mkdtemp(prefix="edgekit-fleet-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        result = run(options, folder)
    finally:
        if options.keep is None:
            shutil.rmtree(folder)
    print(json.dumps(result, indent=1), file=sys.stderr)
    name = f"{options.broker}-{options.devices}" + ("-kills" if options.kills else "")
    known = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    document = {
        "schema": "edgekit.bench.fleet/1",
        "where": f"{host_kind()} host, {os.cpu_count()} cores, measured here",
        "versions": versions(),
        "runs": known.get("runs", {}) | {name: result},
    }
    options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    plot.draw(document, options.out.with_suffix(".svg"))
    good = is_good(result)
    print("every message once" if good else "MESSAGES ARE LOST, DOUBLED OR STILL ON THEIR WAY")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
