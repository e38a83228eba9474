"""The fast reader of batches takes what the strict one takes, and reads the same in it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.fleet.ingest.decode import Control, Refusal, Telemetry, decode, read_batch
from edgekit.runtime.batches import pack, zstd
from edgekit.wire.errors import TrustError
from edgekit.wire.messages import Batch, Message, State, parse_batch

BOOT = "5f0c2a9e41d7b380"
TOPIC = "edgekit/1/north/cam-1/telemetry"
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from([2**53, 2**53 - 1, -(2**53), 1e16, "\ud800", "a\nb", "\x00", "x" * 4001]),
)  # fmt: skip
json_values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=30,
)
messages = st.fixed_dictionaries(
    {
        "boot_id": st.one_of(st.just(BOOT), st.just(BOOT), json_values),
        "seq": st.one_of(st.integers(0, 2**53), json_values),
        "time_s": st.one_of(st.floats(0, 2e9), json_values),
        "kind": st.one_of(st.sampled_from(["sample", "event"]), json_values),
        "values": st.one_of(st.dictionaries(st.text(max_size=4), json_values, max_size=4)),
    },
    optional={"more": json_values},
)


def strictly(text: bytes) -> list | None:
    try:
        return [message.to_json() for message in parse_batch(text).messages]
    except TrustError:
        return None


def fast(text: bytes) -> list | None:
    try:
        return read_batch(text)
    except TrustError:
        return None


@given(st.lists(messages, max_size=3))
def test_both_readers_agree(given_):
    text = json.dumps({"messages": given_}).encode()
    assert fast(text) == strictly(text)


@given(st.lists(messages, max_size=2), st.integers(0, 200), st.binary(max_size=4))
def test_both_readers_agree_on_what_was_cut_and_mixed(given_, place, noise):
    text = json.dumps({"messages": given_}, ensure_ascii=False, default=str)
    data = text.encode("utf-8", "surrogatepass")
    data = data[:place] + noise + data[place + len(noise) :]
    assert fast(data) == strictly(data)


@pytest.mark.parametrize("depth", [6, 7, 8, 9, 10])
def test_both_readers_agree_on_depth(depth):
    value: object = 1
    for _ in range(depth):
        value = [value]
    message = {"boot_id": BOOT, "seq": 0, "time_s": 0, "kind": "sample", "values": {"a": value}}
    text = json.dumps({"messages": [message]}).encode()
    assert fast(text) == strictly(text)


def message_of(seq: int) -> Message:
    return Message(BOOT, seq, 1.0, "sample", {"a": seq})


def test_a_batch_is_read():
    payload = pack(Batch((message_of(1), message_of(2))))
    found = decode(TOPIC, payload, "north", {"cam-1"})
    assert isinstance(found, Telemetry)
    assert (found.device, [m["seq"] for m in found.messages]) == ("cam-1", [1, 2])


def test_control_messages_are_read():
    payload = State("offline", BOOT, 1.0, "lost").to_bytes()
    found = decode("edgekit/1/north/cam-1/state", payload, "north", {"cam-1"})
    assert isinstance(found, Control)
    assert (found.leaf, found.said["status"]) == ("state", "offline")


BOMB = zstd.compress(b" " * (5 << 20))


@pytest.mark.parametrize(
    ("topic", "payload", "reason"),
    [
        ("nonsense", b"", "topic"),
        ("edgekit/1/south/cam-1/telemetry", b"", "topic"),
        ("edgekit/1/north/cam-1/ack", b"{}", "topic"),
        ("edgekit/1/north/cam-2/telemetry", b"", "unknown_device"),
        (TOPIC, b"\x00" * (1 << 20) + b"x", "too_large"),
        (TOPIC, BOMB, "too_large"),
        (TOPIC, b"not zstd", "schema"),
        (TOPIC, zstd.compress(b"{}"), "schema"),
        (TOPIC, zstd.compress(b"{}") + b"more", "schema"),
        ("edgekit/1/north/cam-1/hello", b"{}" * 40_000, "too_large"),
        ("edgekit/1/north/cam-1/hello", b"{}", "schema"),
    ],
)
def test_what_is_refused_has_a_reason(topic, payload, reason):
    found = decode(topic, payload, "north", {"cam-1"})
    assert isinstance(found, Refusal)
    assert found.reason == reason


@given(st.binary(max_size=300), st.sampled_from(["telemetry", "hello", "state", "reported"]))
def test_no_bytes_break_it(payload, leaf):
    assert decode(f"edgekit/1/north/cam-1/{leaf}", payload, "north", {"cam-1"})
