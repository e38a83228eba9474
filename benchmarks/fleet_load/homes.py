"""A fleet's folder for one run, with its devices registered."""

from __future__ import annotations

import json
import socket
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit.fleet.home import FleetHome
from edgekit.fleet.settings import Settings, write_settings
from edgekit.sim.demo import register


def free_port() -> int:
    """Return a TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_home(folder: Path, names: Sequence[str]) -> tuple[FleetHome, Settings, Path]:
    """Make a fleet; return it, its settings, and the file of the devices' passwords."""
    home = FleetHome.create(folder)
    settings = Settings(broker_port=free_port(), http_port=free_port())
    write_settings(home, settings)
    passwords = register(home, names, time.time())
    path = home.run / "devices.json"
    path.write_text(json.dumps(passwords), encoding="utf-8")
    return home, settings, path


def stored(home: FleetHome) -> dict[str, Any]:
    """Count what the store holds: raw rows, those that are there twice, and what was committed."""
    import duckdb

    with sqlite3.connect(f"file:{home.database}?mode=ro", uri=True) as db:
        files = [row[0] for row in db.execute("SELECT name FROM raw_files WHERE gone_s IS NULL")]
        have = db.execute("SELECT coalesce(sum(have), 0) FROM high_water").fetchone()[0]
        samples = db.execute(
            "SELECT coalesce(sum(samples), 0) FROM rollups WHERE device != '' AND model = ''"
        ).fetchone()[0]
    paths = [str(home.raw / name) for name in files]
    rows = distinct = 0
    if paths:
        duck = duckdb.connect()
        rows, distinct = duck.execute(
            "SELECT count(*), count(DISTINCT (device, boot_id, seq)) FROM read_parquet(?)", [paths]
        ).fetchone()  # type: ignore[misc]
        duck.close()
    size = sum(path.stat().st_size for path in home.path.glob("store/**/*") if path.is_file())
    return {
        "rows": rows,
        "doubled": rows - distinct,
        "committed": have,
        "rollup_samples": samples,
        "files": len(files),
        "bytes": size,
    }
