"""What the store knows of models, over all devices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from edgekit.fleet.store import schema
from edgekit.fleet.store.reader import Reader
from edgekit.fleet.store.rows import ModelDetail, ModelRow
from edgekit.fleet.store.shared import (
    DIGITS,
    WINDOW_S,
    Sums,
    models_of,
    object_of,
    path_of,
    registered,
    rollups_of,
    summed,
)
from edgekit.wire.errors import UsageError, did_you_mean

DAY_S = 86_400.0


def models(reader: Reader, *, now_s: float | None = None) -> list[ModelRow]:
    """Return the models that any device serves.

    Args:
        reader: Of the store.
        now_s: End of the day that is summed up; the latest window by default.
    """
    serving = _serving(reader)
    until_s = now_s if now_s is not None else _latest_s(reader)
    done = summed(rollups_of(reader, until_s - DAY_S, until_s), lambda row: str(row["model"]))
    return [
        _model_row(name, serving.get(name, {}), done.get(name, Sums()))
        for name in sorted({*serving, *done})
    ]


def model(reader: Reader, name: str) -> ModelDetail:
    """Return a model over the fleet.

    Raises:
        UsageError: No device serves it.
    """
    rows = {row.name: row for row in models(reader)}
    if name not in rows:
        near = did_you_mean(name, rows)
        raise UsageError(
            f"no device serves a model named {name[:80]!r}",
            hint=f"did you mean {near}?" if near else None,
        )
    s = schema.last_state.c
    measurements: dict[str, Mapping[str, float]] = {}
    drift: dict[str, Mapping[str, Any]] = {}
    is_here = sa.func.json_extract(s.reported, path_of("running", name)).is_not(None)
    query = sa.select(s.device, s.reported, s.sample).where(is_here)
    with reader.engine.connect() as connection:
        for device_name, reported, sample in connection.execute(query):
            found = object_of(reported).get("measurements")
            if found:
                measurements[device_name] = found
            said = models_of(object_of(sample)).get(name, {})
            if isinstance(said, dict) and isinstance(said.get("drift"), dict):
                drift[device_name] = said["drift"]
    return ModelDetail(rows[name], measurements, drift)


def _latest_s(reader: Reader) -> float:
    with reader.engine.connect() as connection:
        latest = connection.scalar(sa.select(sa.func.max(schema.rollups.c.window_s)))
    return float(latest or 0) + WINDOW_S


def _serving(reader: Reader) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {}
    s, d = schema.last_state.c, schema.devices.c
    joined = schema.last_state.join(schema.devices, d.name == s.device)
    query = sa.select(s.reported).select_from(joined).where(registered(), s.reported.is_not(None))
    with reader.engine.connect() as connection:
        for reported in connection.scalars(query):
            for name, sha256 in object_of(reported).get("running", {}).items():
                found.setdefault(name, Counter())[sha256[:DIGITS]] += 1
    return found


def _model_row(name: str, bundles: Mapping[str, int], sums: Sums) -> ModelRow:
    p50, p95 = sums.latency.percentile_ms(0.5), sums.latency.percentile_ms(0.95)
    devices = sum(bundles.values())
    return ModelRow(name, devices, dict(bundles), sums.requests, sums.errors, p50, p95)
