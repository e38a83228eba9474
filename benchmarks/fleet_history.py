"""The fleet with 10 million rows: how long queries take, and pages in a real browser.

    python benchmarks/fleet_history.py                             # 10 M rows, then measures
    python benchmarks/fleet_history.py --home /tmp/big             # likewise, and keeps them
    python benchmarks/fleet_history.py --home /tmp/big --rows 0    # measures what is there

Rows go the way that they go in ingest (decode, sums, ledger, Parquet), but with times of the past
and without a broker: devices measure every ten seconds up to now.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from fleet_load.homes import make_home, stored  # noqa: E402
from fleet_load.pages import measure as pages_measured  # noqa: E402
from fleet_load.pages import summed  # noqa: E402
from fleet_load.versions import versions  # noqa: E402

from edgekit.fleet.home import FleetHome  # noqa: E402
from edgekit.fleet.ingest.collect import Pending, control, gather  # noqa: E402
from edgekit.fleet.ingest.decode import Control, Telemetry, decode  # noqa: E402
from edgekit.fleet.ingest.ledger import Ledger  # noqa: E402
from edgekit.fleet.store import open_store, parquet, queries  # noqa: E402
from edgekit.fleet.store.reader import Reader  # noqa: E402
from edgekit.runtime.host import host_kind  # noqa: E402
from edgekit.sim.build import make_devices  # noqa: E402
from edgekit.sim.device import Plan, Publish, SimDevice, names  # noqa: E402
from edgekit.sim.faults import Fault  # noqa: E402
from edgekit.wire.topics import topic  # noqa: E402

OUT = ROOT / "docs" / "benchmarks" / "fleet_history.json"
GOAL_MS = 500.0
PERIOD_S = 10.0
SAMPLES = 30  # in a batch: one window of the rollups
HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
FAULTS = {Fault.HOT: 0.03, Fault.SLOW: 0.03, Fault.BAD_MODEL: 0.02}


def fill(home: FleetHome, fleet: str, named: list[str], rows: int, now_s: float) -> None:
    """Write rows up to now.

    Args:
        home: The fleet.
        fleet: Its name.
        named: Its devices.
        rows: How many, at least.
        now_s: Unix time at which the history ends.
    """
    devices = make_devices(named, Plan(fleet, PERIOD_S, SAMPLES), FAULTS, 1)
    known = frozenset(named)
    engine = open_store(home.database)
    ledger, duck = Ledger(engine), parquet.connect()
    windows = -(-rows // (len(devices) * SAMPLES))
    window_s = PERIOD_S * SAMPLES
    began = time.monotonic()
    try:
        for n in range(windows):
            at_s = now_s - (windows - 1 - n) * window_s
            pending = Pending()
            for index, device in enumerate(devices):
                late_s = window_s * index / len(devices) / 10
                take(pending, ledger, device, known, at_s - window_s / 10 + late_s, first=n == 0)
            store(home, ledger, duck, pending)
            if (n + 1) % 10 == 0 or n == windows - 1:
                done = (n + 1) * len(devices) * SAMPLES
                rate = done / (time.monotonic() - began)
                print(f"{done:,} rows, {rate:,.0f} rows/s", file=sys.stderr, flush=True)
    finally:
        duck.close()
        ledger.close()
        engine.dispose()


def take(
    pending: Pending,
    ledger: Ledger,
    device: SimDevice,
    known: frozenset[str],
    at_s: float,
    *,
    first: bool,
) -> None:
    """Let a device measure one window and take what it says."""
    said: list[Publish] = device.connected(at_s) if first else []
    device.measure(at_s)
    said += device.send(at_s)
    device.outbox.held.clear()
    for publish in said:
        place = topic(device.plan.fleet, device.name, publish.leaf)
        found = decode(place, publish.payload, device.plan.fleet, known)
        if isinstance(found, Telemetry):
            gather(pending, ledger, found, at_s)
        elif isinstance(found, Control):
            control(pending, found, at_s, is_retained=False)
    pending.acks.clear()


def store(home: FleetHome, ledger: Ledger, duck: Any, pending: Pending) -> None:  # noqa: ANN401
    """Commit one window."""
    name = parquet.new_name(pending.first_s)
    size = parquet.write_lines(duck, home.raw, name, pending.lines)
    file = parquet.RawFile(name, len(pending.lines), size, pending.first_s, pending.last_s)
    ledger.commit(pending, file)


def queries_of(home: FleetHome, times: int) -> tuple[dict[str, Any], str, str]:
    """Return how long queries take, in milliseconds, and the device and the model asked about."""
    engine = open_store(home.database)
    reader = Reader(engine, home.raw)
    first = queries.devices(reader, limit=1)
    name = first.rows[0].name
    model = next(iter(first.rows[0].models))
    now_s = time.time()
    day = {"since_s": now_s - DAY_S, "until_s": now_s}
    asked: dict[str, Callable[[], object]] = {
        "summary": lambda: queries.summary(reader),
        "devices, first 100": lambda: queries.devices(reader, limit=100),
        "devices, by alerts": lambda: queries.devices(reader, sort="alerts", descending=True),
        "device": lambda: queries.device(reader, name),
        "temp_c of a device, 1 h": lambda: queries.series(
            reader, name, "temp_c", now_s - HOUR_S, now_s
        ),
        "temp_c of a device, 24 h": lambda: queries.series(
            reader, name, "temp_c", now_s - DAY_S, now_s
        ),
        "p95 of the fleet, 24 h": lambda: queries.latency(reader, **day),  # type: ignore[arg-type]
        "p95 of a model, 24 h": lambda: queries.latency(reader, model=model, **day),  # type: ignore[arg-type]
        "p95 of a device, 24 h": lambda: queries.latency(reader, device=name, **day),  # type: ignore[arg-type]
        "events": lambda: queries.events(reader),
        "models": lambda: queries.models(reader),
    }
    found = {}
    for what, ask in asked.items():
        took = []
        for _ in range(times):
            began = time.perf_counter()
            ask()
            took.append(1000 * (time.perf_counter() - began))
        found[what] = summed(took)
    engine.dispose()
    return found, name, model


def document(home: FleetHome, times: int) -> dict[str, Any]:
    """Return what is measured on a store that is filled, in milliseconds."""
    held = stored(home)
    asked, device, model = queries_of(home, times)
    pages = pages_measured(home, device, model, times)
    limited = {
        "p95 of the fleet, 24 h": asked["p95 of the fleet, 24 h"]["p95"],
        **{f"page: {what}": pages[what]["p95"] for what in pages if what != "model"},
    }
    return {
        "schema": "edgekit.bench.fleet-history/1",
        "where": f"{host_kind()} host, {os.cpu_count()} cores, measured here",
        "load_before": round(os.getloadavg()[0], 2),
        "versions": versions(),
        "rows": held["rows"],
        "raw_files": held["files"],
        "store_bytes": held["bytes"],
        "queries_ms": asked,
        "pages_ms": pages,
        "goals": dict.fromkeys(limited, GOAL_MS),
        "met": {what: took <= GOAL_MS for what, took in limited.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--home", type=Path, help="folder that stays; one that goes when absent")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--times", type=int, default=30)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgekit-history-") as folder:
        path = options.home or Path(folder) / "home"
        if options.rows:
            named = list(names(options.devices))
            home, settings, _ = make_home(path, named)
            fill(home, settings.name, named, options.rows, time.time())
        found = {"devices": options.devices, **document(FleetHome.open(path), options.times)}
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))
    missed = [what for what, is_met in found["met"].items() if not is_met]
    print(f"missed: {', '.join(missed) or 'none'}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
