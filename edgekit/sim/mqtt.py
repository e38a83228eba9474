"""A small MQTT 3.1.1 client for thousands of connections in one event loop.

As much of the standard (OASIS, MQTT Version 3.1.1) as a device needs: connect with a will, QoS 1
both ways, subscribe, keep-alive. Nothing is re-sent here: the outbox does that. A library that is
made for one connection costs 1.3 to 10 times as much for each message.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from edgekit.wire.errors import TrustError

MAX_PACKET_BYTES = 1 << 20
_CONNECT, _CONNACK, _PUBLISH, _PUBACK = 0x10, 0x20, 0x30, 0x40
_SUBSCRIBE, _SUBACK, _PINGREQ, _PINGRESP, _DISCONNECT = 0x82, 0x90, 0xC0, 0xD0, 0xE0
_MAX_ID = 65535
_MORE = 0x80


def length(size: int) -> bytes:
    """Return a remaining length as the standard writes it (2.2.3)."""
    out = bytearray()
    while True:
        size, low = divmod(size, _MORE)
        out.append(low | (_MORE if size else 0))
        if not size:
            return bytes(out)


def text(value: str | bytes) -> bytes:
    """Return a string or bytes behind their length."""
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("!H", len(data)) + data


@dataclass(frozen=True)
class Login:
    """What a connection begins with.

    Attributes:
        client_id: Of the client.
        will_topic: Where the broker says the will, retained.
        will: What it says.
        username: None for anonymous.
        password: For the broker.
        keepalive_s: A silence after which either side takes the connection for dead.
    """

    client_id: str
    will_topic: str
    will: bytes
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    keepalive_s: int = 60

    def packet(self) -> bytes:
        """Return the CONNECT: a clean session, the will at QoS 1, retained."""
        flags = 0x02 | 0x04 | 0x08 | 0x20
        body = text(self.client_id) + text(self.will_topic) + text(self.will)
        if self.username is not None:
            flags |= 0x80 | (0x40 if self.password is not None else 0)
            body += text(self.username)
            body += text(self.password) if self.password is not None else b""
        head = text("MQTT") + bytes([4, flags]) + struct.pack("!H", self.keepalive_s)
        return bytes([_CONNECT]) + length(len(head) + len(body)) + head + body


def publish_packet(topic: bytes, payload: bytes, packet_id: int, *, retain: bool = False) -> bytes:
    """Return a PUBLISH at QoS 1.

    Args:
        topic: The topic behind its length, as :func:`text` makes it.
        payload: What is said.
        packet_id: 1..65535.
        retain: Whether the broker keeps it.
    """
    size = length(len(topic) + 2 + len(payload))
    head = bytes([_PUBLISH | 0x02 | retain])
    return b"".join((head, size, topic, struct.pack("!H", packet_id), payload))


class Reader:
    """Cuts what a broker sends into packets; bounded."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return the packets that are whole now: first byte and body.

        Raises:
            TrustError: A packet is over the bound, or its length is none.
        """
        self._data += data
        packets = []
        while (found := self._header()) is not None:
            start, size = found
            if size > MAX_PACKET_BYTES:
                raise TrustError(f"the broker sends a packet of {size} bytes")
            if len(self._data) < start + size:
                break
            packets.append((self._data[0], bytes(self._data[start : start + size])))
            del self._data[: start + size]
        return packets

    def _header(self) -> tuple[int, int] | None:
        """Return where the body begins and its size; None where that has not come yet."""
        size = 0
        for place in range(1, 5):
            if place >= len(self._data):
                return None
            size |= (self._data[place] & 0x7F) << (7 * (place - 1))
            if not self._data[place] & _MORE:
                return place + 1, size
        raise TrustError("the broker sends a length that is none")


class Connection(asyncio.Protocol):
    """One connection.

    Args:
        login: What it begins with.
        filters: What it subscribes to, at QoS 1.
        ready: Is called once the broker has granted the subscriptions.
        receive: Gets topic and payload; must not raise.
        lost: Is called once when it is over, with the reason.
        now_s: A clock that never jumps.
    """

    def __init__(
        self,
        login: Login,
        filters: list[str],
        ready: Callable[[], None],
        receive: Callable[[str, bytes], None],
        lost: Callable[[str], None],
        now_s: Callable[[], float],
    ) -> None:
        self._login, self._filters = login, filters
        self._ready, self._receive, self._lost, self._now_s = ready, receive, lost, now_s
        self._transport: asyncio.Transport | None = None
        self._reader = Reader()
        self._id = 0
        self._problem = "the connection broke"
        self.wrote_s = self.read_s = now_s()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say CONNECT."""
        self._transport = cast("asyncio.Transport", transport)
        self._write(self._login.packet())

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell that it is over."""
        self._transport = None
        self._lost(str(exc) if exc else self._problem)

    def data_received(self, data: bytes) -> None:
        """Take what the broker says; what is no MQTT ends the connection."""
        self.read_s = self._now_s()
        try:
            for first, body in self._reader.feed(data):
                self._packet(first, body)
        except (TrustError, struct.error, IndexError, UnicodeDecodeError) as error:
            self.abort(str(error))

    def publish(self, topic: bytes, payload: bytes, *, retain: bool = False) -> None:
        """Publish at QoS 1; see :func:`publish_packet`."""
        self._id = self._id % _MAX_ID + 1
        self._write(publish_packet(topic, payload, self._id, retain=retain))

    @property
    def is_behind(self) -> bool:
        """Whether the broker does not take what is sent."""
        transport = self._transport
        return transport is not None and transport.get_write_buffer_size() > MAX_PACKET_BYTES

    def keep_alive(self, now_s: float) -> None:
        """Ping where it was silent; end it where the broker is."""
        if now_s - self.read_s > 1.5 * self._login.keepalive_s:
            self.abort("the broker is silent")
        elif now_s - self.wrote_s > self._login.keepalive_s / 2:
            self._write(bytes([_PINGREQ, 0]))

    def close(self) -> None:
        """End it in order: the broker forgets the will."""
        if self._transport is not None:
            self._problem = "closed"
            self._write(bytes([_DISCONNECT, 0]))
            self._transport.close()

    def abort(self, reason: str) -> None:
        """Drop it without a word: the broker says the will."""
        self._problem = reason
        if self._transport is not None:
            self._transport.abort()

    def _packet(self, first: int, body: bytes) -> None:
        kind = first & 0xF0
        if kind == _PUBLISH:
            end = 2 + int.from_bytes(body[:2], "big")
            topic = body[2:end].decode()
            if first & 0x06:
                self._write(bytes([_PUBACK, 2]) + body[end : end + 2])
                end += 2
            self._receive(topic, body[end:])
        elif kind == _CONNACK:
            if body[1]:
                self.abort(f"the broker refuses the device: code {body[1]}")
            else:
                wanted = b"".join(text(one) + b"\x01" for one in self._filters)
                head = bytes([_SUBSCRIBE]) + length(2 + len(wanted))
                self._write(head + b"\x00\x01" + wanted)
        elif kind == _SUBACK:
            self._ready()

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)
            self.wrote_s = self._now_s()
