"""Orders as rows for people: counted by phase, and those of one device."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from edgekit.fleet.store.reader import Reader
from edgekit.fleet.tables import rollout_devices, rollouts


@dataclass(frozen=True)
class OrderRow:
    """An order to some devices; times in Unix seconds of the server.

    Attributes:
        order_id: Names it in the devices' answers.
        sha256: Of the bundle.
        model: The slot.
        serial: Of the bundle.
        size_bytes: Of the bundle.
        created_s: When it was given.
        expires_s: From then on it does not count.
        cancelled: Somebody has called it back.
        phases: Devices by phase.
    """

    order_id: str
    sha256: str
    model: str
    serial: int
    size_bytes: int
    created_s: float
    expires_s: float
    cancelled: bool
    phases: dict[str, int]


@dataclass(frozen=True)
class DeviceOrderRow:
    """Where an order stands on one device."""

    order_id: str
    model: str
    serial: int
    sha256: str
    created_s: float
    phase: str
    since_s: float
    detail: str


def orders(reader: Reader, limit: int = 50) -> list[OrderRow]:
    """Return the last orders, the newest first."""
    r, d = rollouts.c, rollout_devices.c
    heads = sa.select(rollouts).order_by(r.created_s.desc(), r.order_id.desc()).limit(limit)
    with reader.engine.connect() as connection:
        found = connection.execute(heads).mappings().all()
        ids = [row["order_id"] for row in found]
        counts = sa.select(d.order_id, d.phase, sa.func.count()).where(d.order_id.in_(ids))
        phases: dict[str, dict[str, int]] = {order_id: {} for order_id in ids}
        for order_id, phase, count in connection.execute(counts.group_by(d.order_id, d.phase)):
            phases[order_id][phase] = count
    return [
        OrderRow(**{k: v for k, v in row.items() if k != "url"}, phases=phases[row["order_id"]])
        for row in found
    ]


def orders_of(reader: Reader, device: str, limit: int = 20) -> list[DeviceOrderRow]:
    """Return the last orders to one device, the newest first."""
    r, d = rollouts.c, rollout_devices.c
    columns = (
        r.order_id, r.model, r.serial, r.sha256, r.created_s, d.phase, d.since_s, d.detail,
    )  # fmt: skip
    query = sa.select(*columns).join(rollout_devices, d.order_id == r.order_id)
    query = query.where(d.device == device).order_by(r.created_s.desc()).limit(limit)
    with reader.engine.connect() as connection:
        return [DeviceOrderRow(**row) for row in connection.execute(query).mappings()]
