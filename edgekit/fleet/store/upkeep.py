"""The store's upkeep: small files become few, what is too old or too much goes."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from edgekit.fleet.store.parquet import (
    MAX_MERGED_BYTES,
    MAX_MERGED_ROWS,
    RawFile,
    connect,
    new_name,
    quoted,
    write_select,
)
from edgekit.fleet.store.retention import DAY_S, Ages, Pruner
from edgekit.fleet.store.schema import raw_files

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from sqlalchemy import Engine

log = logging.getLogger(__name__)

PERIOD_S = 20.0
# A reader that has just listed a file gets the time to read it.
GRACE_S = 120.0
MERGE_FILES = 30
# Merging sorts in memory and on the disk, of which it leaves others so much.
MAX_SPILL_BYTES = 2 << 30
SPARE_BYTES = 256 << 20


def to_merge(
    files: Sequence[RawFile], least: int = MERGE_FILES, most_rows: int = MAX_MERGED_ROWS
) -> list[RawFile]:
    """Return the files that shall become one; none where it is too early.

    Args:
        files: That count, oldest first.
        least: So many of one level are worth it.
        most_rows: Of the one.
    """
    small = [file for file in files if not file.is_full(most_rows)]
    today = max((file.first_s // DAY_S for file in files), default=0.0)
    # A day that is over gets nothing more: what is left of it becomes one.
    for day in sorted({file.first_s // DAY_S for file in small} - {today}):
        found, _ = _take([file for file in small if file.first_s // DAY_S == day], most_rows)
        if len(found) > 1:
            return found
    # By level, so that a row is written again only a few times.
    for level in sorted({file.level for file in small}):
        of_today = [f for f in small if f.level == level and f.first_s // DAY_S == today]
        found, is_all = _take(of_today, most_rows)
        if len(found) >= least or (len(found) > 1 and not is_all):
            return found
    return []


def _take(files: Sequence[RawFile], most_rows: int) -> tuple[list[RawFile], bool]:
    """Return the first files that fit into one, and whether these are all."""
    rows = size = 0
    for count, file in enumerate(files):
        rows, size = rows + file.rows, size + file.bytes
        if rows > most_rows or size > MAX_MERGED_BYTES:
            return list(files[:count]), False
    return list(files), True


def to_drop(
    files: Sequence[RawFile], now_s: float, max_days: float, max_bytes: int
) -> list[RawFile]:
    """Return the files that are too old, or too much, the oldest first.

    Args:
        files: That count.
        now_s: Unix time in seconds.
        max_days: How long they are kept.
        max_bytes: How much they may take in all.
    """
    too_much = sum(file.bytes for file in files) - max_bytes
    dropped: list[RawFile] = []
    for file in sorted(files, key=lambda file: file.last_s):
        if file.last_s >= now_s - max_days * DAY_S and too_much <= 0:
            break
        dropped.append(file)
        too_much -= file.bytes
    return dropped


class Upkeep:
    """Looks after the store, in a thread of its own.

    Args:
        engine: Of the store.
        raw: Folder of raw telemetry.
        ages: How long what is kept.
        max_bytes: How much raw telemetry.
        unix_s: The clock.
    """

    def __init__(
        self,
        engine: Engine,
        raw: Path,
        ages: Ages,
        max_bytes: int,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._raw = raw
        self._max_days = ages.telemetry_days
        self._pruner = Pruner(engine, ages)
        self._max_bytes = max_bytes
        self._unix_s = unix_s
        self._spill = raw / ".spill"
        self._most_rows = MAX_MERGED_ROWS
        self._day = 0.0

    @contextmanager
    def running(self, period_s: float = PERIOD_S) -> Iterator[None]:
        """Look after it while the body runs."""
        stop = threading.Event()
        thread = threading.Thread(target=self._run, args=(stop, period_s), name="upkeep")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def tick(self) -> None:
        """Look once."""
        now_s = self._unix_s()
        self._delete_gone(now_s)
        dropped = to_drop(self.files(), now_s, self._max_days, self._max_bytes)
        self._mark_gone([file.name for file in dropped], now_s)
        self._pruner.prune(now_s)
        if now_s // DAY_S != self._day:
            # What was too wide yesterday need not be so today.
            self._day, self._most_rows = now_s // DAY_S, MAX_MERGED_ROWS
        self._merge_all()

    def files(self) -> list[RawFile]:
        """Return the files that count, oldest first."""
        r = raw_files.c
        columns = (r.name, r.rows, r.bytes, r.first_s, r.last_s, r.level)
        query = sa.select(*columns).where(r.gone_s.is_(None)).order_by(r.first_s, r.name)
        with self._engine.connect() as connection:
            return [RawFile(*row) for row in connection.execute(query)]

    def merge(self, duck: DuckDBPyConnection, files: Sequence[RawFile]) -> None:
        """Make one file of several, ordered by device; readers see either those or this."""
        first_s, last_s = min(f.first_s for f in files), max(f.last_s for f in files)
        name = new_name(first_s)
        listed = ", ".join(quoted(self._raw / file.name) for file in files)
        select = f"SELECT * FROM read_parquet([{listed}]) ORDER BY device, received_s, seq"  # noqa: S608 - paths of our own
        size = write_select(duck, self._raw / name, select)
        row = {"name": name, "rows": sum(f.rows for f in files), "bytes": size}
        row |= {"first_s": first_s, "last_s": last_s, "level": max(f.level for f in files) + 1}
        old = raw_files.c.name.in_([file.name for file in files])
        with self._engine.begin() as connection:
            connection.execute(sa.insert(raw_files).values(**row))
            connection.execute(sa.update(raw_files).where(old).values(gone_s=self._unix_s()))

    def _merge_all(self) -> None:
        found = to_merge(self.files(), most_rows=self._most_rows)
        if not found:
            return
        with self._merging() as duck:
            while found and self._has_room(duck):
                self._merge_or_less(duck, found)
                found = to_merge(self.files(), most_rows=self._most_rows)

    def _merge_or_less(self, duck: DuckDBPyConnection, files: Sequence[RawFile]) -> None:
        """Merge files; where their rows are too wide for the memory, less at once from now on."""
        import duckdb

        try:
            self.merge(duck, files)
        except duckdb.OutOfMemoryException:
            rows = sum(file.rows for file in files)
            self._most_rows = rows // 2
            log.info("%d rows are too much to merge at once", rows)

    @contextmanager
    def _merging(self) -> Iterator[DuckDBPyConnection]:
        """Have a DuckDB that may spill; what another process has left is deleted."""
        shutil.rmtree(self._spill, ignore_errors=True)
        duck = connect(self._spill)
        try:
            yield duck
        finally:
            duck.close()
            shutil.rmtree(self._spill, ignore_errors=True)

    def _has_room(self, duck: DuckDBPyConnection) -> bool:
        free = shutil.disk_usage(self._raw).free - SPARE_BYTES
        if free < SPARE_BYTES:
            return False
        most = min(MAX_SPILL_BYTES, free // 2)
        duck.execute(f"SET max_temp_directory_size = '{most >> 20}MiB'")
        return True

    def _run(self, stop: threading.Event, period_s: float) -> None:
        while not stop.wait(period_s):
            try:
                self.tick()
            except Exception:
                # A full disk, a locked store: ingest goes on, and the next look may do better.
                log.exception("the store's upkeep failed")

    def _mark_gone(self, names: Sequence[str], now_s: float) -> None:
        if names:
            with self._engine.begin() as connection:
                these = raw_files.c.name.in_(names)
                connection.execute(sa.update(raw_files).where(these).values(gone_s=now_s))

    def _delete_gone(self, now_s: float) -> None:
        r = raw_files.c
        with self._engine.connect() as connection:
            query = sa.select(r.name).where(r.gone_s < now_s - GRACE_S)
            names = list(connection.scalars(query))
        for name in names:
            (self._raw / name).unlink(missing_ok=True)
        if names:
            with self._engine.begin() as connection:
                connection.execute(sa.delete(raw_files).where(r.name.in_(names)))
