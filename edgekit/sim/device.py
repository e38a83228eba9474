"""One simulated device: what it says and when. Pure: time, randomness and network are passed in."""

from __future__ import annotations

import logging
import random
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import NamedTuple

from edgekit.agent.logbook import Logbook
from edgekit.runtime import trial_events as on
from edgekit.runtime.trial_rules import TrialRules
from edgekit.runtime.trial_state import Order, Release
from edgekit.sim.faults import Fault
from edgekit.sim.outbox import Held, SimOutbox
from edgekit.sim.samples import BOARDS, Board, Meters
from edgekit.sim.slots import SIM_RULES, SimSlots
from edgekit.wire.canonical import Json, canonical_json, sha256_hex
from edgekit.wire.errors import EdgekitError, TrustError
from edgekit.wire.messages import (
    Hello,
    Message,
    Reply,
    Reported,
    State,
    open_desired,
    parse_ack,
    parse_command,
)
from edgekit.wire.signing import PublicKey
from edgekit.wire.topics import Leaf

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

VERSION = "0.1.0-sim"
FLOOD = 20
MAX_SKEW_S = 30 * 86_400.0
UP_S = 120.0
DOWN_S = 600.0
_LEVEL = 1
# Of its log; there are thousands of devices.
_LINES = 40
_COMMANDS = ("ping", "logs")
_MALFORMED = (
    b"",
    b"\x28\xb5\x2f\xfd",
    b'{"messages":[]}',
    zstd.compress(b'{"messages":[{"boot_id":"not hex","seq":-1}]}'),
    zstd.compress(b"[" * 5000),
    bytes(range(256)),
)


class Publish(NamedTuple):
    """Something to publish at QoS 1."""

    leaf: Leaf
    payload: bytes
    retain: bool = False


@dataclass(frozen=True)
class Plan:
    """What all devices of a simulation have in common.

    Attributes:
        fleet: Its name.
        period_s: From one sample to the next.
        samples: In a batch.
        keys: That orders must be signed with.
        rules: Of trials.
        outbox_batches: That an outbox holds at most.
    """

    fleet: str = "fleet"
    period_s: float = 1.0
    samples: int = 10
    keys: tuple[PublicKey, ...] = ()
    rules: TrialRules = SIM_RULES
    outbox_batches: int = 360

    @property
    def batch_s(self) -> float:
        """From one batch to the next."""
        return self.period_s * self.samples


@dataclass
class SimDevice:
    """A device of a fleet.

    Args:
        name: Its name.
        plan: What it has in common with the others.
        faults: What is wrong with it.
        generator: Its randomness.
        boot_id: Of its one process; 16 hex digits that no other process ever had.

    Attributes:
        seq: The next number: so many messages were made.
        refused: Commands, orders and acknowledgements that are none.
        resent: Batches that were sent once more.
        acked: Messages that the fleet has committed.
        lags_s: From the first publish of a batch to its acknowledgement, since somebody took them.
    """

    name: str
    plan: Plan
    faults: AbstractSet[Fault]
    generator: random.Random
    boot_id: str
    board: Board | None = None
    seq: int = 0
    refused: int = 0
    resent: int = 0
    acked: int = 0
    lags_s: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        one = self.generator
        self.kind = self.board or one.choice(BOARDS)
        self.skew_s = one.uniform(-1, 1) * MAX_SKEW_S if Fault.CLOCK_SKEW in self.faults else 0.0
        self.outbox = SimOutbox(self.boot_id, self.plan.outbox_batches)
        self._meters = Meters(self.kind, self.faults, one)
        factory = Release(sha256_hex(f"factory {self.kind.model}".encode()), 1)
        self.slots = SimSlots(
            self.kind, self.faults, one, factory, self._report, rules=self.plan.rules
        )
        self._boot = self.boot_id.encode()
        self._period = repr(self.plan.period_s).encode()
        self._out: list[Publish] = []
        self._events: list[bytes] = []
        self._swapped: Publish | None = None
        self._odd = False
        self._last: tuple[str, str, str | None] = ("idle", "", None)
        self._orders: dict[str, str] = {}
        self._now_s = 0.0
        self._told = 0
        self._log: deque[tuple[float, str, str]] = deque(maxlen=_LINES)

    def will(self, now_s: float) -> Publish:
        """Return what the broker says when the connection breaks."""
        state = State("offline", self.boot_id, self._time(now_s), "lost")
        return Publish("state", state.to_bytes(), retain=True)

    def farewell(self, now_s: float) -> Publish:
        """Return what a device says that stops."""
        state = State("offline", self.boot_id, self._time(now_s), "stopped")
        return Publish("state", state.to_bytes(), retain=True)

    def wants_offline(self, since_s: float) -> bool:
        """Tell whether a fault keeps it off the network.

        Args:
            since_s: Seconds since the simulation began.
        """
        return Fault.OFFLINE in self.faults and since_s % (UP_S + DOWN_S) >= UP_S

    def connected(self, now_s: float) -> list[Publish]:
        """Return what it says on a new connection; everything unacknowledged comes again."""
        self._now_s, time_s = now_s, self._time(now_s)
        self.outbox.restart()
        hello = Hello(
            self.boot_id, time_s, VERSION, self.kind.target, self.kind.arch, _COMMANDS,
            {"python": "3.11", "simulated": "yes"},
        )  # fmt: skip
        state = State("online", self.boot_id, time_s, "connected")
        self._note("INFO", f"connected; {self.outbox.messages} messages wait")
        first = [
            Publish("state", state.to_bytes(), retain=True),
            Publish("hello", hello.to_bytes(), retain=True),
            self._reported(),
        ]
        return first + self._batches()

    def measure(self, now_s: float) -> None:
        """Make the samples of one batch, and keep them; whether or not there is a network."""
        self._now_s = now_s
        serves = self.slots.serves
        bundle = serves.sha256[:12].encode() if serves else b""
        first, time_s, held = self.seq, self._time(now_s), self.outbox.messages
        count = self.plan.samples * (FLOOD if Fault.FLOOD in self.faults else 1)
        step_s = self.plan.batch_s / count
        drops = sum(self.outbox.drops.values())
        if drops != self._told:
            self._note("WARNING", f"the outbox is full: {drops - self._told} messages dropped")
            self._told = drops
            took: dict[str, Json] = dict(self.outbox.drops)
            row: Json = {"boot_id": self.boot_id, "issued": first, "drops": took}
            self._event({"name": "drops", "boots": [row]})
        messages, self._events = self._events, []
        begin = first + len(messages)
        messages += [
            self._meters.sample(
                self._boot, begin + n, time_s - step_s * (count - 1 - n), bundle, held, self._period
            )
            for n in range(count)
        ]
        self.seq = begin + count
        data = b'{"messages":[' + b",".join(messages) + b"]}"
        self.outbox.add(Held(first, self.seq - 1, zstd.compress(data, _LEVEL)))

    def send(self, now_s: float) -> list[Publish]:
        """Return what is to be sent now; the device is connected."""
        self._now_s = now_s
        said, self._out = self._out, []
        return said + self._batches()

    def tick(self, now_s: float) -> None:
        """Let time pass for an order that is under way; about once a second."""
        self._now_s = now_s
        self.slots.tick(now_s)

    def receive(self, leaf: Leaf, payload: bytes, now_s: float) -> list[Publish]:
        """Take what the fleet says; return what is to be said at once.

        Args:
            leaf: Where it was said.
            payload: Whatever it is.
            now_s: Seconds.
        """
        self._now_s = now_s
        try:
            if leaf == "ack":
                for batch in self.outbox.acknowledge(parse_ack(payload)):
                    self.acked += batch.last - batch.first + 1
                    if batch.sent == 1 and batch.sent_s is not None:
                        self.lags_s.append(now_s - batch.sent_s)
                return self.send(now_s) if self.outbox.held else []
            if leaf == "command":
                return [self._reply(payload)]
            if leaf == "desired" and payload:
                self._desired(payload)
        except EdgekitError as error:
            self.refused += 1
            self._note("WARNING", f"refused on {leaf}: {error.message}")
            if leaf == "desired":
                self._event({"what": "order-refused", "why": error.message})
        said, self._out = self._out, []
        return said

    def _time(self, now_s: float) -> float:
        return max(0.0, now_s + self.skew_s)

    def _batches(self) -> list[Publish]:
        ready = self.outbox.due(self._now_s)
        again = sum(batch.sent > 1 for batch in ready)
        if again:
            self.resent += again
            self._note("INFO", f"{again} batches sent again: nobody acknowledged them")
        said = [Publish("telemetry", batch.payload) for batch in ready]
        if Fault.DUPLICATE in self.faults:
            said = [twice for publish in said for twice in (publish, publish)]
        if Fault.REORDER in self.faults:
            said = self._reordered(said)
        if Fault.MALFORMED in self.faults and said:
            said.append(Publish("telemetry", self.generator.choice(_MALFORMED)))
        return said

    def _reordered(self, said: list[Publish]) -> list[Publish]:
        out: list[Publish] = []
        for publish in said:
            if self._swapped is None:
                self._swapped = publish
            else:
                out += [publish, self._swapped]
                self._swapped = None
        return out

    def _desired(self, payload: bytes) -> None:
        device = f"{self.plan.fleet}/{self.name}"
        time_s = self._time(self._now_s)
        desired = open_desired(payload, self.plan.keys, now_s=time_s, device=device)
        self._orders[desired.bundle_sha256] = desired.order_id
        self.slots.order(desired.model, Order.of(desired), self._now_s)

    def _report(self, model: str, report: on.Report) -> None:
        event: dict[str, Json] = {
            "what": report.what,
            "model": model,
            "bundle_sha256": report.sha256,
        }
        self._event(event | ({"why": report.reason} if report.reason else {}))
        words = f"{model} {report.sha256[:12]}: {report.what}"
        self._note("INFO", f"{words}, {report.reason}" if report.reason else words)
        self._last = (report.what, report.reason, self._orders.get(report.sha256))
        self._out.append(self._reported())

    def _event(self, values: dict[str, Json]) -> None:
        message = Message(
            self.boot_id,
            self.seq + len(self._events),
            self._time(self._now_s),
            "event",
            values,
        )
        self._events.append(canonical_json(message.to_json()))

    def _reported(self) -> Publish:
        phase, detail, order_id = self._last
        serves = self.slots.serves
        running = {self.kind.model: serves.sha256} if serves else {}
        serials = {self.kind.model: serves.serial} if serves else {}
        tested = phase in ("trial", "confirmed")
        p95_ms = self.kind.latency_ms * 1.2 * (4 if Fault.SLOW in self.faults else 1)
        reported = Reported(
            self.boot_id, self._time(self._now_s), running, serials, phase, order_id, detail,
            {"latency_p95_ms": round(p95_ms, 1)} if tested else {},
        )  # fmt: skip
        return Publish("reported", reported.to_bytes(), retain=True)

    def _reply(self, payload: bytes) -> Publish:
        command = parse_command(payload)
        self._note("INFO", f"command {command.name}")
        if command.name == "ping":
            reply = Reply(command.id, ok=True, result={"pong": command.args.get("echo")})
        elif command.name == "logs":
            try:
                reply = Reply(command.id, ok=True, result=self._lines(command.args))
            except EdgekitError as error:
                hint = error.hint or ""
                reply = Reply(command.id, ok=False, error=error.message, hint=hint)
        else:
            hint = f"simulated devices take {' and '.join(_COMMANDS)}"
            reply = Reply(command.id, ok=False, error=f"no command {command.name}", hint=hint)
        return Publish("reply", reply.to_bytes())

    def _note(self, level: str, text: str) -> None:
        self._log.append((self._time(self._now_s), level, text))

    def _lines(self, args: Mapping[str, Json]) -> Json:
        """Answer ``logs`` as the agent does: what this device did, and how it is now."""
        held = f"{self.seq} messages made, {self.acked} acknowledged, {self.outbox.messages} wait"
        self._note("INFO", held)
        book = Logbook()
        for created, level, text in self._log:
            line = {"name": "simulated", "levelname": level, "msg": text, "created": created}
            book.emit(logging.makeLogRecord(line))
        return book.answer(args)


def names(count: int, prefix: str = "sim-", digits: int = 5) -> Sequence[str]:
    """Return the names of simulated devices.

    Raises:
        TrustError: More than there are numbers.
    """
    if count > 10**digits:
        raise TrustError(f"at most {10**digits} devices")
    return [f"{prefix}{number:0{digits}d}" for number in range(count)]
