"""The outbox of a simulated device: batches ready to be sent, kept until they are acknowledged."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from edgekit.wire.messages import Ack

RESEND_S = 30.0
RESEND_MAX_S = 300.0
IN_FLIGHT = 8


@dataclass
class Held:
    """One batch.

    Attributes:
        first: Sequence number of its first message.
        last: Of its last one.
        payload: As it travels.
        sent_s: When it was sent last; None where it waits.
        sent: How often it was sent.
        left: Numbers that are not acknowledged; None for all of them.
    """

    first: int
    last: int
    payload: bytes
    sent_s: float | None = None
    sent: int = 0
    left: set[int] | None = None

    @property
    def messages(self) -> int:
        """How many are not acknowledged."""
        return self.last - self.first + 1 if self.left is None else len(self.left)


@dataclass
class SimOutbox:
    """All that one process of a device has not been relieved of.

    Attributes:
        boot_id: Of the process.
        cap: Batches that it holds; the oldest goes where one more comes.
        held: What there is, oldest first.
        drops: By reason, how many messages the cap has taken.
        patience_s: A silence after which everything is sent again; doubles as the agent's does.
        most: Batches that may be under way; one alone as long as nobody answers.
    """

    boot_id: str
    cap: int = 360
    held: dict[int, Held] = field(default_factory=dict)
    drops: Counter[str] = field(default_factory=Counter)
    patience_s: float = RESEND_S
    most: int = IN_FLIGHT

    @property
    def messages(self) -> int:
        """How many messages are held."""
        return sum(batch.messages for batch in self.held.values())

    def add(self, batch: Held) -> None:
        """Keep a batch."""
        while len(self.held) >= self.cap:
            oldest = self.held.pop(next(iter(self.held)))
            self.drops["cap_sent" if oldest.sent else "cap"] += oldest.messages
        self.held[batch.first] = batch

    def restart(self) -> None:
        """Begin anew on a new connection: everything is sent again."""
        for batch in self.held.values():
            batch.sent_s = None

    def due(self, now_s: float) -> list[Held]:
        """Return what is to be sent now, and note that it was.

        Args:
            now_s: Seconds.
        """
        flying = [batch for batch in self.held.values() if batch.sent_s is not None]
        if flying and min(batch.sent_s or 0.0 for batch in flying) + self.patience_s <= now_s:
            self.restart()
            self.patience_s, self.most = min(2 * self.patience_s, RESEND_MAX_S), 1
            flying = []
        room = self.most - len(flying)
        ready: list[Held] = []
        for batch in self.held.values():
            if len(ready) >= room:
                break
            if batch.sent_s is None:
                batch.sent_s, batch.sent = now_s, batch.sent + 1
                ready.append(batch)
        return ready

    def acknowledge(self, ack: Ack) -> list[Held]:
        """Delete what the fleet has committed; return the batches that are whole now.

        Args:
            ack: Of this process or of another.
        """
        if ack.boot_id != self.boot_id:
            return []
        whole: list[Held] = []
        for batch in list(self.held.values()):
            if batch.sent == 0 or ack.last < batch.first or batch.last < ack.first:
                continue
            if batch.left is None and ack.first <= batch.first and batch.last <= ack.last:
                batch.left = set()
            else:
                numbers = batch.left
                if numbers is None:
                    numbers = set(range(batch.first, batch.last + 1))
                batch.left = {n for n in numbers if not ack.first <= n <= ack.last}
            self.patience_s, self.most = RESEND_S, IN_FLIGHT
            if not batch.left:
                whole.append(self.held.pop(batch.first))
        return whole
