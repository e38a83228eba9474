"""Commands: done once, answered always, bounded; what the network sends is survived."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.agent.commands import MAX_REMEMBERED, MAX_REMEMBERED_BYTES, Commands
from edgekit.agent.inbox import Inbox, Receivers
from edgekit.wire.errors import DeviceError, TrustError
from edgekit.wire.messages import MAX_CONTROL_BYTES, Ack, Command, Reply, parse_reply
from edgekit.wire.topics import LEAVES, topic

BOOT = "0123456789abcdef"


def do(commands: Commands, command: Command) -> Reply:
    accepted = commands.accept(command.to_bytes())
    if isinstance(accepted, Command):
        reply = commands.run(accepted)
        commands.remember(accepted.id, reply)
        return parse_reply(reply)
    assert accepted is not None
    return parse_reply(accepted)


def test_a_command_is_done_and_answered() -> None:
    commands = Commands({"add": lambda args: args["a"] + args["b"]})
    assert do(commands, Command("1", "add", {"a": 1, "b": 2})) == Reply("1", True, 3)
    assert do(commands, Command("2", "ping", {"echo": "x"})).result == {"pong": "x"}
    assert commands.names == ("add", "ping")


def test_a_repeated_id_gets_the_remembered_reply() -> None:
    calls: list[int] = []
    commands = Commands({"count": lambda _args: calls.append(1) or len(calls)})
    first = do(commands, Command("1", "count"))
    assert do(commands, Command("1", "count")) == first == Reply("1", True, 1)
    assert do(commands, Command("2", "count")).result == 2


def test_a_repeated_id_while_it_is_being_done_is_not_done_again() -> None:
    commands = Commands({"slow": lambda _args: None})
    accepted = commands.accept(Command("1", "slow").to_bytes())
    assert isinstance(accepted, Command)
    assert commands.accept(Command("1", "slow").to_bytes()) is None


def test_an_id_that_was_used_for_something_else_is_an_error() -> None:
    commands = Commands({})
    do(commands, Command("1", "ping"))
    assert "another command" in do(commands, Command("1", "ping", {"echo": 1})).error


def test_an_unknown_command_is_an_error_that_tells_what_there_is() -> None:
    commands = Commands({"capture": lambda _args: None})
    assert do(commands, Command("1", "captrue")).hint == "did you mean capture?"
    assert do(commands, Command("2", "xyzzy")).hint == "there are: capture, ping"


def test_what_a_handler_raises_is_an_error() -> None:
    def refuse(_args: object) -> None:
        raise DeviceError("no camera", hint="plug one in")

    commands = Commands({"a": refuse, "b": lambda args: args["missing"], "c": lambda _args: 1 / 0})
    assert do(commands, Command("1", "a")) == Reply("1", False, None, "no camera", "plug one in")
    assert "KeyError" in do(commands, Command("2", "b")).error
    assert "ZeroDivisionError" in do(commands, Command("3", "c")).error


@pytest.mark.parametrize("result", [object(), float("nan"), {"x": b"raw"}, [{"a": "\x1b"}]])
def test_a_result_that_has_no_json_is_made_to_fit(result: object) -> None:
    assert do(Commands({"odd": lambda _args: result}), Command("1", "odd")).ok


def test_a_huge_result_is_an_error() -> None:
    reply = do(Commands({"big": lambda _args: ["x" * 4000] * 30}), Command("1", "big"))
    assert f"over {MAX_CONTROL_BYTES} bytes" in reply.error


def test_memory_of_replies_is_bounded() -> None:
    commands = Commands({"big": lambda _args: ["x" * 4000] * 10})
    for i in range(300):
        do(commands, Command(f"c{i}", "big"))
    assert len(commands._known) <= MAX_REMEMBERED
    assert commands._bytes <= MAX_REMEMBERED_BYTES
    assert commands._bytes == sum(len(k.reply or b"") for k in commands._known.values())
    for i in range(2000):
        commands.accept(Command(f"d{i}", "big").to_bytes())
    assert len(commands._known) == MAX_REMEMBERED
    assert commands._bytes == 0


def test_a_command_with_a_readable_id_gets_an_error_and_others_raise() -> None:
    commands = Commands({})
    refused = commands.accept(b'{"id":"1","name":"ping","args":{},"when":"later"}')
    assert isinstance(refused, bytes)
    assert "unknown field 'when'" in parse_reply(refused).error
    for payload in (b"", b"{}", b"[]", b'{"id":7}', b'{"id":"../x"}', b"\xff", b" " * 70_000):
        with pytest.raises(TrustError):
            commands.accept(payload)


class Device:
    """Everything behind the network, without one."""

    def __init__(self) -> None:
        self.replies = 0
        self.commands = Commands({"fail": lambda args: args["x"]})
        receivers = Receivers(self.ack, self.command, self.desired, {"ocr": self.input})
        self.inbox = Inbox("f", "d", receivers)

    def ack(self, ack: Ack) -> None:
        assert ack.first <= ack.last

    def command(self, payload: bytes) -> None:
        accepted = self.commands.accept(payload)
        if isinstance(accepted, Command):
            reply = self.commands.run(accepted)
            self.commands.remember(accepted.id, reply)
            accepted = reply
        if accepted is not None:
            parse_reply(accepted)
            self.replies += 1

    def desired(self, payload: bytes) -> None:  # noqa: ARG002
        raise RuntimeError("a receiver with a bug")

    def input(self, payload: bytes) -> None:
        assert isinstance(payload, bytes)


PLACES = [topic("f", "d", leaf, "ocr" if leaf in {"input", "output"} else "") for leaf in LEAVES]
TOPICS = st.sampled_from([*PLACES, "edgekit/1/f/other/ack", "edgekit/1/f/d/input/no"]) | st.text(
    max_size=40
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from(["a", "b", "../", ""]) | VALUES,
        "name": st.sampled_from(["ping", "fail", "none"]) | VALUES,
        "args": st.dictionaries(st.text(max_size=5), VALUES, max_size=3) | VALUES,
        "boot_id": st.just(BOOT) | VALUES,
        "from": st.integers(-5, 50) | VALUES,
        "to": st.integers(-5, 2**60) | VALUES,
        "extra": VALUES,
    },
)
PAYLOADS = (
    st.binary(max_size=80)
    | VALUES.map(lambda value: json.dumps(value).encode())
    | FIELDS.map(lambda value: json.dumps(value).encode())
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(TOPICS, PAYLOADS, st.booleans()), min_size=20, max_size=60))
def test_thousands_of_hostile_messages_stop_nothing(messages) -> None:
    device = Device()
    for place, payload, retained in messages:
        device.inbox.receive(place, payload, retained=retained)
    inbox = device.inbox
    assert inbox.received + inbox.refused + inbox.failed == len(messages)
    device.inbox.receive(topic("f", "d", "command"), Command("last", "ping").to_bytes())
    assert "last" in device.commands._known


def test_hostile_messages_do_not_grow_it() -> None:
    device = Device()
    place = topic("f", "d", "command")

    def flood(start: int) -> int:
        for i in range(start, start + 3000):
            device.inbox.receive(place, Command(f"id{i}", "none" if i % 3 else "ping").to_bytes())
            device.inbox.receive(place, b"\xff" * (i % 500))
            device.inbox.receive(f"edgekit/1/f/d/{i}", b"{}")
            device.inbox.receive(topic("f", "d", "ack"), Ack(f"{i:016x}", 0, i).to_bytes())
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = flood(0)
        after = flood(3000)
    finally:
        tracemalloc.stop()
    assert after - before < 20_000


def test_a_large_payload_is_not_even_parsed() -> None:
    device = Device()
    device.inbox.receive(topic("f", "d", "command"), b"[" * (MAX_CONTROL_BYTES + 1))
    device.inbox.receive(topic("f", "d", "input", "ocr"), b"x" * MAX_CONTROL_BYTES * 2)
    device.inbox.receive(topic("f", "d", "input", "ocr"), b"x" * (2 << 20))
    assert (device.inbox.refused, device.inbox.received) == (2, 1)


def test_a_receiver_with_a_bug_is_counted() -> None:
    device = Device()
    device.inbox.receive(topic("f", "d", "desired"), b"{}", retained=True)
    device.inbox.receive(topic("f", "d", "desired"), b"", retained=True)
    assert (device.inbox.failed, device.inbox.received) == (1, 1)


@pytest.mark.parametrize("name", ['"\\ud800"', "NaN", "1e999", '["x"]', "{}"])
def test_an_id_that_no_reply_can_repeat_is_refused(name: str) -> None:
    commands = Commands({})
    with pytest.raises(TrustError):
        commands.accept(f'{{"id":{name},"name":1,"args":{{}}}}'.encode())
