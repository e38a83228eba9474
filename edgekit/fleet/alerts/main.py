"""The process that watches a fleet: alerts, and orders that nobody else follows just now."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from edgekit.wire.errors import EdgekitError

log = logging.getLogger(__name__)

ALERTS_S = 10.0
ORDERS_S = 1.0
REMOVED_S = 86_400.0
# A store or a broker that is away is tried again after so long at most.
MAX_WAIT_S = 60.0


class Ticks(Protocol):
    """Something that looks, and does what is to be done."""

    def tick(self, now_s: float) -> object:
        """Look once."""
        ...


@dataclass
class Duty:
    """Something that is done again and again; what fails waits longer.

    Attributes:
        name: For the log.
        tick: Does it.
        period_s: How often.
    """

    name: str
    tick: Callable[[float], object]
    period_s: float
    due_s: float = 0.0
    failed: int = 0

    def run(self, now_s: float, monotonic_s: float) -> None:
        """Do it where it is due; nothing that goes wrong ends the process.

        Args:
            now_s: Unix time in seconds.
            monotonic_s: A clock that never jumps.
        """
        if monotonic_s < self.due_s:
            return
        try:
            self.tick(now_s)
        except EdgekitError as error:
            self._failed(str(error))
        except Exception as error:  # noqa: BLE001 - the store's and the broker's libraries have trees of their own
            self._failed(f"{type(error).__name__}: {error}", trace=self.failed == 0)
        else:
            if self.failed:
                log.warning("%s: works again", self.name)
            self.failed = 0
        wait_s = min(self.period_s * 2.0 ** min(self.failed, 30), max(MAX_WAIT_S, self.period_s))
        self.due_s = monotonic_s + wait_s

    def _failed(self, why: str, *, trace: bool = False) -> None:
        self.failed += 1
        log.warning("%s: %s", self.name, why, exc_info=trace)


def loop(
    duties: list[Duty],
    stop: threading.Event,
    unix_s: Callable[[], float],
    monotonic_s: Callable[[], float],
) -> None:
    """Do what is due until told to stop.

    Args:
        duties: What is to be done.
        stop: Set from anywhere.
        unix_s: Unix time in seconds.
        monotonic_s: A clock that never jumps.
    """
    while not stop.is_set():
        for duty in duties:
            duty.run(unix_s(), monotonic_s())
        wait_s = min(duty.due_s for duty in duties) - monotonic_s()
        stop.wait(max(0.05, wait_s))
