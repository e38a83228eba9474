"""The messages between a device and its fleet, and their strict, bounded readers.

Two rules on fields that a reader does not know. Reports (batches, hello, state, reported, acks,
replies) may carry more than an old reader knows: it ignores them, so devices and fleet may be
updated in any order. Orders (:class:`Command`, :class:`Desired`) are refused: to do half of what
was asked is worse than to do nothing.

Every reader raises :class:`~edgekit.wire.errors.TrustError`, and nothing else, on whatever bytes it
gets. ``docs/mqtt.md`` has an example of each message.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from edgekit.wire.canonical import Json, canonical_json
from edgekit.wire.desired import Desired, open_desired, sign_desired
from edgekit.wire.errors import TrustError
from edgekit.wire.strict import MAX_ITEMS, MAX_TEXT, Fields, parse_object
from edgekit.wire.values import MAX_VALUE_DEPTH, check_value, tidy

__all__ = [
    "Ack", "Batch", "Command", "Desired", "Hello", "Kind", "Message", "Reply", "Reported", "State",
    "acks_for", "open_desired", "parse_ack", "parse_batch", "parse_command", "parse_hello",
    "parse_message", "parse_reply", "parse_reported", "parse_state", "sign_desired", "tidy",
]  # fmt: skip

MAX_MESSAGE_BYTES = 64 * 1024
MAX_BATCH_BYTES = 4 << 20  # of JSON, which is what a batch decompresses to
MAX_BATCH_MESSAGES = MAX_ITEMS
MAX_CONTROL_BYTES = 64 * 1024  # of every other message
MAX_NAMES = 100

Kind = Literal["sample", "event"]
_BOOT_ID = re.compile(r"[0-9a-f]{16}", re.ASCII)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_WORD = re.compile(r"[a-z][a-z0-9_-]{0,63}", re.ASCII)


@dataclass(frozen=True)
class Message:
    """One record from a device. ``(boot_id, seq)`` names it for ever.

    Attributes:
        boot_id: 16 hex digits, random for each agent process.
        seq: 0 for the first message of the process, then one more each.
        time_s: Unix time in seconds by the device's clock, which may be wrong: it orders nothing.
        kind: ``sample`` (one of many, the cap may take it) or ``event`` (outlives samples).
        values: What it says.
    """

    boot_id: str
    seq: int
    time_s: float
    kind: Kind
    values: Mapping[str, Json]

    def to_json(self) -> dict[str, Json]:
        """Return the JSON form."""
        return {
            "boot_id": self.boot_id,
            "seq": self.seq,
            "time_s": self.time_s,
            "kind": self.kind,
            "values": dict(self.values),
        }

    def to_bytes(self) -> bytes:
        """Return the canonical form."""
        return canonical_json(self.to_json())


@dataclass(frozen=True)
class Batch:
    """Many messages, which travel as one. :mod:`edgekit.runtime.batches` compresses it."""

    messages: tuple[Message, ...]

    def to_bytes(self) -> bytes:
        """Return the canonical form, not compressed."""
        return canonical_json({"messages": [message.to_json() for message in self.messages]})


@dataclass(frozen=True)
class Ack:
    """The fleet's word that a run of messages is committed. The device may delete those, no others.

    Attributes:
        boot_id: Of the messages.
        first: Their first sequence number.
        last: Their last one, included. Every number between was committed or never sent.
    """

    boot_id: str
    first: int
    last: int

    def to_bytes(self) -> bytes:
        """Return the canonical form."""
        return canonical_json({"boot_id": self.boot_id, "from": self.first, "to": self.last})


@dataclass(frozen=True)
class Hello:
    """What a device says of itself when it has connected.

    Attributes:
        boot_id: Of this agent process.
        time_s: Unix time in seconds, by the device.
        version: edgekit's.
        target: The target's name; empty where the device does not know it yet.
        arch: ``aarch64``.
        commands: Names of the commands that it takes.
        facts: More, by name: ``python``, ``kernel``, ``model``.
    """

    boot_id: str
    time_s: float
    version: str
    target: str
    arch: str
    commands: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the canonical form."""
        return canonical_json(vars(self))


@dataclass(frozen=True)
class State:
    """Whether a device is connected. Retained; the broker itself says ``offline`` as the will.

    Attributes:
        status: ``online`` or ``offline``.
        boot_id: Of the agent process that this is about.
        time_s: Unix time in seconds; of a will, when the connection began.
        reason: ``connected``, ``stopped``, or ``lost`` for the will.
    """

    status: Literal["online", "offline"]
    boot_id: str
    time_s: float
    reason: str

    def to_bytes(self) -> bytes:
        """Return the canonical form."""
        return canonical_json(vars(self))


@dataclass(frozen=True)
class Reported:
    """What a device runs, and what became of the last order. Retained.

    Attributes:
        boot_id: Of this agent process.
        time_s: Unix time in seconds, by the device.
        running: Model to sha256 of the bundle that serves it now.
        serials: Model to the serial of that bundle.
        phase: A word for where the last order stands: ``idle``, ``staged``, ``trial``, ``refused``…
        order_id: The order; None where there was none.
        detail: For people: why it was refused.
        measurements: Metric to value, as the self-test measured them on this device.
    """

    boot_id: str
    time_s: float
    running: Mapping[str, str]
    serials: Mapping[str, int] = field(default_factory=dict)
    phase: str = "idle"
    order_id: str | None = None
    detail: str = ""
    measurements: Mapping[str, float] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the canonical form."""
        return canonical_json(
            {name: value for name, value in vars(self).items() if value is not None}
        )


@dataclass(frozen=True)
class Command:
    """Something that a device shall do once.

    Attributes:
        id: A repeated one gets the remembered reply, and nothing is done again.
        name: ``ping``.
        args: Its arguments.
    """

    id: str
    name: str
    args: Mapping[str, Json] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the canonical form."""
        return canonical_json(vars(self))


@dataclass(frozen=True)
class Reply:
    """What became of a command: a result, or an error and the next thing to do."""

    id: str
    ok: bool
    result: Json = None
    error: str = ""
    hint: str = ""

    def to_bytes(self) -> bytes:
        """Return the canonical form."""
        if self.ok:
            return canonical_json({"id": self.id, "ok": True, "result": self.result})
        return canonical_json({"id": self.id, "ok": False, "error": self.error, "hint": self.hint})


def parse_message(data: bytes) -> Message:
    """Read one message.

    Raises:
        TrustError: Not exactly a message, or over 64 KiB.
    """
    return _message(Fields(parse_object(data, "message", most_bytes=MAX_MESSAGE_BYTES), "message"))


def parse_batch(data: bytes) -> Batch:
    """Read a batch, already decompressed.

    Raises:
        TrustError: Not exactly a batch, over 4 MiB, or a message of it is not one.
    """
    fields = Fields(parse_object(data, "batch", most_bytes=MAX_BATCH_BYTES), "batch")
    return Batch(tuple(_message(item) for item in fields.objects("messages")))


def parse_ack(data: bytes) -> Ack:
    """Read an acknowledgement.

    Raises:
        TrustError: Not exactly one, or it ends before it begins.
    """
    fields = _control(data, "ack")
    first = fields.integer("from")
    return Ack(fields.text("boot_id", pattern=_BOOT_ID), first, fields.integer("to", first))


def parse_hello(data: bytes) -> Hello:
    """Read what a device says of itself.

    Raises:
        TrustError: Not exactly that.
    """
    fields = _control(data, "hello")
    return Hello(
        boot_id=fields.text("boot_id", pattern=_BOOT_ID),
        time_s=fields.number("time_s", 0),
        version=fields.text("version"),
        target=fields.text("target"),
        arch=fields.text("arch"),
        commands=tuple(_words(fields, "commands")),
        facts=fields.texts("facts", most=MAX_NAMES),
    )


def parse_state(data: bytes) -> State:
    """Read a device's state.

    Raises:
        TrustError: Not exactly that.
    """
    fields = _control(data, "state")
    return State(
        status=fields.choice("status", ("online", "offline")),
        boot_id=fields.text("boot_id", pattern=_BOOT_ID),
        time_s=fields.number("time_s", 0),
        reason=fields.text("reason"),
    )


def parse_reported(data: bytes) -> Reported:
    """Read what a device runs.

    Raises:
        TrustError: Not exactly that.
    """
    fields = _control(data, "reported")
    bundles, serials = fields.object("running"), fields.object("serials")
    numbers = fields.object("measurements")
    return Reported(
        boot_id=fields.text("boot_id", pattern=_BOOT_ID),
        time_s=fields.number("time_s", 0),
        running={name: bundles.sha256(name) for name in _names(bundles)},
        serials={name: serials.integer(name) for name in _names(serials)},
        phase=fields.text("phase", pattern=_WORD),
        order_id=fields.text("order_id", pattern=_ID) if fields.has("order_id") else None,
        detail=fields.text("detail"),
        measurements={name: numbers.number(name) for name in _names(numbers)},
    )


def parse_command(data: bytes) -> Command:
    """Read a command. Unknown fields are refused.

    Raises:
        TrustError: Not exactly a command.
    """
    fields = _control(data, "command")
    command = Command(
        id=fields.text("id", pattern=_ID),
        name=fields.text("name", pattern=_WORD),
        args=_values(fields, "args"),
    )
    fields.close()
    return command


def parse_reply(data: bytes) -> Reply:
    """Read a reply.

    Raises:
        TrustError: Not exactly a reply.
    """
    document = parse_object(data, "reply", most_bytes=MAX_CONTROL_BYTES)
    result = document.pop("result", None)
    check_value(result, MAX_VALUE_DEPTH, "reply result")
    fields = Fields(document, "reply")
    name, ok = fields.text("id", pattern=_ID), fields.boolean("ok")
    if ok:
        return Reply(name, True, result)
    return Reply(name, False, error=fields.text("error"), hint=fields.text("hint"))


def acks_for(messages: Iterable[Message]) -> tuple[Ack, ...]:
    """Return the acks for messages that are committed: one for each run without a gap.

    A gap may be a message that is still on its way in another batch; an ack across it would make
    the device delete what nobody has.
    """
    runs: list[Ack] = []
    for boot_id, seq in sorted({(message.boot_id, message.seq) for message in messages}):
        if runs and runs[-1].boot_id == boot_id and runs[-1].last == seq - 1:
            runs[-1] = Ack(boot_id, runs[-1].first, seq)
        else:
            runs.append(Ack(boot_id, seq, seq))
    return tuple(runs)


def _control(data: bytes, name: str) -> Fields:
    return Fields(parse_object(data, name, most_bytes=MAX_CONTROL_BYTES), name)


def _message(fields: Fields) -> Message:
    return Message(
        boot_id=fields.text("boot_id", pattern=_BOOT_ID),
        seq=fields.integer("seq"),
        time_s=fields.number("time_s", 0),
        kind=fields.choice("kind", ("sample", "event")),
        values=_values(fields, "values"),
    )


def _values(fields: Fields, key: str) -> dict[str, Json]:
    values = fields.mapping(key)
    check_value(values, MAX_VALUE_DEPTH, f"{fields.name} {key}")
    return values


def _words(fields: Fields, key: str) -> list[str]:
    words = fields.array(key, most=MAX_NAMES)
    for word in words:
        if not isinstance(word, str) or not _WORD.fullmatch(word):
            raise fields.refuse(key, "must be a list of names")
    return [str(word) for word in words]


def _names(fields: Fields) -> tuple[str, ...]:
    names = fields.names()
    if len(names) > MAX_NAMES or not all(n.isprintable() and len(n) <= MAX_TEXT for n in names):
        raise TrustError("too many names, or one that cannot be printed", where=fields.name)
    return names
