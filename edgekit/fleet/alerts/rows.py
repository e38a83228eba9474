"""Alerts and silences as rows of the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from edgekit.fleet.alerts.machine import Entry, Key
from edgekit.fleet.alerts.rules import Silence
from edgekit.fleet.tables import alerts, silences
from edgekit.wire.errors import UsageError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from edgekit.fleet.alerts.notice import Notice


@dataclass(frozen=True)
class AlertRow:
    """An alert as it is kept; times in Unix seconds of the server."""

    id: int
    rule: str
    kind: str
    severity: str
    device: str
    model: str
    value: float
    unit: str
    text: str
    todo: str
    opened_s: float
    closed_s: float | None
    why: str
    told_s: float | None
    silenced: bool


@dataclass(frozen=True)
class SilenceRow:
    """A silence that somebody set at the terminal or on the dashboard."""

    id: int
    silence: Silence
    created_s: float


class AlertRows:
    """Keeps alerts; see :class:`edgekit.fleet.alerts.watch.AlertStore`.

    Args:
        engine: Of the store.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def open_alerts(self) -> Mapping[Key, tuple[str, Entry]]:
        """Return the alerts that are open: their ids and what is remembered of them."""
        return {
            Key(row.rule, row.device, row.model): (
                str(row.id),
                Entry(None, row.opened_s, row.value, row.told_s),
            )
            for row in self.list(is_open=True, limit=None)
        }

    def list(
        self,
        *,
        is_open: bool | None = True,
        device: str | None = None,
        limit: int | None = 200,
    ) -> Sequence[AlertRow]:
        """Return alerts, the newest first.

        Args:
            is_open: Those that are, those that are not, or all.
            device: Of one device alone.
            limit: Most; None for all.
        """
        query = sa.select(alerts).order_by(alerts.c.opened_s.desc(), alerts.c.id.desc())
        if is_open is not None:
            closed = alerts.c.closed_s
            query = query.where(closed.is_(None) if is_open else closed.is_not(None))
        if device is not None:
            query = query.where(alerts.c.device == device)
        with self._engine.connect() as connection:
            found = connection.execute(query.limit(limit)).mappings()
            return [AlertRow(**row) for row in found]

    def open(self, notice: Notice, *, silenced: bool) -> str:
        """Keep an alert as open and return its id."""
        names = (
            "rule", "kind", "severity", "device", "model", "value", "unit", "text", "todo",
            "opened_s",
        )  # fmt: skip
        values = {name: getattr(notice, name) for name in names}
        with self._engine.begin() as connection:
            done = connection.execute(sa.insert(alerts).values(**values, silenced=silenced))
            (row_id,) = done.inserted_primary_key or (0,)
        return str(row_id)

    def silence(self, alert_id: str, *, silenced: bool) -> None:
        """Keep whether people are to be told of an open alert."""
        self._update(alert_id, silenced=silenced)

    def close(self, alert_id: str, value: float, why: str, at_s: float) -> None:
        """Keep an alert as closed."""
        self._update(alert_id, value=value, why=why, closed_s=at_s)

    def told(self, alert_id: str, at_s: float) -> None:
        """Keep that people were told; from any thread."""
        self._update(alert_id, told_s=at_s)

    def _update(self, alert_id: str, **values: object) -> None:
        with self._engine.begin() as connection:
            connection.execute(
                sa.update(alerts).where(alerts.c.id == int(alert_id)).values(**values)
            )

    def silences(self) -> Sequence[Silence]:
        """Return what people silenced, beside the settings."""
        return [row.silence for row in self.silence_rows()]

    def silence_rows(self) -> Sequence[SilenceRow]:
        """Return the same with ids, oldest first."""
        with self._engine.connect() as connection:
            found = connection.execute(sa.select(silences).order_by(silences.c.id)).mappings()
            return [
                SilenceRow(
                    row["id"],
                    Silence(
                        row["rule"],
                        row["device"],
                        dict(row["labels"]),
                        float("inf") if row["until_s"] is None else row["until_s"],
                        row["reason"],
                    ),
                    row["created_s"],
                )
                for row in found
            ]

    def add_silence(self, silence: Silence, now_s: float) -> int:
        """Keep a silence and return its id; those that ended long ago are forgotten."""
        until_s = None if silence.until_s == float("inf") else silence.until_s
        with self._engine.begin() as connection:
            connection.execute(sa.delete(silences).where(silences.c.until_s < now_s - 7 * 86_400))
            done = connection.execute(
                sa.insert(silences).values(
                    rule=silence.rule,
                    device=silence.device,
                    labels=dict(silence.labels),
                    until_s=until_s,
                    reason=silence.reason,
                    created_s=now_s,
                )
            )
            (row_id,) = done.inserted_primary_key or (0,)
        return int(row_id)

    def end_silence(self, silence_id: int) -> None:
        """Take a silence back.

        Raises:
            UsageError: There is none of this id.
        """
        with self._engine.begin() as connection:
            done = connection.execute(sa.delete(silences).where(silences.c.id == silence_id))
        if not done.rowcount:
            raise UsageError(
                f"no silence has the number {silence_id}",
                hint="`edgekit fleet alerts --silences` lists them",
            )
