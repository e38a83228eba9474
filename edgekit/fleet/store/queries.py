"""What the dashboard, the terminal, alerts and REST ask the store."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from edgekit.fleet.store import schema
from edgekit.fleet.store.models import model, models
from edgekit.fleet.store.reader import Reader
from edgekit.fleet.store.rows import (
    AuditRow,
    DeviceDetail,
    DeviceRow,
    EventRow,
    Gaps,
    IngestRow,
    LatencyPoint,
    Page,
    Summary,
)
from edgekit.fleet.store.shared import (
    DIGITS,
    models_of,
    object_of,
    path_of,
    registered,
    rollups_of,
    summed,
)
from edgekit.runtime.sketches import LatencyHistogram
from edgekit.wire.errors import TrustError, UsageError, did_you_mean

if TYPE_CHECKING:
    from edgekit.fleet.alerts.rows import AlertRow
    from edgekit.fleet.orders import Rollout

__all__ = [
    "Reader", "alerts", "audit", "device", "devices", "events", "ingest", "latency", "model",
    "models", "orders", "series", "summary", "windows",
]  # fmt: skip

_SORTS = ("name", "last_seen_s", "online", "version", "target", "temp_c", "cpu_share", "phase")
# Columns of the raw telemetry; every other metric is looked up in the sample's vitals.
# A clock that jumped within a batch moves nothing further than this.
_BATCH_S = 3600.0
_COLUMNS = ("temp_c", "cpu_share", "rss_bytes")


def devices(
    reader: Reader,
    *,
    search: str = "",
    labels: Mapping[str, str] | None = None,
    state: str | None = None,
    model: str | None = None,
    sort: str = "name",
    descending: bool = False,
    offset: int = 0,
    limit: int = 100,
) -> Page[DeviceRow]:
    """Return devices that are registered.

    Args:
        reader: Of the store.
        search: Part of a name.
        labels: That a device must have.
        state: ``online``, ``offline`` or ``never``.
        model: That it must serve.
        sort: A column, or ``alerts``.
        descending: The other way round.
        offset: How many to pass over.
        limit: Most rows.

    Raises:
        UsageError: No such state or column.
    """
    query = _device_query()
    d, s = schema.devices.c, schema.last_state.c
    if search:
        query = query.where(d.name.contains(search, autoescape=True))
    for key, value in (labels or {}).items():
        query = query.where(sa.func.json_extract(d.labels, path_of(key)) == value)
    if state is not None:
        query = query.where(_state(state))
    if model is not None:
        path = path_of("running", model)
        query = query.where(sa.func.json_extract(s.reported, path).is_not(None))
    if sort not in {*_SORTS, "alerts"}:
        raise UsageError(f"devices have no column {sort[:40]!r} to sort by", hint=", ".join(_SORTS))
    column = query.selected_columns[sort]
    order = column.desc() if descending else column.asc()
    with reader.engine.connect() as connection:
        total = connection.scalar(sa.select(sa.func.count()).select_from(query.subquery()))
        page = query.order_by(order.nulls_last(), d.name).offset(offset).limit(limit)
        rows = [_device_row(row) for row in connection.execute(page).mappings()]
    return Page(rows, int(total or 0))


def device(reader: Reader, name: str) -> DeviceDetail:
    """Return everything about a device.

    Raises:
        UsageError: None of this name is registered.
    """
    h = schema.high_water.c
    with reader.engine.connect() as connection:
        query = _device_query().where(schema.devices.c.name == name)
        row = connection.execute(query).mappings().first()
        if row is None:
            near = did_you_mean(name, connection.scalars(sa.select(schema.devices.c.name)).all())
            raise UsageError(
                f"no device is named {name[:80]!r}",
                hint=f"did you mean {near}?" if near else "`edgekit fleet devices` lists them",
            )
        marks = sa.select(schema.high_water).where(h.device == name).order_by(h.received_s.desc())
        gaps = [_gaps(mark) for mark in connection.execute(marks.limit(100)).mappings()]
    hello, reported, sample = (object_of(row[key]) for key in ("hello", "reported", "sample"))
    return DeviceDetail(
        row=_device_row(row),
        facts=hello.get("facts", {}),
        hello=hello,
        vitals=sample.get("vitals", {}) if isinstance(sample.get("vitals"), dict) else {},
        sample=sample,
        sample_s=row["sample_s"],
        reported=reported,
        state=object_of(row["state"]),
        reason=str(reported.get("detail", "")),
        gaps=gaps,
    )


def summary(reader: Reader) -> Summary:
    """Return the fleet in numbers."""
    d, s = schema.devices.c, schema.last_state.c
    joined = schema.devices.outerjoin(schema.last_state, d.name == s.device)
    query = sa.select(d.labels, s.online, s.version, s.target).select_from(joined)
    versions: Counter[str] = Counter()
    targets: Counter[str] = Counter()
    states: Counter[bool | None] = Counter()
    groups: dict[str, Counter[str]] = {}
    with reader.engine.connect() as connection:
        for labels, online, version, target in connection.execute(query.where(registered())):
            states[online] += 1
            versions[version or ""] += 1
            targets[target or ""] += 1
            word = {True: "online", False: "offline", None: "never_seen"}[online]
            for key, value in labels.items():
                groups.setdefault(f"{key}={value}", Counter())[word] += 1
        a = schema.alerts.c
        count = sa.select(sa.func.count()).select_from(schema.alerts).where(a.closed_s.is_(None))
        open_alerts = int(connection.scalar(count) or 0)
    return Summary(
        total=states.total(),
        online=states[True],
        offline=states[False],
        never_seen=states[None],
        open_alerts=open_alerts,
        versions=dict(versions),
        targets=dict(targets),
        groups={name: dict(found) for name, found in groups.items()},
    )


def series(
    reader: Reader, device: str, metric: str, since_s: float, until_s: float
) -> list[tuple[float, float]]:
    """Return a device's values of a metric over time, oldest first; see :func:`many_series`."""
    return many_series(reader, device, (metric,), since_s, until_s)[metric]


def many_series(
    reader: Reader, device: str, metrics: Sequence[str], since_s: float, until_s: float
) -> dict[str, list[tuple[float, float]]]:
    """Return a device's values of metrics over time, oldest first, in one pass over the files.

    The samples of a batch come at once. The last of them has the time that it was received at, and
    the others are before it by as much as the device's own clock says, up to an hour.

    Args:
        reader: Of the store.
        device: Its name.
        metrics: Names of ``vitals``: ``temp_c``.
        since_s: Received from then on.
        until_s: Received before.
    """
    extracted = "TRY_CAST(json_extract_string(content, ?) AS DOUBLE)"
    values = [metric if metric in _COLUMNS else extracted for metric in metrics]
    paths = [path_of("vitals", metric) for metric in metrics if metric not in _COLUMNS]
    files = reader.files(since_s, until_s)
    if not files:
        return {metric: [] for metric in metrics}
    sql = (
        f"SELECT received_s - least(greatest(max(time_s) OVER batch - time_s, 0), {_BATCH_S}) AS t,"  # noqa: S608 - a column of ours or a parameter
        f" {', '.join(values)} FROM read_parquet(?, union_by_name = true)"
        " WHERE device = ? AND kind = 'sample' AND received_s >= ? AND received_s < ?"
        " WINDOW batch AS (PARTITION BY boot_id, received_s) ORDER BY t, received_s, seq"
    )
    rows = reader.raw_rows(sql, [*paths, files, device, since_s, until_s])
    # A text that a device wrote may read as "inf" or "nan".
    return {
        metric: [(row[0], row[at]) for row in rows if row[at] is not None and isfinite(row[at])]
        for at, metric in enumerate(metrics, start=1)
    }


def latency(
    reader: Reader,
    *,
    since_s: float,
    until_s: float,
    device: str | None = None,
    model: str | None = None,
) -> list[LatencyPoint]:
    """Return latencies by 5 minutes, from merged histograms.

    Args:
        reader: Of the store.
        since_s: Windows that end later.
        until_s: Windows that begin before.
        device: Of one device alone.
        model: Of one model alone.
    """
    rows = rollups_of(reader, since_s, until_s, device=device, model=model)
    by_window = summed(rows, lambda row: float(row["window_s"]))
    return [
        LatencyPoint(
            t,
            found.latency.percentile_ms(0.5),
            found.latency.percentile_ms(0.95),
            found.latency.percentile_ms(0.99),
            found.latency.count,
        )
        for t, found in sorted(by_window.items())
    ]


def windows(
    reader: Reader, since_s: float, until_s: float, device: str | None = None
) -> Mapping[tuple[str, str], tuple[int, int, LatencyHistogram]]:
    """Return what models did: requests, errors and latencies by device and model.

    Args:
        reader: Of the store.
        since_s: Windows that end later.
        until_s: Windows that begin before.
        device: Of one device; None for each of them.
    """
    rows = rollups_of(reader, since_s, until_s, device=device, each=device is None)
    found = summed(rows, lambda row: (str(row["device"]), str(row["model"])))
    return {key: (sums.requests, sums.errors, sums.latency) for key, sums in found.items()}


def events(
    reader: Reader, *, device: str | None = None, since_s: float = 0.0, limit: int = 200
) -> list[EventRow]:
    """Return events, the newest first."""
    e = schema.events.c
    columns = (e.id, e.device, e.received_s, e.time_s, e.name, e["values"])
    query = sa.select(*columns).where(e.received_s >= since_s)
    if device is not None:
        query = query.where(e.device == device)
    with reader.engine.connect() as connection:
        found = connection.execute(query.order_by(e.id.desc()).limit(limit)).mappings()
        return [EventRow(**{**row, "values": object_of(row["values"])}) for row in found]


def alerts(reader: Reader, *, is_open: bool | None = True) -> Sequence[AlertRow]:
    """Return alerts, the newest first."""
    from edgekit.fleet.alerts.rows import AlertRows

    return AlertRows(reader.engine).list(is_open=is_open)


def orders(reader: Reader, *, limit: int = 50) -> list[Rollout]:
    """Return the last orders, the newest first."""
    from edgekit.fleet.order_store import Orders

    return Orders(reader.engine, lambda _devices: {}).last_rollouts(limit)


def audit(reader: Reader, *, limit: int = 200) -> list[AuditRow]:
    """Return what people did, the latest first."""
    query = sa.select(schema.audit).order_by(schema.audit.c.id.desc()).limit(limit)
    with reader.engine.connect() as connection:
        return [AuditRow(**row) for row in connection.execute(query).mappings()]


def ingest(reader: Reader) -> IngestRow | None:
    """Return how ingest is; None where it never ran."""
    i = schema.ingest_state.c
    query = sa.select(i.alive_s, i.status, i.detail, i.counts).order_by(i.alive_s.desc())
    with reader.engine.connect() as connection:
        row = connection.execute(query).mappings().first()
    return IngestRow(**{**row, "counts": object_of(row["counts"])}) if row else None


def _device_query() -> sa.Select[Any]:
    d, s, a = schema.devices.c, schema.last_state.c, schema.alerts.c
    count = (
        sa.select(a.device, sa.func.count().label("n"))
        .where(a.closed_s.is_(None))
        .group_by(a.device)
        .subquery()
    )
    joined = schema.devices.outerjoin(schema.last_state, d.name == s.device)
    joined = joined.outerjoin(count, count.c.device == d.name)
    columns = [column for column in schema.last_state.c if column.name != "device"]
    number = sa.func.coalesce(count.c.n, 0).label("alerts")
    query = sa.select(d.name, d.labels, *columns, number)
    return query.select_from(joined).where(registered())


def _state(state: str) -> sa.ColumnElement[bool]:
    online = schema.last_state.c.online
    if state == "never":
        return online.is_(None)
    if state not in {"online", "offline"}:
        raise UsageError(f"no state is named {state[:40]!r}", hint="online, offline or never")
    return online.is_(state == "online")


def _device_row(row: Mapping[Any, Any]) -> DeviceRow:
    running = object_of(row["reported"]).get("running", {})
    said = models_of(object_of(row["sample"]))
    p95 = {name: _p95(values) for name, values in said.items()}
    return DeviceRow(
        name=row["name"],
        labels=row["labels"],
        online=row["online"],
        last_seen_s=row["last_seen_s"],
        target=row["target"] or "",
        version=row["version"] or "",
        models={name: sha256[:DIGITS] for name, sha256 in running.items()},
        temp_c=row["temp_c"],
        cpu_share=row["cpu_share"],
        p95_ms={name: value for name, value in p95.items() if value is not None},
        alerts=row["alerts"],
        phase=row["phase"] or "",
    )


def _gaps(row: Mapping[Any, Any]) -> Gaps:
    issued = max(row["issued"], row["top"] + 1)
    ranges = [(int(a), int(b)) for a, b in json.loads(row["ranges"])]
    return Gaps(row["boot_id"], row["have"], issued, row["dropped"], ranges, row["received_s"])


def _p95(values: object) -> float | None:
    latency_ms = values.get("latency_ms") if isinstance(values, dict) else None
    try:
        found = LatencyHistogram.from_json(latency_ms if isinstance(latency_ms, dict) else {})
    except TrustError:
        return None
    return found.percentile_ms(0.95)
