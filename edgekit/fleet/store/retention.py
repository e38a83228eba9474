"""What the store keeps for how long: rows that are too old go, a few at once.

Each batch is a transaction of its own, so that ingest never waits for long; what is left of very
many goes with the next looks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from edgekit.fleet.orders import OPEN
from edgekit.fleet.store.schema import (
    alerts,
    audit,
    events,
    high_water,
    rollout_devices,
    rollouts,
    rollups,
    sessions,
    silences,
    stored_runs,
)

if TYPE_CHECKING:
    from sqlalchemy import Engine

DAY_S = 86_400.0
BATCH_ROWS = 2000
MOST_BATCHES = 10  # of a table, for each look
MAX_EVENTS = 1_000_000
# What the fleet did as a whole is small; a process that is silent for so long comes no more.
ROLLUP_DAYS = 400.0
PROCESS_DAYS = 400.0

Condition = sa.ColumnElement[bool]


@dataclass(frozen=True)
class Ages:
    """How many days are kept.

    Attributes:
        telemetry_days: Raw telemetry, events, and the sums of single devices.
        alert_days: Alerts since they closed, and silences since they ended.
        order_days: Orders that are over, since they were given; the last of a model stays.
        audit_days: The audit log.
    """

    telemetry_days: float = 30.0
    alert_days: float = 400.0
    order_days: float = 400.0
    audit_days: float = 400.0


class Pruner:
    """Deletes what is too old; the newest row of a table stays, for its number is not used again.

    Args:
        engine: Of the store.
        ages: How much is kept.
    """

    def __init__(self, engine: Engine, ages: Ages) -> None:
        self._engine = engine
        self._ages = ages
        self._day = self._floor_s = 0.0

    def prune(self, now_s: float) -> None:
        """Delete some of what is too old.

        Args:
            now_s: Unix time in seconds.
        """
        self._prune_sums(now_s)
        for table, condition in _too_old(self._ages, now_s):
            self._delete(table, condition)

    def _prune_sums(self, now_s: float) -> None:
        """Delete five-minute sums; those of the whole fleet, which stay, are passed over once."""
        if now_s // DAY_S != self._day:
            self._day, self._floor_s = now_s // DAY_S, 0.0
        u, border_s = rollups.c, now_s - self._ages.telemetry_days * DAY_S
        self._delete(rollups, u.window_s < now_s - ROLLUP_DAYS * DAY_S)
        is_old = sa.and_(u.device != "", u.window_s < border_s, u.window_s >= self._floor_s)
        if self._delete(rollups, is_old):
            self._floor_s = border_s

    def _delete(self, table: sa.Table, condition: Condition) -> bool:
        """Delete the rows of a condition, and tell whether that were all."""
        keys: Sequence[Any] = list(table.primary_key.columns)
        key = keys[0] if len(keys) == 1 else sa.tuple_(*keys)
        some = sa.delete(table).where(key.in_(sa.select(*keys).where(condition).limit(BATCH_ROWS)))
        for _ in range(MOST_BATCHES):
            with self._engine.begin() as connection:
                if connection.execute(some).rowcount < BATCH_ROWS:
                    return True
        return False


def _too_old(ages: Ages, now_s: float) -> Iterator[tuple[sa.Table, Condition]]:
    """Yield what is to go, rows that others point to behind those."""
    telemetry_s, process_s, alert_s, order_s, audit_s = (
        now_s - days * DAY_S
        for days in (
            ages.telemetry_days,
            PROCESS_DAYS,
            ages.alert_days,
            ages.order_days,
            ages.audit_days,
        )
    )
    yield events, sa.and_(events.c.received_s < telemetry_s, _is_not_newest(events))
    yield events, events.c.id <= _newest(events) - MAX_EVENTS
    h, runs = high_water.c, stored_runs.c
    silent = sa.select(h.device, h.boot_id).where(h.received_s < process_s)
    yield stored_runs, sa.tuple_(runs.device, runs.boot_id).in_(silent)
    is_empty = ~sa.exists().where(runs.device == h.device, runs.boot_id == h.boot_id)
    yield high_water, sa.and_(h.received_s < process_s, is_empty)
    yield alerts, sa.and_(alerts.c.closed_s < alert_s, _is_not_newest(alerts))
    yield silences, sa.and_(silences.c.until_s < alert_s, _is_not_newest(silences))
    yield from _old_orders(order_s, now_s)
    yield audit, sa.and_(audit.c.at_s < audit_s, _is_not_newest(audit))
    yield sessions, sessions.c.expires_s < now_s


def _old_orders(order_s: float, now_s: float) -> Iterator[tuple[sa.Table, Condition]]:
    r, d, later = rollouts.c, rollout_devices.c, rollouts.alias()
    is_over = sa.and_(
        r.created_s < order_s,
        r.expires_s < now_s,
        sa.exists().where(later.c.model == r.model, later.c.created_s > r.created_s),
        ~sa.exists().where(d.order_id == r.order_id, d.phase.in_([phase.value for phase in OPEN])),
    )
    yield rollout_devices, d.order_id.in_(sa.select(r.order_id).where(is_over))
    yield rollouts, sa.and_(is_over, ~sa.exists().where(d.order_id == r.order_id))


def _newest(table: sa.Table) -> sa.ScalarSelect[Any]:
    return sa.select(sa.func.max(table.c.id)).scalar_subquery()


def _is_not_newest(table: sa.Table) -> Condition:
    return table.c.id < _newest(table)
