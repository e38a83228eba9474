"""Reads Protocol Buffers by their encoding alone, without a library or a description.

https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import struct
from typing import Any

_METRIC = {1: "name", 3: "timestamp", 4: "datatype", 7: "is_null"}


def fields(data: bytes) -> list[tuple[int, Any]]:
    """Return the number and value of each field: an int, a double or bytes."""
    found, at = [], 0
    while at < len(data):
        key, at = _varint(data, at)
        value: Any
        match key & 7:
            case 0:
                value, at = _varint(data, at)
            case 1:
                value, at = struct.unpack_from("<d", data, at)[0], at + 8
            case 2:
                size, at = _varint(data, at)
                assert at + size <= len(data)
                value, at = data[at : at + size], at + size
            case kind:
                raise AssertionError(f"wire type {kind}")
        found.append((key >> 3, value))
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not data[at - 1] & 0x80:
            return value, at


def sparkplug(data: bytes) -> dict[str, Any]:
    """Return a Sparkplug B payload: timestamp, seq, and metrics as {name: (datatype, value)}.

    The datatype is None where a metric does not say it.
    """
    payload: dict[str, Any] = {"metrics": {}}
    for number, value in fields(data):
        if number == 2:
            metric: dict[str, Any] = {}
            for inner, part in fields(value):
                if inner in _METRIC:
                    metric[_METRIC[inner]] = part
                else:
                    metric["value"] = part
            name = metric["name"].decode()
            kind, held = metric.get("datatype"), metric.get("value")
            if isinstance(held, bytes):
                held = held.decode()
            payload["metrics"][name] = (kind, held)
        else:
            payload[{1: "timestamp", 3: "seq"}[number]] = value
    return payload
