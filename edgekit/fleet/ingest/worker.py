"""Ingest at work: takes what came, stores it about once a second, and only then acknowledges."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.fleet.ingest.collect import Pending, control, gather
from edgekit.fleet.ingest.decode import Control, Refusal, Telemetry, decode
from edgekit.fleet.ingest.inbox import Arrived, Inbox
from edgekit.fleet.ingest.ledger import Ledger
from edgekit.fleet.store import parquet as raw
from edgekit.wire.messages import Ack

if TYPE_CHECKING:
    from sqlalchemy import Engine

log = logging.getLogger(__name__)

Tell = Callable[[str, Ack], None]
COMPLAIN_S = 3600.0
_MOST_COMPLAINTS = 10_000
_NEXT = {
    "schema": "; is edgekit on the device as new as here?",
    "too_large": "; it sends more at once than an agent does",
    "unknown_device": "; `edgekit fleet device add` registers it",
}


@dataclass(frozen=True)
class Pace:
    """When ingest does what.

    Attributes:
        flush_s: What came is stored after this long.
        max_rows: Or when there are so many.
        max_bytes: Or so much; DuckDB has to hold it at once, and a batch on top.
        devices_s: How often the registered devices are read anew.
        alive_s: How often it says that it works.
        retry_s: After a failure to store.
        min_free_bytes: With less free on the disk it waits, while it can still say so.
    """

    flush_s: float = 1.0
    max_rows: int = 20_000
    max_bytes: int = 16 << 20
    devices_s: float = 2.0
    alive_s: float = 5.0
    retry_s: float = 2.0
    min_free_bytes: int = 64 << 20


class Worker:
    """Stores what comes in; of one thread.

    Args:
        engine: Of the store.
        folder: Of raw telemetry.
        fleet: Name of the fleet.
        inbox: What came.
        tell: Sends an acknowledgement to a device.
        pace: When it does what.
        trouble: Says why nothing comes; empty where all is well.
    """

    def __init__(
        self,
        engine: Engine,
        folder: Path,
        fleet: str,
        inbox: Inbox,
        tell: Tell,
        pace: Pace | None = None,
        trouble: Callable[[], str] = lambda: "",
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._folder = folder
        self._fleet = fleet
        self._inbox = inbox
        self._tell = tell
        self._trouble = trouble
        self._troubled = ""
        self._pace = pace or Pace()
        self._ledger = Ledger(engine)
        self._duck = raw.connect()
        self._known: Collection[str] = self._ledger.devices()
        self._pending = Pending()
        self._file: raw.RawFile | None = None
        self._due_s = self._devices_due_s = self._alive_due_s = 0.0
        self._is_mute = False
        self._complained: dict[tuple[str, str], float] = {}
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.counts["orphans"] += raw.remove_orphans(folder, self._ledger.raw_names())

    def run(self, stop: threading.Event) -> None:
        """Work until told to stop; what has come is stored first."""
        try:
            while not stop.is_set():
                self.step(stop)
            why = self._finish()
            if why:
                log.error("what came last is not stored, devices send it again: %s", why)
            self._say_alive("stopped", why)
        finally:
            self._duck.close()
            self._ledger.close()

    def step(self, stop: threading.Event) -> None:
        """Take what came, and store it where it is time."""
        started = not self._pending.is_empty
        now_s = time.monotonic()
        wait_s = max(0.0, self._due_s - now_s) if started else 0.5
        arrived = self._inbox.take(wait_s)
        if arrived and not started:
            self._due_s = time.monotonic() + self._pace.flush_s
        for item in arrived:
            self._take([item])
            if self._is_much:
                self._store_or_wait(stop)
            if self._is_much:
                return  # told to stop: devices send the rest again
        now_s = time.monotonic()
        if self._is_due(now_s):
            self._store_or_wait(stop)
        if now_s >= self._devices_due_s:
            self._devices_due_s = now_s + self._pace.devices_s
            self._known = self._ledger.devices()
        why = self._trouble()
        if now_s >= self._alive_due_s or why != self._troubled:
            self._troubled = why
            self._say_alive("waiting" if why else "running", why)

    def _finish(self) -> str:
        """Store what has come, and return why that fails; empty where it does not."""
        for item in self._inbox.take(0.0, most=1_000_000):
            self._take([item])
            why = self._try_store() if self._is_much else ""
            if why:
                return why
        return "" if self._pending.is_empty else self._try_store()

    @property
    def _is_much(self) -> bool:
        return self._pending.size_bytes >= self._pace.max_bytes

    def _is_due(self, now_s: float) -> bool:
        if self._pending.is_empty:
            return False
        return now_s >= self._due_s or len(self._pending.lines) >= self._pace.max_rows

    def _take(self, arrived: list[Arrived]) -> None:
        for item in arrived:
            found = self._decoded(item)
            if isinstance(found, Refusal):
                self.counts[f"refused_{found.reason}"] += 1
                self._complain(found)
            elif isinstance(found, Telemetry):
                gather(self._pending, self._ledger, found, item.received_s)
            elif isinstance(found, Control):
                retained = item.is_retained
                control(self._pending, found, item.received_s, is_retained=retained)

    def _complain(self, found: Refusal) -> None:
        """Log what is refused, and of whom; once an hour, for it may come every second."""
        key, now_s = (found.device, found.reason), time.monotonic()
        if now_s - self._complained.get(key, -COMPLAIN_S) < COMPLAIN_S:
            return
        if len(self._complained) >= _MOST_COMPLAINTS:
            del self._complained[next(iter(self._complained))]
        self._complained[key] = now_s
        log.warning(
            "%s: what it sends is refused, %s; counted as refused_%s, and said again in an hour%s",
            found.device or "somebody", found.detail or "it is not registered", found.reason,
            _NEXT.get(found.reason, ""),
        )  # fmt: skip

    def _decoded(self, item: Arrived) -> Telemetry | Control | Refusal:
        found = decode(item.topic, item.payload, self._fleet, self._known)
        is_unknown = isinstance(found, Refusal) and found.reason == "unknown_device"
        if is_unknown and self._ledger.has_device(found.device):
            # It came a moment ago, and what it says first is said once.
            self._known = self._ledger.devices()
            found = decode(item.topic, item.payload, self._fleet, self._known)
        return found

    def _store_or_wait(self, stop: threading.Event) -> None:
        """Store what is gathered; as long as that fails, nothing more is taken."""
        waiting = ""
        while True:
            why = self._try_store()
            if not why:
                break
            if why != waiting:
                log.error(
                    "ingest waits, and acknowledges nothing; devices keep what they have: %s", why
                )
                waiting = why
            self._say_alive("waiting", why)
            if stop.wait(self._pace.retry_s):
                return
        if waiting:
            log.warning("ingest works again")
            self._say_alive("running", "")

    def _try_store(self) -> str:
        import duckdb

        try:
            free = shutil.disk_usage(self._folder).free
            if free < self._pace.min_free_bytes:
                return (
                    f"the disk is full: less than {self._pace.min_free_bytes >> 20} MiB are free"
                    f" in {self._folder}; make room, or lower retention.gib in fleet.toml and"
                    " start the fleet again"
                )
            self._store()
        except (OSError, duckdb.Error, sqlite3.Error) as error:
            first, *_ = str(error).splitlines() or [type(error).__name__]
            return first[:300]
        return ""

    def _store(self) -> None:
        pending = self._pending
        if pending.lines and self._file is None:
            name = raw.new_name(pending.first_s)
            size = raw.write_lines(self._duck, self._folder, name, pending.lines)
            rows = len(pending.lines)
            self._file = raw.RawFile(name, rows, size, pending.first_s, pending.last_s)
        self._ledger.commit(pending, self._file)
        self._pending, self._file = Pending(), None
        self.counts.update(pending.counts)
        self.counts["flushes"] += 1
        for device, ack in pending.ack_messages():
            self._tell(device, ack)
            self.counts["acks"] += 1

    def _say_alive(self, status: str, detail: str) -> None:
        self._alive_due_s = time.monotonic() + self._pace.alive_s
        try:
            self._ledger.alive(time.time(), status, detail, dict(self.counts))
        except sqlite3.Error as error:
            if not self._is_mute:
                log.warning("ingest cannot say how it is: %s", error)
            self._is_mute = True
        else:
            self._is_mute = False
