"""A few messages, and being sure of them: connect, publish with QoS 1, wait, leave.

MQTT 3.1.1, which every broker knows.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from edgekit.fleet.settings import in_url
from edgekit.wire.errors import DeviceError

CONNECT_S = 10.0


@dataclass(frozen=True)
class BrokerAddress:
    """A broker, and as whom to connect.

    Attributes:
        host: Its name or address.
        port: Its port.
        username: None for nobody.
        password: None without.
        tls: Whether to speak TLS.
        ca_file: Authority of its certificate; the system's by default.
    """

    host: str
    port: int
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    ca_file: Path | None = None

    def __str__(self) -> str:
        return f"{in_url(self.host)}:{self.port}"


@dataclass(frozen=True)
class Publication:
    """One message; an empty retained payload clears what the broker keeps for the topic."""

    topic: str
    payload: bytes
    retain: bool = False


def publish(
    address: BrokerAddress, messages: Iterable[Publication], *, timeout_s: float = 30.0
) -> None:
    """Publish messages and wait until the broker has taken each of them.

    Args:
        address: The broker.
        messages: In this order.
        timeout_s: For all of them.

    Raises:
        DeviceError: The broker cannot be reached, refuses, or does not answer in time.
    """
    with Connection(address) as connection:
        connection.publish(messages, timeout_s=timeout_s)


class Connection:
    """A connection to a broker, for a few messages; use it in a ``with``.

    Args:
        address: The broker.
        hears: Topics to hear, subscribed when the body runs.
        on_message: Gets topic and payload, in a thread of its own.

    Raises:
        DeviceError: On entering, the broker cannot be reached, refuses, or does not answer in time.
    """

    def __init__(
        self,
        address: BrokerAddress,
        *,
        hears: Sequence[str] = (),
        on_message: Callable[[str, bytes], object] = lambda _topic, _payload: None,
    ) -> None:
        self._address = address
        self._hears = tuple(hears)
        self._client, self._reasons = _client(address)
        self._client.on_message = lambda _c, _d, m: on_message(m.topic, m.payload)
        self._subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: self._subscribed.set()

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def publish(self, messages: Iterable[Publication], *, timeout_s: float = 30.0) -> None:
        """Publish messages and wait until the broker has taken each of them.

        Raises:
            DeviceError: It does not take them in time, or the connection is lost.
        """
        deadline_s = time.monotonic() + timeout_s
        with self._explaining():
            sent = [
                self._client.publish(message.topic, message.payload, qos=1, retain=message.retain)
                for message in messages
            ]
            for one in sent:
                one.wait_for_publish(max(0.0, deadline_s - time.monotonic()))
                if not one.is_published():
                    raise DeviceError("the broker takes no messages", where=str(self._address))

    def close(self) -> None:
        """Leave."""
        self._client.disconnect()
        self._client.loop_stop()

    def _open(self) -> None:
        client, reasons = self._client, self._reasons
        deadline_s = time.monotonic() + CONNECT_S
        with self._explaining():
            client.connect(self._address.host, self._address.port, keepalive=60)
            client.loop_start()
            _until(lambda: client.is_connected() or bool(reasons), deadline_s)
            if not client.is_connected():
                why = reasons[0] if reasons else "it does not answer"
                raise DeviceError(
                    f"the broker does not let us in: {why}",
                    hint="is `edgekit fleet up` running?",
                    where=str(self._address),
                )
            if self._hears:
                client.subscribe([(name, 1) for name in self._hears])
                if not self._subscribed.wait(max(0.0, deadline_s - time.monotonic())):
                    raise DeviceError("the broker lets us hear nothing", where=str(self._address))

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            raise DeviceError(
                f"the broker cannot be reached: {error}",
                hint="is `edgekit fleet up` running?",
                where=str(self._address),
            ) from error


def _client(address: BrokerAddress) -> tuple[Any, list[str]]:
    from paho.mqtt import client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

    reasons: list[str] = []
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv311)
    client.connect_timeout = CONNECT_S
    if address.username is not None:
        client.username_pw_set(address.username, address.password)
    if address.tls:
        context = ssl.create_default_context(cafile=address.ca_file)
        client.tls_set_context(context)

    def on_connect(_client: object, _data: object, _flags: object, reason: Any, *_: object) -> None:  # noqa: ANN401 - paho's
        if reason.is_failure:
            reasons.append(str(reason))

    client.on_connect = on_connect
    return client, reasons


def _until(condition: Callable[[], bool], deadline_s: float) -> None:
    while not condition() and time.monotonic() < deadline_s:
        time.sleep(0.01)
