"""What several queries of the store share."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from edgekit.fleet.store import schema
from edgekit.fleet.store.reader import Reader
from edgekit.runtime.sketches import LatencyHistogram
from edgekit.wire.errors import UsageError

WINDOW_S = 300
DIGITS = 12  # of a digest
_NO_TEXT = ""


def rollups_of(
    reader: Reader,
    since_s: float,
    until_s: float,
    *,
    device: str | None = None,
    model: str | None = None,
    each: bool = False,
) -> list[Mapping[Any, Any]]:
    """Return the rows of five-minute sums: of a device, of all together, or of each."""
    r = schema.rollups.c
    columns = (r.window_s, r.device, r.model, r.requests, r.errors, r.latency)
    query = sa.select(*columns).where(r.window_s > since_s - WINDOW_S, r.window_s < until_s)
    query = query.where(r.device != _NO_TEXT if each else r.device == (device or _NO_TEXT))
    query = query.where(r.model != _NO_TEXT if model is None else r.model == model)
    with reader.engine.connect() as connection:
        return list(connection.execute(query).mappings())


def histogram_of(text: str) -> LatencyHistogram:
    """Return a histogram as it is stored."""
    buckets, sum_us = json.loads(text)
    counts: Counter[int] = Counter({int(bucket): n for bucket, n in buckets.items()})
    return LatencyHistogram(counts, counts.total(), sum_us)


def registered() -> sa.ColumnElement[bool]:
    """Return the condition that a device is registered."""
    return schema.devices.c.removed_s.is_(None)


def models_of(sample: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a sample says of models."""
    found = sample.get("models")
    return found if isinstance(found, dict) else {}


def object_of(text: str | None) -> dict[str, Any]:
    """Return a stored JSON object; empty where there is none."""
    found = json.loads(text) if text else {}
    return found if isinstance(found, dict) else {}


def path_of(*names: str) -> str:
    """Return the JSON path to nested names.

    Raises:
        UsageError: A name holds a quote.
    """
    for name in names:
        if '"' in name or "\\" in name:
            raise UsageError(f"no name holds a quote: {name[:40]!r}")
    return "$" + "".join(f'."{name}"' for name in _plain(names))


def _plain(names: Iterable[str]) -> list[str]:
    return [name[:1000] for name in names]
