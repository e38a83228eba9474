"""The outbox's SQLite file: its tables, how it is opened, and what is done with a corrupt one.

WAL with ``synchronous=NORMAL``: a commit survives the death of the process at any moment, for the
kernel has the pages; a power cut may take the last samples but never corrupts the file. ``FULL``
would sync the SD card 86,400 times a day at 1 Hz. An event is committed with ``FULL``: the last
words before a power cut are worth one sync. Locking is exclusive: two agents on one file would each
keep books of their own.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

_SCHEMA = """
CREATE TABLE IF NOT EXISTS boots (
  place INTEGER PRIMARY KEY, boot_id TEXT NOT NULL UNIQUE, issued INTEGER NOT NULL,
  messages INTEGER NOT NULL, bytes INTEGER NOT NULL, sent INTEGER NOT NULL,
  drops TEXT NOT NULL, told INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS messages (
  place INTEGER NOT NULL, seq INTEGER NOT NULL, event INTEGER NOT NULL, bytes INTEGER NOT NULL,
  body BLOB NOT NULL, PRIMARY KEY (place, seq));
CREATE INDEX IF NOT EXISTS samples ON messages (place, seq) WHERE event = 0;
CREATE INDEX IF NOT EXISTS events ON messages (place, seq) WHERE event = 1;
"""
_SAVE = """
INSERT INTO boots VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (place) DO UPDATE SET
  issued = excluded.issued, messages = excluded.messages, bytes = excluded.bytes,
  sent = excluded.sent, drops = excluded.drops, told = excluded.told
"""
_BUSY_S = 1.0
# Stands for the processes whose books were folded into one.
OLDER = "0" * 16
_CORRUPT = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_REOPEN = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY})

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Boot:
    """The books of one agent process.

    Attributes:
        place: Its place in the order of processes: never by time, for clocks jump.
        boot_id: 16 hex digits.
        issued: Sequence numbers given out: 0 up to this one, excluded.
        messages: Of it that are in the file.
        size_bytes: What they count against the cap.
        sent: The highest number that was ever handed out for sending; -1 for none.
        drops: Reason to count of what will never arrive.
        told: How many drops the fleet has acknowledged to know of.
    """

    place: int
    boot_id: str
    issued: int = 0
    messages: int = 0
    size_bytes: int = 0
    sent: int = -1
    drops: dict[str, int] = field(default_factory=dict)
    told: int = 0

    @property
    def dropped(self) -> int:
        """All drops."""
        return sum(self.drops.values())

    @property
    def done(self) -> bool:
        """Whether nothing of it is left to send or to say."""
        return not self.messages and self.told >= self.dropped

    def and_drops(self, reason: str, count: int) -> dict[str, int]:
        """Return the drops with some more."""
        return {**self.drops, reason: self.drops.get(reason, 0) + count}


class Books:
    """The boots as a transaction changes them; the old ones stay until it is committed.

    Attributes:
        changed: What the transaction has changed.
        places: Place to boot id.
    """

    def __init__(self, boots: dict[str, Boot]) -> None:
        self._boots = boots
        self.changed: dict[str, Boot] = {}
        self.places = {boot.place: name for name, boot in boots.items()}

    def __getitem__(self, boot_id: str) -> Boot:
        return self.changed.get(boot_id) or self._boots[boot_id]

    def take(self, place: int, messages: int, size_bytes: int, reason: str | None) -> Boot:
        """Take rows out of the books; with a reason, as drops."""
        boot = self[self.places[place]]
        drops = boot.drops if reason is None else boot.and_drops(reason, messages)
        left = boot.messages - messages, boot.size_bytes - size_bytes
        self.changed[boot.boot_id] = replace(
            boot, messages=left[0], size_bytes=left[1], drops=drops
        )
        return self.changed[boot.boot_id]


def primary_code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code of an error; 0 where there is none."""
    code = getattr(error, "sqlite_errorcode", 0)
    return int(code or 0) & 0xFF


def is_corrupt(error: sqlite3.Error) -> bool:
    """Tell whether the file itself is broken."""
    return primary_code(error) in _CORRUPT


def needs_reopening(error: sqlite3.Error) -> bool:
    """Tell whether a new connection may help: the medium failed, or was not there."""
    return primary_code(error) in _REOPEN


def open_file(path: Path) -> sqlite3.Connection:
    """Open the file, and make it where it is not there.

    Raises:
        sqlite3.Error: It cannot be opened, is locked by another process, or is corrupt.
    """
    db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA journal_size_limit = 4194304")
        db.execute("PRAGMA cache_size = -512")
        db.executescript(_SCHEMA)
    except sqlite3.Error:
        db.close()
        raise
    return db


def load_boots(db: sqlite3.Connection) -> dict[str, Boot]:
    """Read the books, in the order of the processes.

    Raises:
        sqlite3.Error: They cannot be read.
    """
    boots = {}
    for place, boot_id, issued, messages, size, sent, drops, told in db.execute(
        "SELECT * FROM boots ORDER BY place"
    ):
        try:
            counts = {str(reason): int(n) for reason, n in json.loads(drops).items()}
        except (ValueError, TypeError, AttributeError):
            counts = {}
        boots[boot_id] = Boot(place, boot_id, issued, messages, size, sent, counts, told)
    return boots


def save_boots(db: sqlite3.Connection, boots: Iterable[Boot], keep: str) -> list[str]:
    """Write books, and forget those of processes of which nothing is left to say.

    Args:
        db: Within a transaction.
        boots: What changed.
        keep: The running process, whose books stay.

    Returns:
        The processes that are forgotten.

    Raises:
        sqlite3.Error: They cannot be written.
    """
    gone = []
    for boot in boots:
        if boot.boot_id != keep and boot.done:
            db.execute("DELETE FROM boots WHERE place = ?", (boot.place,))
            gone.append(boot.boot_id)
            continue
        db.execute(
            _SAVE,
            (
                *(boot.place, boot.boot_id, boot.issued, boot.messages, boot.size_bytes),
                *(boot.sent, json.dumps(boot.drops), boot.told),
            ),
        )
    return gone


def fold_oldest(empty: Sequence[Boot], most: int) -> tuple[Boot, list[Boot]] | None:
    """Fold the books of the oldest processes into one where there are too many.

    A device that restarts every few seconds, for months, without a network would grow them.

    Args:
        empty: Processes with drops to tell and no message left, oldest first.
        most: How many may stay.

    Returns:
        The books of "older processes", and those that they replace; None where there are few.
    """
    if len(empty) <= most:
        return None
    folded = list(empty[: len(empty) - most // 2])
    drops: Counter[str] = Counter()
    for boot in folded:
        drops.update(boot.drops)
    # Told sums up as well; what was told of a part is told again as a part of the whole.
    issued = sum(boot.issued for boot in folded)
    told = sum(boot.told for boot in folded)
    return Boot(0, OLDER, issued, drops=dict(drops), told=told), folded


def move_aside(path: Path) -> Path | None:
    """Rename a corrupt file and what belongs to it; only the newest one is kept.

    Returns:
        Where it is now, or None where even that failed.
    """
    aside = path.with_name(f"{path.name}.corrupt")
    try:
        for suffix in ("-wal", "-shm", ""):
            part = path.with_name(f"{path.name}{suffix}")
            if part.exists():
                part.replace(aside.with_name(f"{aside.name}{suffix}"))
    except OSError as error:
        log.warning("%s is corrupt and cannot be moved aside: %s", path, error.strerror)
        return None
    log.warning("%s is corrupt: moved to %s, a new one is begun", path, aside.name)
    return aside
