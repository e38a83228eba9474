"""What comes from the network: checked, counted and handed on. Nothing of it may stop the agent."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgekit.wire.errors import TrustError
from edgekit.wire.messages import MAX_CONTROL_BYTES, Ack, parse_ack
from edgekit.wire.topics import Leaf, parse_topic

MAX_PACKET_BYTES = 1 << 20

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Receivers:
    """Who gets what; each returns at once.

    Attributes:
        ack: An acknowledgement.
        command: The payload of a command, not yet read.
        desired: The payload of an order, not yet checked.
        inputs: Pipeline to who takes its payloads.
    """

    ack: Callable[[Ack], object]
    command: Callable[[bytes], object]
    desired: Callable[[bytes], object]
    inputs: Mapping[str, Callable[[bytes], object]]


class Inbox:
    """Hands messages to their receivers.

    Args:
        fleet: Name of the fleet.
        device: Name of the device.
        receivers: Who gets what.

    Attributes:
        received: Messages that were handed on.
        refused: Messages that were not what they should be.
        failed: Messages whose receiver raised.
    """

    def __init__(self, fleet: str, device: str, receivers: Receivers) -> None:
        self._own = (fleet, device)
        self._receivers = receivers
        self.received = 0
        self.refused = 0
        self.failed = 0

    def receive(self, topic: str, payload: bytes, *, retained: bool = False) -> None:
        """Take one message. Never raises.

        Args:
            topic: Where it was published.
            payload: Whatever it holds.
            retained: Whether the broker kept it from before this connection.
        """
        try:
            self._dispatch(topic, payload, retained)
            self.received += 1
        except TrustError as error:
            self.refused += 1
            log.debug("refused a message: %s", error)
        except Exception:  # receivers are other people's code; the link must outlive them
            self.failed += 1
            log.exception("a message on %s could not be handled", topic[:200])

    def _dispatch(self, topic: str, payload: bytes, retained: bool) -> None:
        place = parse_topic(topic)
        leaf: Leaf = place.leaf
        if (place.fleet, place.device) != self._own:
            raise TrustError("the message is for another device", where=topic)
        most = MAX_PACKET_BYTES if leaf == "input" else MAX_CONTROL_BYTES
        if len(payload) > most:
            raise TrustError(f"the payload is over {most} bytes", where=topic)
        if retained and leaf != "desired":
            # Done again at each connection, for ever: no command means that.
            raise TrustError("only an order may be retained", where=topic)
        if leaf == "ack":
            self._receivers.ack(parse_ack(payload))
        elif leaf == "command":
            self._receivers.command(payload)
        elif leaf == "desired":
            # Empty is how a retained message is cleared.
            if payload:
                self._receivers.desired(payload)
        elif leaf == "input" and place.name in self._receivers.inputs:
            self._receivers.inputs[place.name](payload)
        else:
            raise TrustError("nobody listens there", where=topic)
