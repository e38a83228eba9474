"""Ingest's connection to the broker: hears the fleet, tells devices what is committed."""

from __future__ import annotations

import logging
import time
from typing import Any

from edgekit.fleet.ingest.inbox import Arrived, Inbox
from edgekit.fleet.publisher import BrokerAddress
from edgekit.wire.messages import Ack
from edgekit.wire.topics import Leaf, fleet_filter, topic

log = logging.getLogger(__name__)

HEARS: tuple[Leaf, ...] = ("telemetry", "hello", "state", "reported", "reply")
_IN_FLIGHT = 2000


class Link:
    """A connection that comes back by itself.

    The client acknowledges to the broker what the inbox has taken. What is lost with this process
    is sent again: telemetry by the devices, for it was not acknowledged to them; the rest by the
    broker, which retains it.

    Args:
        address: Of the broker.
        fleet: Name of the fleet.
        inbox: Gets what comes; while it is full nothing is read from the socket.
    """

    def __init__(self, address: BrokerAddress, fleet: str, inbox: Inbox) -> None:
        from paho.mqtt import client as mqtt
        from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

        self._address = address
        self._fleet = fleet
        self._inbox = inbox
        self._trouble = f"there is no connection yet to the broker at {address}"
        client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv311)
        client.max_inflight_messages_set(_IN_FLIGHT)
        client.reconnect_delay_set(1, 10)
        if address.username is not None:
            client.username_pw_set(address.username, address.password)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_subscribe = self._on_subscribe
        self._client = client

    def start(self) -> None:
        """Connect, now or when the broker is there."""
        self._client.connect_async(self._address.host, self._address.port, keepalive=60)
        self._client.loop_start()

    def stop(self) -> None:
        """Leave; the inbox must be closed."""
        self._client.disconnect()
        self._client.loop_stop()

    @property
    def trouble(self) -> str:
        """Why nothing comes; empty where all is well."""
        return self._trouble

    def tell(self, device: str, ack: Ack) -> None:
        """Tell a device what is committed; without a connection it sends again, and hears then."""
        if self._client.is_connected():
            self._client.publish(topic(self._fleet, device, "ack"), ack.to_bytes(), qos=1)

    def _on_connect(self, client: Any, _data: object, _flags: object, reason: Any, *_: Any) -> None:  # noqa: ANN401 - paho's
        if reason.is_failure:
            self._trouble = f"the broker at {self._address} refuses ingest: {reason}"
            log.error(
                "%s; stop the fleet and start it again: it writes the accounts", self._trouble
            )
            return
        client.subscribe([(fleet_filter(leaf, self._fleet), 1) for leaf in HEARS])
        self._trouble = ""
        log.info("connected to %s", self._address)

    def _on_disconnect(self, *args: Any) -> None:  # noqa: ANN401 - paho's
        log.info("the connection to %s is gone: %s", self._address, args[3])
        self._trouble = self._trouble or (
            f"there is no connection to the broker at {self._address}; run/broker.log may say why"
        )

    def _on_subscribe(self, *args: Any) -> None:  # noqa: ANN401 - paho's
        refused = [leaf for leaf, one in zip(HEARS, args[3], strict=False) if one.is_failure]
        if refused:
            self._trouble = f"the broker lets ingest not hear {', '.join(refused)}"
            log.error("%s; stop the fleet and start it again: it writes the rights", self._trouble)

    def _on_message(self, _client: Any, _data: object, message: Any) -> None:  # noqa: ANN401 - paho's
        try:
            name = message.topic
        except UnicodeDecodeError:
            return
        self._inbox.put(Arrived(name, message.payload, time.time(), bool(message.retain)))
