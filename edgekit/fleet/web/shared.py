"""What all pages and interfaces work with; answers that many ask for at once are computed once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from edgekit.fleet.alerts.rows import AlertRow, AlertRows
from edgekit.fleet.opened import Opened
from edgekit.fleet.store import queries
from edgekit.fleet.store.reader import Reader
from edgekit.fleet.store.rows import IngestRow, Summary
from edgekit.fleet.store.writes import add_audit
from edgekit.fleet.web.accounts import Accounts, Identity
from edgekit.fleet.web.contracts import Promises

Value = TypeVar("Value")
FRESH_S = 2.0
# Reading what 5,000 devices run takes a while, and changes seldom.
MODELS_S = 10.0
_MOST_KEPT = 256
MOST_ALERTS = 1000


class Memory:
    """Keeps answers for a moment; of several who ask for the same one works.

    Args:
        clock: Monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[Hashable, tuple[float, threading.Lock, list[Any]]] = {}

    def get(self, key: Hashable, fresh_s: float, ask: Callable[[], Value]) -> Value:
        """Return an answer that is at most so old.

        Args:
            key: Of the question.
            fresh_s: How old it may be.
            ask: Finds the answer.
        """
        with self._lock:
            _, lock, _ = self._kept.setdefault(key, (float("-inf"), threading.Lock(), []))
            while len(self._kept) > _MOST_KEPT:
                self._kept.pop(next(iter(self._kept)))
        with lock:
            at_s, _, held = self._kept.get(key, (float("-inf"), lock, []))
            if not held or self._clock() - at_s > fresh_s:
                held = [ask()]
                with self._lock:
                    self._kept[key] = (self._clock(), lock, held)
            found: Value = held[0]
            return found


@dataclass
class Web:
    """A fleet as its web server has it open.

    Attributes:
        opened: Its folder.
        accounts: Who may do what.
        clock: Unix time in seconds.
        memory: Answers of a moment ago.
        heavy: Held by the one query of somebody's own that runs.
    """

    opened: Opened
    accounts: Accounts
    clock: Callable[[], float]
    memory: Memory
    heavy: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.promises = Promises(self.opened.home.bundles)
        self.alert_rows = AlertRows(self.opened.engine)

    @property
    def reader(self) -> Reader:
        """For the store's queries."""
        return self.opened.reader

    @property
    def name(self) -> str:
        """Of the fleet."""
        return self.opened.settings.name

    def summary(self) -> Summary:
        """Return the fleet in numbers."""
        return self.memory.get("summary", FRESH_S, lambda: queries.summary(self.reader))

    def ingest(self) -> IngestRow | None:
        """Return how ingest is."""
        return self.memory.get("ingest", FRESH_S, lambda: queries.ingest(self.reader))

    def open_alerts(self) -> list[AlertRow]:
        """Return the alerts that are open, the newest first."""
        return self.memory.get(
            "alerts", FRESH_S, lambda: list(self.alert_rows.list(limit=MOST_ALERTS))
        )

    def models(self) -> list[Any]:
        """Return the models that any device serves."""
        now_s = self.clock()
        return self.memory.get(
            "models", MODELS_S, lambda: list(queries.models(self.reader, now_s=now_s))
        )

    def note(self, who: Identity | str, action: str, subject: str = "", detail: str = "") -> None:
        """Keep what somebody did in the audit log."""
        user = who if isinstance(who, str) else who.user
        add_audit(self.opened.engine, user, action, subject[:200], detail[:500], self.clock())


async def off_loop(work: Callable[[], Value]) -> Value:
    """Do what waits for the disk in a thread, so that other pages go on."""
    return await asyncio.to_thread(work)
