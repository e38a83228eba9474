"""The outbox: every message is in SQLite before it is sent, and stays until the fleet has it.

What holds at any moment, kill -9 included: for each process, ``issued`` is the messages that the
fleet has acknowledged, plus those in here, plus the drops. Nothing is deleted but by the fleet's
word (:meth:`Outbox.acknowledge`) or by the cap, and what the cap takes is counted, under a name:

==============  ==========================================================================
``cap``         a sample that made room
``cap_event``   an event that made room: there was no sample left
``cap_sent``    had been sent, but its acknowledgement never came; it may have arrived
``disk``        could not be written: full, read-only, failing, locked
``corrupt``     was in a file that broke
``too_large``   over 64 KiB
==============  ==========================================================================

The counts go to the fleet as an event named ``drops``, again and again until it is acknowledged.
Order is by (process, seq), never by time. No method raises for what the disk does.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from edgekit.agent.outbox_file import (
    Books,
    Boot,
    fold_oldest,
    is_corrupt,
    load_boots,
    move_aside,
    needs_reopening,
    open_file,
    save_boots,
)
from edgekit.wire.canonical import Json
from edgekit.wire.errors import TrustError
from edgekit.wire.messages import MAX_MESSAGE_BYTES, Ack, Batch, Kind, Message, parse_message
from edgekit.wire.strict import MAX_INTEGER
from edgekit.wire.values import tidy

# What SQLite needs for a row beside its body; half-full pages add up to a third for large ones.
ROW_BYTES = 64
MAX_BOOTS_TOLD = 64
MAX_EMPTY_BOOTS = 512
_EVICT_ROWS = 16
_VACUUM_PAGES = 256
# Who goes first when the cap is reached: (event, already sent, counted as).
_VICTIMS = (
    (0, False, "cap"), (0, True, "cap_sent"), (1, False, "cap_event"), (1, True, "cap_sent"),
)  # fmt: skip

T = TypeVar("T")
Key = tuple[str, int]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OutboxStats:
    """How the outbox stands.

    Attributes:
        messages: Waiting.
        size_bytes: What they count against the cap.
        drops: Reason to count: of this process, and of earlier ones until the fleet knows of all.
        problem: The disk's last error; empty where the last write went well.
    """

    messages: int
    size_bytes: int
    drops: Mapping[str, int]
    problem: str


class Outbox:
    """A durable queue of messages, safe to use from several threads.

    Args:
        path: The SQLite file; its folder must exist.
        cap_bytes: What the messages may take.
        boot_id: 16 hex digits, random for each process.
        clock: Gives Unix time in seconds.
    """

    def __init__(
        self, path: Path, cap_bytes: int, boot_id: str, clock: Callable[[], float]
    ) -> None:
        self.path = path
        self.cap_bytes = cap_bytes
        self.boot_id = boot_id
        self.events_put = 0
        self._clock = clock
        self._lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._problem = ""
        self._boots = {boot_id: Boot(1, boot_id)}
        self._size_bytes = 0
        self._telling: tuple[int, dict[str, int]] | None = None
        self._broken: dict[str, Json] = {}
        self._unsaved = dict(self._boots)
        with self._lock:
            self._transact(lambda _db, _books: None)
            self._tell_broken()

    def put(self, kind: Kind, values: Mapping[str, object]) -> int:
        """Store a message; what cannot be stored is counted. Never raises.

        Args:
            kind: ``sample`` or ``event``.
            values: What it says; made to fit by :func:`edgekit.wire.values.tidy`.

        Returns:
            Its sequence number.
        """
        with self._lock:
            seq = self._store(kind, values)
            self._tell_broken()
            return seq

    def batch(
        self, max_bytes: int = 1 << 18, max_messages: int = 500, after: Key | None = None
    ) -> Batch | None:
        """Return the oldest messages, which stay in here; None where there are none.

        Args:
            max_bytes: Of JSON; one message is returned even if it alone is more.
            max_messages: At most.
            after: ``(boot_id, seq)`` of the last message of the batch before, to go on from.
        """
        with self._lock:
            self._tell_drops()
            boot = self._boots.get(after[0]) if after else None
            start = (boot.place, after[1]) if boot and after else (0, -1)
            return self._transact(
                lambda db, books: self._collect(db, books, start, max_bytes, max_messages)
            )

    def acknowledge(self, ack: Ack) -> int:
        """Delete what the fleet has committed. Numbers that were never sent are left alone.

        Args:
            ack: From the network, so it may claim anything.

        Returns:
            How many messages were deleted.
        """
        with self._lock:
            deleted = self._transact(lambda db, books: self._delete(db, books, ack)) or 0
            if deleted:
                self._shrink()
            return deleted

    def stats(self) -> OutboxStats:
        """Return how the outbox stands."""
        with self._lock:
            drops: dict[str, int] = {}
            for boot in self._boots.values():
                for reason, count in boot.drops.items():
                    drops[reason] = drops.get(reason, 0) + count
            messages = sum(boot.messages for boot in self._boots.values())
            return OutboxStats(messages, self._size_bytes, drops, self._problem)

    def close(self) -> None:
        """Close the file; a courtesy: nothing depends on it."""
        with self._lock:
            if self._db is not None:
                self._db.close()
            self._db = None

    def _store(self, kind: Kind, values: Mapping[str, object], *, evict: bool = True) -> int:
        now_s = self._clock()
        time_s = now_s if 0 <= now_s <= MAX_INTEGER else 0.0
        seq = self._boots[self.boot_id].issued
        body = Message(self.boot_id, seq, time_s, kind, tidy(values)).to_bytes()
        event = kind == "event"
        cap = self.cap_bytes if evict else MAX_INTEGER
        self.events_put += event
        if len(body) > MAX_MESSAGE_BYTES:
            log.warning("message %d is over %d bytes: dropped", seq, MAX_MESSAGE_BYTES)
            self._lost("too_large")
        elif self._transact(lambda db, b: self._insert(db, b, event, body, cap), event) is None:
            self._lost("disk")
        return seq

    def _insert(
        self, db: sqlite3.Connection, books: Books, event: bool, body: bytes, cap: int
    ) -> bool:
        own = books[self.boot_id]
        size = len(body) + ROW_BYTES
        row = (own.place, own.issued, int(event), size, body)
        db.execute("INSERT INTO messages VALUES (?, ?, ?, ?, ?)", row)
        books.changed[self.boot_id] = replace(
            own,
            issued=own.issued + 1,
            messages=own.messages + 1,
            size_bytes=own.size_bytes + size,
        )
        over = self._size_bytes + size - cap
        for victims in _VICTIMS:
            while over > 0 and (freed := self._evict(db, books, over, *victims)):
                over -= freed
        return True

    def _evict(
        self, db: sqlite3.Connection, books: Books, over: int, event: int, sent: bool, reason: str
    ) -> int:
        """Delete some of the oldest of one kind; return the bytes that this freed."""
        # The literal in the text, not a parameter, lets SQLite use the partial index.
        rows = db.execute(
            f"SELECT m.place, m.seq, m.bytes FROM messages m JOIN boots b USING (place)"  # noqa: S608 - two integers of ours
            f" WHERE m.event = {int(event)} AND (m.seq <= b.sent) = {int(sent)}"
            f" ORDER BY m.place, m.seq LIMIT {_EVICT_ROWS}"
        ).fetchall()
        freed = 0
        for place, seq, size in rows:
            if freed >= over:
                break
            db.execute("DELETE FROM messages WHERE place = ? AND seq = ?", (place, seq))
            books.take(place, 1, size, reason)
            freed += size
            if event and self._telling and (books.places[place], seq) == self._told_key():
                self._telling = None
        return freed

    def _collect(
        self,
        db: sqlite3.Connection,
        books: Books,
        start: tuple[int, int],
        max_bytes: int,
        max_messages: int,
    ) -> Batch | None:
        messages: list[Message] = []
        total = 0
        for place, seq, size, body in db.execute(
            "SELECT place, seq, bytes, body FROM messages WHERE (place, seq) > (?, ?)"
            " ORDER BY place, seq LIMIT ?",
            (*start, max_messages),
        ).fetchall():
            total += len(body)
            if messages and total > max_bytes:
                break
            try:
                messages.append(parse_message(body))
            except TrustError:
                # One flipped bit must not hold up everything behind it.
                db.execute("DELETE FROM messages WHERE place = ? AND seq = ?", (place, seq))
                books.take(place, 1, size, "corrupt")
        for boot_id in {message.boot_id for message in messages}:
            last = max(message.seq for message in messages if message.boot_id == boot_id)
            if last > books[boot_id].sent:
                books.changed[boot_id] = replace(books[boot_id], sent=last)
        return Batch(tuple(messages)) if messages else None

    def _delete(self, db: sqlite3.Connection, books: Books, ack: Ack) -> int:
        if ack.boot_id not in self._boots:
            return 0
        boot = books[ack.boot_id]
        span = (boot.place, ack.first, min(ack.last, boot.sent))
        where = "FROM messages WHERE place = ? AND seq BETWEEN ? AND ?"
        count, size = db.execute(f"SELECT count(*), total(bytes) {where}", span).fetchone()
        db.execute(f"DELETE {where}", span)
        books.take(boot.place, count, int(size), None)
        if self._telling and ack.boot_id == self.boot_id and span[1] <= self._telling[0] <= span[2]:
            for boot_id, dropped in self._telling[1].items():
                if boot_id in self._boots:
                    books.changed[boot_id] = replace(books[boot_id], told=dropped)
            self._telling = None
        return int(count)

    def _told_key(self) -> Key | None:
        return (self.boot_id, self._telling[0]) if self._telling else None

    def _tell_drops(self) -> None:
        """Put an event with all counts that the fleet does not know, unless one is on its way."""
        untold = [boot for boot in self._boots.values() if boot.dropped > boot.told]
        told = {boot.boot_id: boot.dropped for boot in untold[:MAX_BOOTS_TOLD]}
        if not untold or self._problem or (self._telling and self._telling[1] == told):
            return
        rows: list[Json] = [
            {"boot_id": boot.boot_id, "issued": boot.issued, "drops": dict(boot.drops)}
            for boot in untold[:MAX_BOOTS_TOLD]
        ]
        # It may go beyond the cap for a moment: to make room for it would change the counts again.
        seq = self._store("event", {"name": "drops", "boots": rows}, evict=False)
        self._telling = (seq, told)

    def _lost(self, reason: str) -> None:
        # In memory; the next write that succeeds takes it along.
        own = self._boots[self.boot_id]
        lost = replace(own, issued=own.issued + 1, drops=own.and_drops(reason, 1))
        self._boots[self.boot_id] = lost

    def _transact(
        self, work: Callable[[sqlite3.Connection, Books], T], durable: bool = False
    ) -> T | None:
        """Do one piece of work as one transaction; None where the disk would not have it."""
        for attempt in (1, 2):
            try:
                return self._try(work, durable)
            except sqlite3.Error as error:
                self._failed(error)
                if not is_corrupt(error) or attempt == 2:  # noqa: PLR2004 - once more, with a new file
                    return None
        return None

    def _try(self, work: Callable[[sqlite3.Connection, Books], T], durable: bool) -> T:
        db = self._db or self._open()
        db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        books = Books(self._boots)
        db.execute("BEGIN IMMEDIATE")
        gone = save_boots(db, self._unsaved.values(), self.boot_id) if self._unsaved else []
        result = work(db, books)
        gone += save_boots(db, books.changed.values(), self.boot_id)
        db.execute("COMMIT")
        self._boots.update(books.changed)
        for boot_id in gone:
            self._boots.pop(boot_id, None)
        self._size_bytes = sum(boot.size_bytes for boot in self._boots.values())
        self._unsaved = {}
        self._problem = ""
        return result

    def _shrink(self) -> None:
        """Give pages back to the disk, some at a time: after a week offline there are many."""
        try:
            if self._db and self._db.execute("PRAGMA freelist_count").fetchone()[0] > _VACUUM_PAGES:
                # A script: execute() would step it once, which frees one page.
                self._db.executescript(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})")
        except sqlite3.Error as error:
            self._failed(error)

    def _open(self) -> sqlite3.Connection:
        self._db = open_file(self.path)
        held = load_boots(self._db)
        own = self._boots[self.boot_id]
        # A new file knows none of the processes whose messages the old one took along.
        boots = {name: boot for name, boot in self._boots.items() if name not in held} | held
        boots.pop(self.boot_id)
        last = max((boot.place for boot in boots.values()), default=0)
        mine = held.get(self.boot_id) or Boot(max(last + 1, own.place), self.boot_id)
        # What is in the file counts for rows; what this process knows counts for the rest.
        boots[self.boot_id] = replace(mine, issued=own.issued, drops=own.drops, told=own.told)
        self._boots = boots
        new = boots.keys() - held.keys() | {self.boot_id}
        self._unsaved = {name: b for name, b in boots.items() if name in new or b.done}
        self._fold(self._db)
        self._size_bytes = sum(boot.size_bytes for boot in boots.values())
        return self._db

    def _fold(self, db: sqlite3.Connection) -> None:
        empty = [b for b in self._boots.values() if not b.messages and b.boot_id != self.boot_id]
        folded = fold_oldest(empty, MAX_EMPTY_BOOTS)
        if folded is None:
            return
        sums, parts = folded
        db.execute("BEGIN IMMEDIATE")
        db.executemany("DELETE FROM boots WHERE place = ?", [(boot.place,) for boot in parts])
        save_boots(db, [sums], self.boot_id)
        db.execute("COMMIT")
        for boot in parts:
            del self._boots[boot.boot_id]
        self._boots[sums.boot_id] = sums

    def _failed(self, error: sqlite3.Error) -> None:
        problem = str(error)
        if problem != self._problem:
            log.error("outbox: %s: %s", self.path, problem)
        self._problem = problem
        if self._db is not None and self._db.in_transaction:
            with suppress(sqlite3.Error):  # SQLite has rolled back by itself
                self._db.execute("ROLLBACK")
        if is_corrupt(error) or needs_reopening(error):
            self.close()
        if is_corrupt(error):
            self._start_anew()

    def _start_anew(self) -> None:
        """Move a corrupt file aside; all in it is lost, the counts that are in memory live on."""
        aside = move_aside(self.path)
        self._broken = {"name": "outbox_corrupt", "moved_to": aside.name if aside else ""}
        messages = sum(boot.messages for boot in self._boots.values())
        if messages:
            self._broken["messages"] = messages
        for boot in tuple(self._boots.values()):
            drops = boot.and_drops("corrupt", boot.messages) if boot.messages else boot.drops
            self._boots[boot.boot_id] = replace(boot, messages=0, size_bytes=0, drops=drops)
        self._telling = None

    def _tell_broken(self) -> None:
        if self._broken:
            event, self._broken = self._broken, {}
            self.put("event", event)
