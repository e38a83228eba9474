"""Orders as rows of the store: one for the order, one for each of its devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from edgekit.fleet.dispatch import Report
from edgekit.fleet.orders import OPEN, DeviceOrder, Phase, Rollout
from edgekit.fleet.tables import rollout_devices, rollouts

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, RowMapping

# SQLite takes 32,766 variables; this many names fit beside others.
_NAMES_AT_ONCE = 5000
_OPEN = [phase.value for phase in OPEN]


class Orders:
    """Keeps orders; see :class:`edgekit.fleet.dispatch.OrderStore`.

    Args:
        engine: Of the store.
        reports: Returns what devices said last, of those that are registered.
    """

    def __init__(self, engine: Engine, reports: Any) -> None:  # noqa: ANN401 - a function
        self._engine = engine
        self._reports = reports

    def save(self, rollout: Rollout) -> None:
        """Keep an order, new or changed; rows that have not changed are not written."""
        with self._engine.begin() as connection:
            before = _load(connection, rollouts.c.order_id == rollout.order_id)
            if not before:
                values = {name: getattr(rollout, name) for name in rollouts.c.keys()}  # noqa: SIM118 - columns, not a dict
                connection.execute(sa.insert(rollouts).values(values))
                rows = [_row(rollout.order_id, order) for order in rollout.devices]
                connection.execute(sa.insert(rollout_devices), rows)
                return
            known = {order.device: order for order in before[0].devices}
            for order in rollout.devices:
                if known.get(order.device) != order:
                    self._update(connection, rollout.order_id, order)
            if before[0].cancelled != rollout.cancelled:
                connection.execute(
                    sa.update(rollouts)
                    .where(rollouts.c.order_id == rollout.order_id)
                    .values(cancelled=rollout.cancelled)
                )

    def _update(self, connection: Connection, order_id: str, order: DeviceOrder) -> None:
        rows = rollout_devices.c
        connection.execute(
            sa.update(rollout_devices)
            .where(rows.order_id == order_id, rows.device == order.device)
            .values(phase=order.phase.value, since_s=order.since_s, detail=order.detail)
        )

    def open_rollouts(self) -> Sequence[Rollout]:
        """Return the orders that are not over, oldest first."""
        open_ids = sa.select(rollout_devices.c.order_id).where(rollout_devices.c.phase.in_(_OPEN))
        with self._engine.connect() as connection:
            return _load(connection, rollouts.c.order_id.in_(open_ids))

    def last_rollouts(self, limit: int) -> list[Rollout]:
        """Return the last orders, the newest first."""
        newest = sa.select(rollouts.c.order_id).order_by(rollouts.c.created_s.desc()).limit(limit)
        with self._engine.connect() as connection:
            return _load(connection, rollouts.c.order_id.in_(newest))[::-1]

    def rollout(self, order_id: str) -> Rollout | None:
        """Return one order."""
        with self._engine.connect() as connection:
            found = _load(connection, rollouts.c.order_id == order_id)
        return found[0] if found else None

    def reports(self, devices: Sequence[str]) -> Mapping[str, Report]:
        """Return what devices said last; those that are not registered are missing."""
        found: Mapping[str, Report] = self._reports(devices)
        return found

    def expiries(self, devices: Sequence[str]) -> Sequence[int]:
        """Return when the orders that these devices ever had expire."""
        found: set[int] = set()
        with self._engine.connect() as connection:
            for start in range(0, len(devices), _NAMES_AT_ONCE):
                part = devices[start : start + _NAMES_AT_ONCE]
                rows = (
                    sa.select(sa.func.max(rollouts.c.expires_s))
                    .join(rollout_devices, rollout_devices.c.order_id == rollouts.c.order_id)
                    .where(rollout_devices.c.device.in_(part))
                )
                found.update(value for value in connection.scalars(rows) if value is not None)
        return sorted(found)


def _load(connection: Connection, condition: Any) -> list[Rollout]:  # noqa: ANN401 - SQLAlchemy's
    heads = (
        connection.execute(
            sa.select(rollouts).where(condition).order_by(rollouts.c.created_s, rollouts.c.order_id)
        )
        .mappings()
        .all()
    )
    ids = [head["order_id"] for head in heads]
    by_order: dict[str, list[DeviceOrder]] = {order_id: [] for order_id in ids}
    rows = rollout_devices.c
    query = sa.select(rollout_devices).where(rows.order_id.in_(ids)).order_by(rows.device)
    for row in connection.execute(query).mappings():
        by_order[row["order_id"]].append(_order(row))
    return [Rollout(**dict(head), devices=tuple(by_order[head["order_id"]])) for head in heads]


def _order(row: RowMapping) -> DeviceOrder:
    return DeviceOrder(
        device=row["device"],
        phase=Phase(row["phase"]),
        since_s=row["since_s"],
        detail=row["detail"],
        before=row["before"],
        wave=row["wave"],
    )


def _row(order_id: str, order: DeviceOrder) -> dict[str, Any]:
    return {"order_id": order_id, **vars(order), "phase": order.phase.value}
