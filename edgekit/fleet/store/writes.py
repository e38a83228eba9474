"""What other parts than ingest write into the store: devices and the audit log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from edgekit.fleet.store.schema import audit, devices, last_state
from edgekit.wire.errors import UsageError
from edgekit.wire.topics import check_name

if TYPE_CHECKING:
    from sqlalchemy import Engine


def add_device(engine: Engine, name: str, labels: Mapping[str, str], now_s: float) -> None:
    """Register a device; one that was removed comes back.

    Raises:
        TrustError: The name is not plain.
        UsageError: It is registered already.
    """
    values = {"labels": dict(labels), "added_s": now_s, "removed_s": None}
    statement = (
        insert(devices)
        .values(name=check_name(name, "device"), **values)
        .on_conflict_do_update(
            index_elements=[devices.c.name], set_=values, where=devices.c.removed_s.is_not(None)
        )
    )
    with engine.begin() as connection:
        if not connection.execute(statement).rowcount:
            raise UsageError(f"a device is named {name!r} already")


def remove_device(engine: Engine, name: str, now_s: float) -> None:
    """Take a device out of the fleet; what it has sent stays.

    Raises:
        UsageError: It is not registered.
    """
    with engine.begin() as connection:
        _update(connection, name, removed_s=now_s)
        connection.execute(sa.delete(last_state).where(last_state.c.device == name))


def set_labels(engine: Engine, name: str, labels: Mapping[str, str]) -> None:
    """Give a device other labels.

    Raises:
        UsageError: It is not registered.
    """
    with engine.begin() as connection:
        _update(connection, name, labels=dict(labels))


def add_audit(
    engine: Engine, user: str, action: str, subject: str, detail: str, now_s: float
) -> None:
    """Keep what somebody did."""
    row = {"user": user, "action": action, "subject": subject, "detail": detail, "at_s": now_s}
    with engine.begin() as connection:
        connection.execute(sa.insert(audit).values(**row))


def _update(connection: sa.Connection, name: str, **values: object) -> None:
    is_it = sa.and_(devices.c.name == name, devices.c.removed_s.is_(None))
    if not connection.execute(sa.update(devices).where(is_it).values(**values)).rowcount:
        raise UsageError(
            f"no device is named {name[:80]!r}", hint="`edgekit fleet devices` lists them"
        )
