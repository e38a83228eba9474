"""Asking one device to do something, and waiting for what it says: a command and its reply.

The id is the caller's: asked again with the same one, a device repeats its reply and does nothing
twice. A device that is not connected hears nothing, so the wait may end without an answer.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping

from edgekit.fleet.publisher import BrokerAddress, Connection, Publication
from edgekit.wire.canonical import Json
from edgekit.wire.errors import DeviceError, TrustError
from edgekit.wire.messages import Command, Reply, parse_reply
from edgekit.wire.topics import topic

ANSWER_S = 30.0
_MAX_WAITING = 64


def ask(
    address: BrokerAddress,
    fleet: str,
    device: str,
    command: Command,
    *,
    timeout_s: float = ANSWER_S,
    is_over: Callable[[], bool] = lambda: False,
) -> Json:
    """Send a command to a device and wait for its reply.

    Args:
        address: The broker, and as whom: one who may write commands and read replies.
        fleet: Name of the fleet.
        device: Name of the device.
        command: With an id that was not used before.
        timeout_s: How long to wait, from the moment that the broker has the command.
        is_over: Ends the wait early.

    Returns:
        The result.

    Raises:
        DeviceError: The broker cannot be reached; the device does not answer in time, or answers
            that it could not do it.
        TrustError: A name may not stand in a topic.
    """
    replies: queue.Queue[Reply] = queue.Queue(_MAX_WAITING)
    place = topic(fleet, device, "reply")

    def heard(where: str, payload: bytes) -> None:
        try:
            reply = parse_reply(payload)
        except TrustError:
            return
        if where == place and reply.id == command.id and not replies.full():
            replies.put(reply)

    with Connection(address, hears=(place,), on_message=heard) as connection:
        connection.publish([Publication(topic(fleet, device, "command"), command.to_bytes())])
        reply = _wait(replies, timeout_s, is_over)
    if reply is None:
        raise DeviceError(
            f"{device} does not answer within {timeout_s:g} s",
            hint="`edgekit fleet show` tells whether it is connected",
        )
    if not reply.ok:
        raise DeviceError(f"{device}: {reply.error}", hint=reply.hint or None)
    return reply.result


def command_of(command_id: str, name: str, args: Mapping[str, Json]) -> Command:
    """Make a command, without the arguments that are None."""
    return Command(command_id, name, {key: v for key, v in args.items() if v is not None})


def _wait(
    replies: queue.Queue[Reply], timeout_s: float, is_over: Callable[[], bool]
) -> Reply | None:
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s and not is_over():
        try:
            return replies.get(timeout=0.2)
        except queue.Empty:
            continue
    return None
