"""What is stored, as ingest knows it: read from SQLite once, and written in one transaction."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, MutableMapping
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from edgekit.fleet.ingest.collect import Mark, Pending, Process
from edgekit.fleet.ingest.ranges import Ranges
from edgekit.fleet.ingest.sums import Key, Sums, number, read_sums, vitals_of
from edgekit.fleet.store.parquet import RawFile

if TYPE_CHECKING:
    from sqlalchemy import Engine

Found = TypeVar("Found")

MAX_PROCESSES = 50_000
MAX_SUMS = 60_000

_MARK = (
    "INSERT INTO high_water"
    " (device, boot_id, ranges, have, top, issued, dropped, received_s, floor, spilled)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (device, boot_id) DO UPDATE SET"
    " ranges = excluded.ranges, have = excluded.have, top = excluded.top,"
    " issued = excluded.issued, dropped = excluded.dropped, received_s = excluded.received_s,"
    " floor = excluded.floor, spilled = excluded.spilled"
)
_SPILLED = "INSERT OR REPLACE INTO stored_runs (device, boot_id, first, last) VALUES (?, ?, ?, ?)"
_SUMS = (
    "INSERT OR REPLACE INTO rollups (window_s, device, model, samples, requests, errors, rejected,"
    " latency, vitals) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
# What a removed device said in its last moment, and the will it left, are no state of the fleet.
_IS_REGISTERED = "EXISTS (SELECT 1 FROM devices WHERE name = ?1 AND removed_s IS NULL)"
_SAMPLE = (
    "INSERT INTO last_state (device, last_seen_s, sample, sample_s, temp_c, cpu_share)"
    f" SELECT ?, ?, ?, ?, ?, ? WHERE {_IS_REGISTERED} ON CONFLICT (device) DO UPDATE SET"
    " last_seen_s = max(coalesce(last_seen_s, 0), excluded.last_seen_s), sample = excluded.sample,"
    " sample_s = excluded.sample_s, temp_c = excluded.temp_c, cpu_share = excluded.cpu_share"
)
# What a retained message says was seen nobody knows when.
_SEEN = (
    "last_seen_s = coalesce(max(last_seen_s, excluded.last_seen_s), last_seen_s,"
    " excluded.last_seen_s)"
)
_CONTROL_COLUMNS = {
    "hello": ("hello", "version", "target"),
    "state": ("state", "online"),
    "reported": ("reported", "phase"),
}


def _upsert(columns: tuple[str, ...]) -> str:
    places = ", ".join("?" for _ in columns)
    changes = ", ".join(f"{column} = excluded.{column}" for column in columns)
    return (
        f"INSERT INTO last_state (device, last_seen_s, {', '.join(columns)})"
        f" SELECT ?, ?, {places} WHERE {_IS_REGISTERED}"
        f" ON CONFLICT (device) DO UPDATE SET {_SEEN}, {changes}"
    )


_CONTROL = {leaf: _upsert(columns) for leaf, columns in _CONTROL_COLUMNS.items()}
_FILE = (
    "INSERT OR REPLACE INTO raw_files (name, rows, bytes, first_s, last_s, level)"
    " VALUES (?, ?, ?, ?, ?, 0)"
)
_EVENT = (
    'INSERT INTO events (device, received_s, time_s, name, "values", reply_id)'
    " VALUES (?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (device, reply_id) WHERE reply_id IS NOT NULL DO NOTHING"
)
_ALIVE = (
    "INSERT OR REPLACE INTO ingest_state (name, alive_s, status, detail, counts)"
    " VALUES ('ingest', ?, ?, ?, ?)"
)


class Ledger:
    """Reads and writes what ingest must know of the past; of one thread.

    Args:
        engine: Of the store.
    """

    def __init__(self, engine: Engine) -> None:
        self._pool = engine.raw_connection()
        self._db: Any = self._pool.driver_connection
        self._processes: dict[Mark, Process] = {}
        self._sums: dict[Key, Sums] = {}

    def close(self) -> None:
        """Let go of the store."""
        self._pool.close()

    def devices(self) -> frozenset[str]:
        """Return the devices that are registered."""
        rows = self._rows("SELECT name FROM devices WHERE removed_s IS NULL")
        return frozenset(name for (name,) in rows)

    def has_device(self, name: str) -> bool:
        """Tell whether a device is registered now."""
        sql = "SELECT 1 FROM devices WHERE name = ? AND removed_s IS NULL"
        return bool(self._rows(sql, (name,)))

    def raw_names(self) -> set[str]:
        """Return the files that transactions have named."""
        return {name for (name,) in self._rows("SELECT name FROM raw_files")}

    def process(self, device: str, boot_id: str) -> Process:
        """Return what is committed of a process; the same object each time."""
        found = self._processes.get((device, boot_id))
        if found is None:
            rows = self._rows(
                "SELECT ranges, issued, dropped, received_s, floor, spilled FROM high_water"
                " WHERE device = ? AND boot_id = ?",
                (device, boot_id),
            )
            found = Process(Ranges())
            for ranges, *told in rows:
                found = Process(Ranges(map(tuple, json.loads(ranges))), *told)
            self._processes[device, boot_id] = found
        return found

    def sums(self, key: Key) -> Sums:
        """Return the sums of a window, device and model; the same object each time."""
        found = self._sums.get(key)
        if found is None:
            rows = self._rows(
                "SELECT samples, requests, errors, rejected, latency, vitals FROM rollups"
                " WHERE window_s = ? AND device = ? AND model = ?",
                key,
            )
            found = Sums()
            for row in rows:
                found = read_sums(*row)
            self._sums[key] = found
        return found

    def is_spilled(self, mark: Mark, seq: int) -> bool:
        """Tell whether a number below the floor of a process is committed."""
        rows = self._rows(
            "SELECT last FROM stored_runs WHERE device = ? AND boot_id = ? AND first <= ?"
            " ORDER BY first DESC LIMIT 1",
            (*mark, seq),
        )
        return bool(rows) and rows[0][0] >= seq

    def commit(self, pending: Pending, file: RawFile | None) -> None:
        """Write everything that a flush holds, or nothing.

        Absolute values, so that writing the same again changes nothing.

        Raises:
            sqlite3.Error: It cannot be written.
        """
        with closing(self._db.cursor()) as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            try:
                self._write(cursor, pending, file)
                cursor.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    cursor.execute("ROLLBACK")
                raise
        _forget(self._processes, MAX_PROCESSES)
        _forget(self._sums, MAX_SUMS)

    def alive(self, now_s: float, status: str, detail: str, counts: dict[str, int]) -> None:
        """Write how ingest is.

        Raises:
            sqlite3.Error: It cannot be written.
        """
        with self._db:
            self._db.execute(_ALIVE, (now_s, status, detail, json.dumps(counts, sort_keys=True)))

    def _rows(self, sql: str, values: Collection[Any] = ()) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = self._db.execute(sql, tuple(values)).fetchall()
        return found

    def _write(self, cursor: Any, pending: Pending, file: RawFile | None) -> None:  # noqa: ANN401 - the driver's
        if file is not None:
            cursor.execute(_FILE, (file.name, file.rows, file.bytes, file.first_s, file.last_s))
        cursor.executemany(_MARK, _mark_rows(pending))
        cursor.executemany(
            _SPILLED, ((*mark, *run) for mark, runs in pending.spilled.items() for run in runs)
        )
        cursor.executemany(_SUMS, _sums_rows(pending))
        cursor.executemany(_SAMPLE, _sample_rows(pending))
        cursor.executemany(_EVENT, pending.events)
        for leaf, sql in _CONTROL.items():
            cursor.executemany(sql, _control_rows(pending, leaf))


def _mark_rows(pending: Pending) -> Iterable[tuple[Any, ...]]:
    for (device, boot_id), process in pending.processes.items():
        have = process.have
        runs = orjson.dumps(list(have)).decode()
        told = (process.issued, process.dropped, process.received_s)
        lower = (process.floor, process.spilled)
        yield (device, boot_id, runs, process.count, have.top, *told, *lower)


def _sums_rows(pending: Pending) -> Iterable[tuple[Any, ...]]:
    for key, sums in pending.sums.items():
        counts = (sums.samples, sums.requests, sums.errors, sums.rejected)
        yield (*key, *counts, sums.latency_text(), sums.vitals_text())


def _sample_rows(pending: Pending) -> Iterable[tuple[Any, ...]]:
    for device, (values, received_s) in pending.samples.items():
        vitals = vitals_of(values)
        shown = (number(vitals.get("temp_c")), number(vitals.get("cpu_share")))
        yield (device, received_s, orjson.dumps(values).decode(), received_s, *shown)


def _control_rows(pending: Pending, leaf: str) -> Iterable[tuple[Any, ...]]:
    for (device, kind), (said, seen_s) in pending.controls.items():
        if kind != leaf:
            continue
        text = orjson.dumps(said).decode()
        if leaf == "hello":
            yield (device, seen_s, text, said["version"], said["target"])
        elif leaf == "state":
            yield (device, seen_s, text, said["status"] == "online")
        else:
            yield (device, seen_s, text, said["phase"])


def _forget(held: MutableMapping[Any, Found], most: int) -> None:
    # Only after a commit: what is forgotten is read again.
    while len(held) > most:
        del held[next(iter(held))]
