"""Payloads of Sparkplug B: Protocol Buffers, of which this describes the part that is used here.

The fields, their numbers and the numbers of the data types are those of the Sparkplug 3.0.0
specification (https://sparkplug.eclipse.org/specification/), chapter 6.4. Whatever else a payload
holds is skipped by a reader.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from edgekit.wire.errors import MissingToolError, TrustError

Value = float | int | bool | str | None

INT64, DOUBLE, BOOLEAN, STRING = 4, 10, 11, 12
MAX_METRICS = 256
# Name, number, and type of each field (descriptor.proto: 1 double, 4 uint64, 8 bool, 9 string,
# 13 uint32).
_METRIC = (
    ("name", 1, 9),
    ("alias", 2, 4),
    ("timestamp", 3, 4),
    ("datatype", 4, 13),
    ("is_null", 7, 8),
    ("int_value", 10, 13),
    ("long_value", 11, 4),
    ("double_value", 13, 1),
    ("boolean_value", 14, 8),
    ("string_value", 15, 9),
)
_VALUES = ("int_value", "long_value", "double_value", "boolean_value", "string_value")
_FIELD_OF = {
    INT64: "long_value",
    DOUBLE: "double_value",
    BOOLEAN: "boolean_value",
    STRING: "string_value",
}


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: Of the metric.
        value: None for null.
        datatype: Number of its type in the specification.
        time_ms: Unix time in milliseconds.
    """

    name: str
    value: Value
    datatype: int
    time_ms: int = 0


def type_of(value: float | bool | str) -> int:
    """Return the data type in which a value is sent."""
    if isinstance(value, bool):
        return BOOLEAN
    if isinstance(value, str):
        return STRING
    return INT64 if isinstance(value, int) else DOUBLE


def encode(
    metrics: Iterable[Metric], time_ms: int, seq: int | None, *, typed: bool = True
) -> bytes:
    """Return a payload.

    Args:
        metrics: In this order.
        time_ms: Unix time of sending in milliseconds.
        seq: 0..255; None where the message has none.
        typed: Whether each metric says its data type; data and commands leave it to the birth.

    Raises:
        MissingToolError: The package protobuf is not installed.
    """
    payload = _payload_class()()
    payload.timestamp = time_ms
    if seq is not None:
        payload.seq = seq
    for metric in metrics:
        made = payload.metrics.add()
        made.name = metric.name
        made.timestamp = metric.time_ms or time_ms
        if typed:
            made.datatype = metric.datatype
        if metric.value is None:
            made.is_null = True
        elif metric.datatype == INT64:
            made.long_value = int(metric.value) % 2**64  # two's complement in an unsigned field
        else:
            setattr(made, _FIELD_OF[metric.datatype], metric.value)
    return bytes(payload.SerializeToString())


def decode(data: bytes) -> list[Metric]:
    """Read a payload from the network.

    Raises:
        MissingToolError: The package protobuf is not installed.
        TrustError: Not a payload, or one of too many metrics.
    """
    from google.protobuf.message import DecodeError

    payload = _payload_class()()
    try:
        payload.ParseFromString(data)
    except DecodeError as error:
        raise TrustError("not a payload of Sparkplug B") from error
    if len(payload.metrics) > MAX_METRICS:
        raise TrustError(f"a payload of over {MAX_METRICS} metrics")
    found = []
    for metric in payload.metrics:
        kind = metric.WhichOneof("value")
        value = getattr(metric, kind) if kind else None
        found.append(Metric(metric.name, value, metric.datatype, metric.timestamp))
    return found


@functools.cache
def _payload_class() -> Any:  # noqa: ANN401 - made at run time
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError as error:
        raise MissingToolError(
            "Sparkplug B needs the package protobuf", hint="pip install 'edgekit[sparkplug]'"
        ) from error
    optional, repeated, message = 1, 3, 11  # descriptor.proto
    file = descriptor_pb2.FileDescriptorProto(
        name="edgekit_sparkplug.proto", package="edgekit.sparkplug", syntax="proto2"
    )
    payload = file.message_type.add(name="Payload")
    metric = payload.nested_type.add(name="Metric")
    metric.oneof_decl.add(name="value")
    for name, number, kind in _METRIC:
        field = metric.field.add(name=name, number=number, type=kind, label=optional)
        if name in _VALUES:
            field.oneof_index = 0
    payload.field.add(name="timestamp", number=1, type=4, label=optional)
    kind_name = ".edgekit.sparkplug.Payload.Metric"
    payload.field.add(name="metrics", number=2, type=message, label=repeated, type_name=kind_name)
    payload.field.add(name="seq", number=3, type=4, label=optional)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("edgekit.sparkplug.Payload"))
