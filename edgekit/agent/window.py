"""What to send when: batches of the outbox, a bounded number in flight, again after a silence.

Pure bookkeeping under a clock that is passed in; the link and the simulator drive it. A batch is in
flight from its publish until the fleet has acknowledged every message of it: a PUBACK only says
that the broker has it. Where the acknowledgement stays away, everything in flight is sent again,
but one batch at a time and less and less often, until the fleet answers: a week without its ingest
costs a publish every ten minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgekit.agent.outbox import Key, Outbox
from edgekit.runtime.batches import pack
from edgekit.wire.messages import Ack


@dataclass(frozen=True)
class Pace:
    """How the outbox is emptied.

    Attributes:
        flush_s: Messages wait up to this long for others to travel with; events do not wait.
        resend_s: A silence of this long means that a batch is lost.
        resend_max_s: The longest silence, after several in a row.
        in_flight: Batches that wait for their acknowledgement.
        batch_bytes: JSON of one batch, before it is compressed.
        batch_messages: Messages of one batch.
    """

    flush_s: float = 10.0
    resend_s: float = 30.0
    resend_max_s: float = 600.0
    in_flight: int = 4
    batch_bytes: int = 1 << 18
    batch_messages: int = 500


@dataclass
class _Flight:
    keys: set[Key]
    sent_s: float


class Window:
    """The batches in flight.

    Args:
        outbox: Where they come from.
        pace: How it is emptied.
        random: Gives numbers in 0..1, so that devices do not send again in step.
    """

    def __init__(self, outbox: Outbox, pace: Pace, random: Callable[[], float]) -> None:
        self._outbox = outbox
        self._pace = pace
        self._random = random
        self._flights: list[_Flight] = []
        self._after: Key | None = None
        self._flush_at_s = 0.0
        self._events_seen = -1
        self._patience_s = pace.resend_s
        self._most = pace.in_flight

    @property
    def in_flight(self) -> int:
        """Batches that wait for their acknowledgement."""
        return len(self._flights)

    def restart(self, now_s: float) -> None:
        """Begin anew on a new connection: what was in flight is sent again.

        Args:
            now_s: Monotonic time in seconds.
        """
        self._flights.clear()
        self._after = None
        self._flush_at_s = now_s

    def next_payload(self, now_s: float) -> bytes | None:
        """Return the next batch to publish, compressed; None where there is none yet.

        Args:
            now_s: Monotonic time in seconds.
        """
        if self._flights and now_s - self._flights[0].sent_s >= self._patience_s:
            self.restart(now_s)
            self._most = 1
            longer_s = min(2 * self._patience_s, self._pace.resend_max_s)
            self._patience_s = longer_s * (0.75 + self._random() / 4)
        if len(self._flights) >= self._most or not self._due(now_s):
            return None
        self._events_seen = self._outbox.events_put
        self._flush_at_s = now_s + self._pace.flush_s
        if not self._flights:
            self._after = None
        batch = self._outbox.batch(self._pace.batch_bytes, self._pace.batch_messages, self._after)
        if batch is None:
            return None
        keys = [(message.boot_id, message.seq) for message in batch.messages]
        self._after = keys[-1]
        self._flights.append(_Flight(set(keys), now_s))
        return pack(batch)

    def acknowledge(self, ack: Ack) -> int:
        """Take the fleet's word; return how many messages it has freed.

        What the disk would not delete stays in flight, and is sent again after the silence.
        """
        deleted = self._outbox.acknowledge(ack)
        if not deleted:
            return 0
        for flight in self._flights:
            flight.keys = {
                (boot_id, seq)
                for boot_id, seq in flight.keys
                if boot_id != ack.boot_id or not ack.first <= seq <= ack.last
            }
        self._flights = [flight for flight in self._flights if flight.keys]
        self._patience_s = self._pace.resend_s
        self._most = self._pace.in_flight
        return deleted

    def _due(self, now_s: float) -> bool:
        if now_s >= self._flush_at_s or self._outbox.events_put != self._events_seen:
            return True
        flying = sum(len(flight.keys) for flight in self._flights)
        return self._outbox.stats().messages - flying >= self._pace.batch_messages
