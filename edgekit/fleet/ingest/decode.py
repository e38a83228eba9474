"""From a payload to what is stored, or to the reason why it is refused: pure.

A batch takes a fast path that accepts only what :func:`edgekit.wire.messages.parse_batch` accepts,
and everything that the fast path does not accept goes to that reader, which decides.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Container
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from edgekit.runtime.batches import MAX_PACKED_BYTES
from edgekit.wire.errors import TrustError
from edgekit.wire.messages import (
    MAX_BATCH_BYTES,
    parse_batch,
    parse_hello,
    parse_reply,
    parse_reported,
    parse_state,
)
from edgekit.wire.strict import MAX_INTEGER, MAX_ITEMS, MAX_TEXT
from edgekit.wire.topics import parse_topic
from edgekit.wire.values import MAX_VALUE_DEPTH, MAX_VALUE_TEXT

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Reason = Literal["topic", "unknown_device", "too_large", "schema"]
Said = dict[str, Any]

MAX_CONTROL_BYTES = 64 * 1024
_WINDOW_LOG_MAX = 22
_BOOT_ID = re.compile(r"[0-9a-f]{16}", re.ASCII)
_OPTIONS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG_MAX}
_PARSERS = {
    "hello": parse_hello,
    "state": parse_state,
    "reported": parse_reported,
    "reply": parse_reply,
}
_KEYS = {"boot_id", "seq", "time_s", "kind", "values"}


@dataclass(frozen=True)
class Telemetry:
    """A batch: each message with the five fields of :class:`edgekit.wire.messages.Message`."""

    device: str
    messages: list[Said]


@dataclass(frozen=True)
class Control:
    """Any other message of a device.

    Attributes:
        device: Its name.
        leaf: ``hello``, ``state``, ``reported`` or ``reply``.
        said: What it says, checked.
    """

    device: str
    leaf: str
    said: Said


@dataclass(frozen=True)
class Refusal:
    """A message that is not stored; it is counted by its reason."""

    device: str
    reason: Reason
    detail: str = ""


def decode(
    topic: str, payload: bytes, fleet: str, known: Container[str]
) -> Telemetry | Control | Refusal:
    """Read one message.

    Args:
        topic: Where it came from.
        payload: What came.
        fleet: Name of the fleet.
        known: The devices that are registered.
    """
    try:
        place = parse_topic(topic)
    except TrustError as error:
        return Refusal("", "topic", error.message)
    if place.fleet != fleet or (place.leaf != "telemetry" and place.leaf not in _PARSERS):
        return Refusal(place.device, "topic")
    if place.device not in known:
        return Refusal(place.device, "unknown_device")
    try:
        return _read(place.device, place.leaf, payload)
    except _TooLargeError as error:
        return Refusal(place.device, "too_large", error.message)
    except TrustError as error:
        return Refusal(place.device, "schema", str(error)[:200])


def _read(device: str, leaf: str, payload: bytes) -> Telemetry | Control:
    most = MAX_PACKED_BYTES if leaf == "telemetry" else MAX_CONTROL_BYTES
    if len(payload) > most:
        raise _TooLargeError(f"over {most} bytes")
    if leaf == "telemetry":
        return Telemetry(device, read_batch(unfold(payload)))
    return Control(device, leaf, vars(_PARSERS[leaf](payload)))


class _TooLargeError(TrustError):
    """A batch that unfolds to more than is allowed."""


def unfold(payload: bytes) -> bytes:
    """Decompress a batch.

    Raises:
        TrustError: Not one whole frame, or a bomb.
    """
    try:
        reader = zstd.ZstdDecompressor(options=_OPTIONS)
        text = reader.decompress(payload, max_length=MAX_BATCH_BYTES + 1)
    except (zstd.ZstdError, EOFError, ValueError, MemoryError) as error:
        raise TrustError("not a zstd frame", where="batch") from error
    if len(text) > MAX_BATCH_BYTES:
        raise _TooLargeError(f"decompresses to over {MAX_BATCH_BYTES} bytes", where="batch")
    if not reader.eof or reader.unused_data:
        raise TrustError("not one whole zstd frame", where="batch")
    return text


def read_batch(text: bytes) -> list[Said]:
    """Read a batch's messages.

    Raises:
        TrustError: Not a batch.
    """
    try:
        document = orjson.loads(text)
    except ValueError:
        document = None
    if is_plain_batch(document):
        return document["messages"]  # type: ignore[no-any-return]
    return [message.to_json() for message in parse_batch(text).messages]


def is_plain_batch(document: object) -> bool:
    """Tell whether a parsed document is a batch for certain.

    False means that the strict reader must decide, not that it is none.
    """
    if not isinstance(document, dict):
        return False
    messages = document.get("messages")
    if type(messages) is not list or len(messages) > MAX_ITEMS:
        return False
    return all(type(item) is dict and _is_message(item) for item in messages)


def _is_message(item: Said) -> bool:
    if item.keys() != _KEYS:
        return False
    boot_id, seq, time_s = item["boot_id"], item["seq"], item["time_s"]
    return (
        type(boot_id) is str
        and _BOOT_ID.fullmatch(boot_id) is not None
        and type(seq) is int
        and 0 <= seq <= MAX_INTEGER
        and type(time_s) in {int, float}
        and 0 <= time_s <= MAX_INTEGER
        and item["kind"] in ("sample", "event")
        and type(item["values"]) is dict
        and _is_value(item["values"], MAX_VALUE_DEPTH)
    )


def _is_value(value: Any, left: int) -> bool:  # noqa: ANN401, PLR0911 - JSON; one way out for each type
    # What `edgekit.wire.values.check_value` takes; the types in the order of how frequent they are.
    kind = type(value)
    if kind is int or kind is float:
        return bool(-MAX_INTEGER <= value <= MAX_INTEGER)
    if kind is str:
        return bool(len(value) <= MAX_VALUE_TEXT and value.isprintable())
    if kind is dict:
        if left <= 0 or len(value) > MAX_ITEMS:
            return False
        for key, item in value.items():
            if len(key) > MAX_TEXT or not key.isprintable() or not _is_value(item, left - 1):
                return False
        return True
    if kind is list:
        if left <= 0 or len(value) > MAX_ITEMS:
            return False
        return all([_is_value(item, left - 1) for item in value])  # noqa: C419 - a list is faster here
    return value is None or kind is bool
