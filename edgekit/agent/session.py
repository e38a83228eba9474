"""One MQTT connection: from CONNECT to its end, on one thread, without a retry of its own.

A new client object for each connection: nothing of an old one is re-sent or kept, so memory does
not grow however often the broker goes. MQTT 5 and 3.1.1 look the same from outside, for nothing
here needs a property of 5.
"""

from __future__ import annotations

import hashlib
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edgekit.agent.inbox import MAX_PACKET_BYTES
from edgekit.wire.topics import check_name

MAX_UNCONFIRMED = 64
CONNECT_TIMEOUT_S = 10.0
# A packet is its payload, the topic, and some bytes of header.
_MAX_WIRE_BYTES = MAX_PACKET_BYTES + 1024
_SECRET_DIGITS = 16
_BAD_VERSION = frozenset({0x01, 0x84})

Protocol = Literal["5", "3.1.1"]
Receive = Callable[[str, bytes, bool], None]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tls:
    """Files of a TLS connection, PEM each.

    Attributes:
        ca: Authorities that the broker's certificate must come from; None for the system's.
        certificate: The device's own, where the broker asks for one.
        key: Its private key.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Make the context; it checks the broker's name, always.

        Raises:
            OSError: A file is missing or is not what it should be (``ssl.SSLError`` is one).
        """
        context = ssl.create_default_context(cafile=self.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key)
        return context


@dataclass(frozen=True)
class Address:
    """Where the broker is, and as whom one connects.

    Attributes:
        host: Name or IP address.
        port: TCP port.
        fleet: Name of the fleet.
        device: Name of the device in it.
        username: For the broker; None for anonymous.
        password: For the broker.
        tls: None for plain TCP.
        keepalive_s: A silence after which either side takes the connection for dead.
    """

    host: str
    port: int
    fleet: str
    device: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: Tls | None = None
    keepalive_s: int = 60

    def __post_init__(self) -> None:
        check_name(self.fleet, "fleet")
        check_name(self.device, "device")

    def client_id(self, role: str = "") -> str:
        """Return a client id that stays the same and that others with an account cannot guess.

        A broker ends a connection when another comes with its id, whoever that is.

        Args:
            role: Tells a device's connections apart.
        """
        parts = ["edgekit", self.fleet, self.device, *([role] if role else [])]
        if self.password is not None:
            secret = f"{self.fleet}/{self.device}/{self.password}"
            parts.append(hashlib.sha256(secret.encode()).hexdigest()[:_SECRET_DIGITS])
        return "-".join(parts)


class BoundedClient(mqtt.Client):
    """paho's client with a bound on what it reads: 3.1.1 cannot tell the broker of one.

    Attributes:
        most_bytes: Of one packet; a larger one ends the connection before it is read.
    """

    most_bytes = _MAX_WIRE_BYTES

    def _sock_recv(self, bufsize: int) -> bytes:
        if bufsize > self.most_bytes:
            log.warning(
                "a packet of %d bytes, of at most %d, is not read", bufsize, self.most_bytes
            )
            raise ConnectionError(f"a packet of {bufsize} bytes")
        return super()._sock_recv(bufsize)


class Session:
    """One connection. All methods belong to one thread.

    Args:
        address: Where to.
        protocol: ``5`` or ``3.1.1``.
        will: Topic and payload that the broker publishes, retained, when the connection is lost.
        subscriptions: Filter and QoS.
        receive: Gets topic, payload and whether it was retained; must not raise.
        role: Tells this connection from the device's others; empty for the agent's own.
        retain: Whether the broker keeps the will and what :meth:`close` says last.

    Attributes:
        accepted: Whether the broker has taken the connection.
        ready: Whether it has taken the subscriptions, too.
        problem: Why it is over; empty as long as it is not.
        bad_version: Whether the broker may not know this version of the protocol.
    """

    def __init__(
        self,
        address: Address,
        protocol: Protocol,
        will: tuple[str, bytes],
        subscriptions: list[tuple[str, int]],
        receive: Receive,
        *,
        role: str = "",
        retain: bool = True,
    ) -> None:
        self._retain = retain
        self._address = address
        self._subscriptions = subscriptions
        self._receive = receive
        self.protocol = protocol
        self.accepted = False
        self.ready = False
        self.problem = ""
        self.bad_version = False
        five = protocol == "5"
        self._client = client = BoundedClient(
            CallbackAPIVersion.VERSION2,
            client_id=address.client_id(role),
            clean_session=None if five else True,
            protocol=MQTTProtocolVersion.MQTTv5 if five else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_queued_messages_set(MAX_UNCONFIRMED)
        client.will_set(will[0], will[1], qos=1, retain=retain)
        if address.username is not None:
            client.username_pw_set(address.username, address.password)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message

    def connect(self) -> None:
        """Open the connection; :meth:`step` then waits for the broker's answers.

        Raises:
            OSError: It cannot be opened: no route, refused, no such name, TLS.
            ValueError: The address is none.
        """
        if self._address.tls is not None:
            self._client.tls_set_context(self._address.tls.context())
        options: dict[str, Any] = {}
        if self.protocol == "5":
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.MaximumPacketSize = _MAX_WIRE_BYTES
            options = {"clean_start": True, "properties": properties}
        address = self._address
        self._client.connect(address.host, address.port, address.keepalive_s, **options)

    def step(self, timeout_s: float) -> bool:
        """Read and write what there is.

        Args:
            timeout_s: Waits this long for something to happen.

        Returns:
            False when the connection is over; :attr:`problem` says why.
        """
        try:
            code = self._client.loop(timeout_s)
        except Exception as error:  # noqa: BLE001 - a malformed packet raises what it hits in paho
            self._over(f"{type(error).__name__}: {error}")
            return False
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS:
            # Hung up without a word: a broker that knows no MQTT 5 may do just that.
            self.bad_version |= not self.accepted and not self.problem
            self._over(mqtt.error_string(code))
        return not self.problem

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        """Publish; False where the broker does not keep up, which ends the connection."""
        info = self._client.publish(topic, payload, qos, retain)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._over(mqtt.error_string(info.rc))
        return not self.problem

    def close(self, last: tuple[str, bytes] | None = None, patience_s: float = 1.0) -> None:
        """End the connection.

        Args:
            last: Topic and payload to publish before; the will is then not published.
            patience_s: Waits this long for the broker to confirm it.
        """
        if last is not None and self.ready and not self.problem:
            info = self._client.publish(*last, qos=1, retain=self._retain)
            left = round(patience_s / 0.05)
            while not info.is_published() and left and self.step(0.05):
                left -= 1
            if info.is_published():
                self._client.disconnect()
        self._over(self.problem or "closed")
        # Without a goodbye, unless there was one: then the broker publishes the will.
        self._client._sock_close()
        self._client._reset_sockets()

    def _on_connect(
        self, _c: object, _d: object, _f: object, reason: ReasonCode, _p: object
    ) -> None:
        if reason.is_failure:
            self.bad_version = reason.value in _BAD_VERSION
            self._over(str(reason))
            return
        self.accepted = True
        self._client.subscribe(self._subscriptions)

    def _on_subscribe(
        self, _c: object, _d: object, _m: object, reasons: list[ReasonCode], _p: object
    ) -> None:
        if any(reason.is_failure for reason in reasons):
            self._over("the broker refuses the device's subscriptions")
        else:
            self.ready = True

    def _on_message(self, _client: object, _data: object, message: mqtt.MQTTMessage) -> None:
        self._receive(message.topic, bytes(message.payload), message.retain)

    def _over(self, problem: str) -> None:
        if not self.problem:
            self.problem = problem
