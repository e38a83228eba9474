"""A fleet's folder with devices that have lived for a while: the way that ingest fills it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from edgekit.fleet.home import FleetHome
from edgekit.fleet.ingest.collect import Pending, control, gather
from edgekit.fleet.ingest.decode import Control, Telemetry, decode
from edgekit.fleet.ingest.ledger import Ledger
from edgekit.fleet.settings import Settings, write_settings
from edgekit.fleet.store import open_store, parquet, schema
from edgekit.fleet.store.writes import add_device
from edgekit.sim.build import make_devices
from edgekit.sim.device import Plan, names
from edgekit.sim.faults import Fault
from edgekit.wire.topics import topic

SITES = ("roof", "gate", "hall", "yard", "dock")
PERIOD_S, SAMPLES = 10.0, 30
FAULTS = {Fault.HOT: 0.1, Fault.SLOW: 0.1, Fault.BAD_MODEL: 0.1}


def empty_home(folder: Path, *, http_port: int = 8600, http_url: str = "") -> FleetHome:
    """Make a fleet without devices; its ingest says that it runs."""
    home = FleetHome.create(folder)
    write_settings(home, Settings(name="lab", http_port=http_port))
    if http_url:
        text = home.settings_file.read_text(encoding="utf-8")
        home.settings_file.write_text(text.replace("[http]", f'[http]\nurl = "{http_url}"'))
    open_store(home.database).dispose()
    return home


def alive(home: FleetHome, at_s: float, status: str = "running", detail: str = "") -> None:
    """Have ingest say how it is."""
    engine = open_store(home.database)
    ledger = Ledger(engine)
    counts = {"messages": 1200, "batches": 40, "refused_schema": 3, "flushes": 7}
    ledger.alive(at_s, status, detail, counts)
    ledger.close()
    engine.dispose()


def fill(home: FleetHome, devices: int, windows: int, now_s: float | None = None) -> list[str]:
    """Register devices and have each measure so many times five minutes; return their names.

    The last one is never heard of, and the one before is offline, where there are over three.
    """
    now_s = time.time() if now_s is None else now_s
    named = list(names(devices))
    engine = open_store(home.database)
    for index, name in enumerate(named):
        add_device(engine, name, {"site": SITES[index % len(SITES)]}, now_s - 86_400)
    heard = named[:-1] if devices > 3 else named
    made = make_devices(heard, Plan("lab", PERIOD_S, SAMPLES), FAULTS, 1)
    ledger, duck = Ledger(engine), parquet.connect()
    window_s = PERIOD_S * SAMPLES
    try:
        for n in range(windows):
            at_s = now_s - (windows - 1 - n) * window_s - 5
            with _committed(home, ledger, duck) as pending:
                for device in made:
                    said = device.connected(at_s) if n == 0 else []
                    device.measure(at_s)
                    said += device.send(at_s)
                    device.outbox.held.clear()
                    for publish in said:
                        place = topic("lab", device.name, publish.leaf)
                        found = decode(place, publish.payload, "lab", frozenset(heard))
                        if isinstance(found, Telemetry):
                            gather(pending, ledger, found, at_s)
                        elif isinstance(found, Control):
                            control(pending, found, at_s, is_retained=False)
        if devices > 3:
            s = schema.last_state
            state = json.dumps({"status": "offline", "reason": "lost"})
            with engine.begin() as connection:
                connection.execute(
                    sa.update(s).where(s.c.device == heard[-1]).values(online=False, state=state)
                )
        counts = {"messages": windows * len(made) * SAMPLES, "refused_schema": 3}
        ledger.alive(now_s, "running", "", counts)
    finally:
        duck.close()
        ledger.close()
        engine.dispose()
    return named


@contextmanager
def _committed(home: FleetHome, ledger: Ledger, duck: object) -> Iterator[Pending]:
    pending = Pending()
    yield pending
    name = parquet.new_name(pending.first_s)
    size = parquet.write_lines(duck, home.raw, name, pending.lines)  # type: ignore[arg-type]
    raw = parquet.RawFile(name, len(pending.lines), size, pending.first_s, pending.last_s)
    ledger.commit(pending, raw)


def add_alert(home: FleetHome, device: str, text: str, severity: str = "warning") -> int:
    """Have an alert open; return its id."""
    engine = open_store(home.database)
    values = {
        "rule": "temperature", "kind": "temperature", "severity": severity, "device": device,
        "model": "", "value": 84.1, "unit": "°C", "text": text, "todo": "look at its fan",
        "opened_s": time.time() - 700, "silenced": False, "why": "",
    }  # fmt: skip
    with engine.begin() as connection:
        done = connection.execute(sa.insert(schema.alerts).values(**values))
    engine.dispose()
    return int((done.inserted_primary_key or (0,))[0])
