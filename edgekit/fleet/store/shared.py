"""What several queries of the store share."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson
import sqlalchemy as sa

from edgekit.fleet.store import schema
from edgekit.fleet.store.reader import Reader
from edgekit.runtime.sketches import LatencyHistogram
from edgekit.wire.errors import UsageError

Key = TypeVar("Key", bound=Hashable)
WINDOW_S = 300
_MOST_WINDOWS = 31 * 288
DIGITS = 12  # of a digest
_NO_TEXT = ""


def windows_within(since_s: float, until_s: float) -> sa.ColumnElement[bool]:
    """Return the condition that five-minute sums overlap a time.

    The key begins with the window: a range of it is read whole, whatever the device, but a list of
    windows is looked up one by one.
    """
    window_s = schema.rollups.c.window_s
    first = math.floor(since_s / WINDOW_S) * WINDOW_S
    windows = range(first, math.ceil(until_s), WINDOW_S)
    if len(windows) > _MOST_WINDOWS:
        return sa.and_(window_s > since_s - WINDOW_S, window_s < until_s)
    return window_s.in_(windows)


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
    query = sa.select(*columns).where(windows_within(since_s, until_s))
    query = query.where(r.device != _NO_TEXT if each else r.device == (device or _NO_TEXT))
    query = query.where(r.model != _NO_TEXT if model is None else r.model == model)
    with reader.engine.connect() as connection:
        return list(connection.execute(query).mappings())


@dataclass
class Sums:
    """What models did, summed over five-minute rows."""

    requests: int = 0
    errors: int = 0
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)

    def add(self, row: Mapping[Any, Any]) -> None:
        """Add one row; in place, for a day of a fleet is many."""
        self.requests += row["requests"]
        self.errors += row["errors"]
        buckets, sum_us = orjson.loads(row["latency"])
        latency = self.latency
        for bucket, count in buckets.items():
            latency.buckets[int(bucket)] += count
            latency.count += count
        latency.sum_us += sum_us


def summed(
    rows: Iterable[Mapping[Any, Any]], key: Callable[[Mapping[Any, Any]], Key]
) -> dict[Key, Sums]:
    """Return rows of five-minute sums added up.

    Args:
        rows: Of :func:`rollups_of`.
        key: Rows with the same one belong together.
    """
    found: defaultdict[Key, Sums] = defaultdict(Sums)
    for row in rows:
        found[key(row)].add(row)
    return dict(found)


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
