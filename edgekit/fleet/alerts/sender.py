"""Sending notices in the background: one thread a channel, bounded queues, bounded retries."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from edgekit.fleet.alerts.channels import Channel
from edgekit.fleet.alerts.notice import Notice
from edgekit.fleet.alerts.send import Outcome

log = logging.getLogger(__name__)

MAX_WAITING = 1000
# Seconds before the second try, the third, …; after the last one it is given up.
WAITS_S = (1.0, 5.0, 30.0, 120.0, 600.0)
_JITTER = 0.2

Send = Callable[[Channel, Notice], Outcome]
Done = Callable[[Channel, Notice, Outcome], None]


@dataclass(frozen=True)
class Retries:
    """How often to try, and how long to wait between two tries.

    Attributes:
        waits_s: One fewer than there are tries.
        random: Numbers in 0..1, so that many channels do not come back in step.
    """

    waits_s: tuple[float, ...]
    random: Callable[[], float]

    def wait_s(self, failed: int) -> float | None:
        """Return the wait after some tries have failed; None to give up.

        Args:
            failed: 1 after the first.
        """
        if failed > len(self.waits_s):
            return None
        return self.waits_s[failed - 1] * (1 + _JITTER * self.random())


class Sender:
    """Sends notices over channels, so that one that hangs holds up no other.

    Args:
        channels: By name.
        send: Sends one notice over one channel.
        retries: How often.
        on_done: Told what came of each notice in the end, from a channel's thread.
    """

    def __init__(
        self,
        channels: Mapping[str, Channel],
        send: Send,
        retries: Retries,
        on_done: Done = lambda _channel, _notice, _outcome: None,
    ) -> None:
        self._channels = dict(channels)
        self._send = send
        self._retries = retries
        self._on_done = on_done
        self._stop = threading.Event()
        self._queues: dict[str, queue.Queue[Notice | None]] = {
            name: queue.Queue(MAX_WAITING) for name in channels
        }
        self._threads = [
            threading.Thread(target=self._run, args=(name,), name=f"alerts-{name}", daemon=True)
            for name in channels
        ]
        for thread in self._threads:
            thread.start()

    def put(self, notice: Notice, names: Iterable[str] | None = None) -> list[str]:
        """Hand a notice over; returns at once.

        Args:
            notice: What to send.
            names: Of the channels; None for all.

        Returns:
            The channels that will try. One whose queue is full is left out.
        """
        taken = []
        for name in self._channels if names is None else names:
            waiting = self._queues.get(name)
            if waiting is None:
                continue
            try:
                waiting.put_nowait(notice)
            except queue.Full:
                log.error("%s: over %d alerts wait; one is not sent", name, MAX_WAITING)  # noqa: TRY400 - nothing to trace
                continue
            taken.append(name)
        return taken

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the threads; what waits for another try is given up."""
        self._stop.set()
        for waiting in self._queues.values():
            with contextlib.suppress(queue.Full):  # then its thread looks at the flag
                waiting.put_nowait(None)
        for thread in self._threads:
            thread.join(timeout_s)

    def _run(self, name: str) -> None:
        channel, waiting = self._channels[name], self._queues[name]
        while not self._stop.is_set():
            notice = waiting.get()
            if notice is None:
                return
            try:
                outcome = self._deliver(channel, notice)
                if outcome is not None:
                    self._on_done(channel, notice, outcome)
            except Exception as error:  # noqa: BLE001 - a store that is locked or full
                # The channel must live on. A text might hold a secret.
                kind = type(error).__name__
                log.error("%s: what became of an alert is not kept: %s", name, kind)  # noqa: TRY400

    def _deliver(self, channel: Channel, notice: Notice) -> Outcome | None:
        failed = 0
        while not self._stop.is_set():
            outcome = self._send(channel, notice)
            if outcome.ok:
                return outcome
            failed += 1
            wait_s = self._retries.wait_s(failed) if outcome.again else None
            place = (channel.name, channel.kind, channel.where)
            if wait_s is None:
                log.error("%s (%s, %s): an alert is not sent: %s", *place, outcome.problem)
                return outcome
            log.warning("%s (%s, %s): %s; again in %.0f s", *place, outcome.problem, wait_s)
            self._stop.wait(wait_s)
        return None
