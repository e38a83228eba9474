"""The last lines of a device's log, asked for over MQTT."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.fleet.ask import ask, command_of
from edgekit.fleet.publisher import BrokerAddress
from edgekit.wire.canonical import Json
from edgekit.wire.errors import DeviceError

MOST_LINES = 200
ANSWER_S = 10.0


@dataclass(frozen=True)
class LogLine:
    """One line.

    Attributes:
        time_s: By the device's own clock, Unix seconds.
        level: ``INFO``, ``WARNING``, …
        text: What it says.
    """

    time_s: float
    level: str
    text: str


def device_log(
    address: BrokerAddress, fleet: str, device: str, lines: int, command_id: str
) -> list[LogLine]:
    """Return a device's last lines, the oldest first.

    Args:
        address: The broker, and as whom: one who may write commands and read replies.
        fleet: Name of the fleet.
        device: Name of the device.
        lines: At most so many, 1 to 200.
        command_id: One that was not used before.

    Raises:
        DeviceError: The device does not answer in time, or has no such command.
    """
    command = command_of(command_id, "logs", {"lines": lines})
    return read_lines(ask(address, fleet, device, command, timeout_s=ANSWER_S), device)


def read_lines(answer: Json, device: str) -> list[LogLine]:
    """Read what a device answers.

    Raises:
        DeviceError: It is no log.
    """
    said = answer.get("lines") if isinstance(answer, dict) else None
    if not isinstance(said, list):
        raise DeviceError(f"{device} answers with no log", hint="update edgekit on the device")
    return [line for item in said[:MOST_LINES] if (line := _line(item)) is not None]


def _line(item: Json) -> LogLine | None:
    if not isinstance(item, dict):
        return None
    time_s, level, text = item.get("time_s"), item.get("level"), item.get("text")
    if isinstance(time_s, bool) or not isinstance(time_s, int | float):
        return None
    if not isinstance(level, str) or not isinstance(text, str):
        return None
    return LogLine(float(time_s), level, text)
