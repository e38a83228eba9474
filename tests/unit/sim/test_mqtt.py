"""The small MQTT client: its packets are those of paho, its reader takes any cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.sim.mqtt import (
    MAX_PACKET_BYTES,
    Connection,
    Login,
    Reader,
    length,
    publish_packet,
    text,
)
from edgekit.wire.errors import TrustError


@pytest.mark.parametrize(
    ("size", "data"),
    [
        (0, b"\0"),
        (127, b"\x7f"),
        (128, b"\x80\x01"),
        (16383, b"\xff\x7f"),
        (16384, b"\x80\x80\x01"),
    ],
)
def test_lengths_are_those_of_the_standard(size: int, data: bytes) -> None:
    assert length(size) == data


@given(
    st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=300)), max_size=8),
    st.integers(1, 50),
)
def test_packets_come_out_as_they_went_in_however_they_are_cut(
    packets: list[tuple[int, bytes]], step: int
) -> None:
    data = b"".join(bytes([first]) + length(len(body)) + body for first, body in packets)
    reader, found = Reader(), []
    for at in range(0, len(data), step):
        found += reader.feed(data[at : at + step])
    assert found == packets


def test_a_packet_over_the_bound_is_refused_before_it_has_come() -> None:
    with pytest.raises(TrustError):
        Reader().feed(b"\x30" + length(MAX_PACKET_BYTES + 1))
    with pytest.raises(TrustError):
        Reader().feed(b"\x30\xff\xff\xff\xff")


def test_a_login_says_who_and_what_the_broker_is_to_say_at_the_end() -> None:
    packet = Login("me", "a/state", b"gone", "user", "secret").packet()
    assert packet[0] == 0x10
    assert packet[1] == len(packet) - 2
    # Clean session, will at QoS 1 and retained, user name, password.
    assert packet[9] == 0x02 | 0x04 | 0x08 | 0x20 | 0x80 | 0x40
    assert packet.endswith(
        text("me") + text("a/state") + text("gone") + text("user") + text("secret")
    )
    assert "secret" not in repr(Login("me", "a", b"", "user", "secret"))


def test_a_publish_has_quality_1() -> None:
    assert publish_packet(text("t"), b"hi", 258, retain=True) == b"\x33\x07\0\x01t\x01\x02hi"


class Wire:
    """Stands in for a transport."""

    def __init__(self) -> None:
        self.said: list[bytes] = []
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.said.append(data)

    def abort(self) -> None:
        self.aborted = True

    def get_write_buffer_size(self) -> int:
        return 0


def connected(now: list[float]) -> tuple[Connection, Wire, list[object]]:
    wire = Wire()
    heard: list[object] = []
    connection = Connection(
        Login("me", "s", b""),
        ["a/ack"],
        lambda: heard.append("ready"),
        lambda topic, payload: heard.append((topic, payload)),
        heard.append,
        lambda: now[0],
    )
    connection.connection_made(wire)  # type: ignore[arg-type]
    return connection, wire, heard


def test_it_subscribes_once_the_broker_has_taken_it_and_acknowledges_what_it_hears() -> None:
    connection, wire, heard = connected([0.0])
    connection.data_received(b"\x20\x02\0\0")
    assert wire.said[1] == b"\x82\x0a\0\x01\0\x05a/ack\x01"
    connection.data_received(b"\x90\x03\0\x01\x01")
    connection.data_received(publish_packet(text("a/ack"), b"{}", 7))
    assert heard == ["ready", ("a/ack", b"{}")]
    assert wire.said[2] == b"\x40\x02\0\x07"


@pytest.mark.parametrize("data", [b"\x20\x02\0\x05", b"\x20\x01\0", b"\x32\x03\0\x01\xff"])
def test_a_refusal_and_what_is_no_mqtt_end_it(data: bytes) -> None:
    connection, wire, _ = connected([0.0])
    connection.data_received(data)
    assert wire.aborted


def test_it_pings_after_a_silence_of_its_own_and_ends_after_one_of_the_broker() -> None:
    now = [0.0]
    connection, wire, _ = connected(now)
    connection.keep_alive(29.0)
    assert len(wire.said) == 1
    connection.keep_alive(31.0)
    assert wire.said[1] == b"\xc0\0"
    connection.keep_alive(91.0)
    assert wire.aborted
