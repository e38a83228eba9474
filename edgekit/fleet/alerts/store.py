"""What alerts know: read from the store, the disk and the bundles that are offered."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from edgekit.fleet.alerts.readings import DeviceFacts, ServerFacts, Window
from edgekit.fleet.alerts.rows import AlertRows
from edgekit.fleet.alerts.samples import with_sample
from edgekit.fleet.bundles import read_offer
from edgekit.fleet.store import queries, schema
from edgekit.wire.errors import EdgekitError

if TYPE_CHECKING:
    from edgekit.fleet.home import FleetHome
    from edgekit.fleet.store.reader import Reader

# A process that was not heard of for a day will not send what is missing.
GAP_S = 86_400.0
# Rollups are of 5 minutes: looking more often tells nothing new, and reading them takes time.
WINDOWS_S = 60.0
_DIGITS = re.compile(r"[0-9a-f]{12,64}", re.ASCII)

Windows = dict[str, dict[str, dict[float, Window]]]


class StoreFacts(AlertRows):
    """Everything that alerts need of a fleet; see :class:`edgekit.fleet.alerts.watch.AlertStore`.

    Args:
        home: The fleet's folder.
        reader: Of its store.
    """

    def __init__(self, home: FleetHome, reader: Reader) -> None:
        super().__init__(reader.engine)
        self._home = home
        self._reader = reader
        self._limits: dict[Path, float | None] = {}
        self._worked_s: float | None = None
        self._windows: tuple[float, frozenset[float], Windows] = (0.0, frozenset(), {})

    def devices(self, windows_s: Collection[float], now_s: float) -> Sequence[DeviceFacts]:
        """Return what is known of all devices, with windows of these lengths up to now."""
        d, s = schema.devices.c, schema.last_state.c
        joined = schema.devices.outerjoin(schema.last_state, d.name == s.device)
        query = sa.select(d.name, d.labels, s.online, s.sample, s.sample_s).select_from(joined)
        windows = self._windows_at(windows_s, now_s)
        found: list[DeviceFacts] = []
        with self._reader.engine.connect() as connection:
            missing = self._missing(connection, now_s)
            for name, labels, online, sample, sample_s in connection.execute(
                query.where(d.removed_s.is_(None))
            ):
                known = DeviceFacts(name, labels, online, missing=missing.get(name))
                age_s = float("inf") if sample_s is None else now_s - sample_s
                values = _object(sample)
                found.append(
                    with_sample(known, values, age_s, windows.get(name, {}), self.limit_ms)
                )
        return found

    def server(self, now_s: float) -> ServerFacts:
        """Return what is known of the server."""
        ingest = queries.ingest(self._reader)
        try:
            disk = os.statvfs(self._home.path)
            used = 1.0 - disk.f_bavail / disk.f_blocks if disk.f_blocks else None
        except OSError:
            used = None
        if ingest is None:
            return ServerFacts(None, used)
        # One that waits lives, and says so, but stores nothing.
        if self._worked_s is None or ingest.status != "waiting":
            self._worked_s = ingest.alive_s
        return ServerFacts(now_s - self._worked_s, used)

    def limit_ms(self, digits: str) -> float | None:
        """Return the contract's p95 limit of an offered bundle.

        Args:
            digits: The first of its digest, at least 12.
        """
        if not _DIGITS.fullmatch(digits):
            return None
        path = next(self._home.bundles.glob(f"{digits}*.ekb"), None)
        if path is None:
            return None
        if path not in self._limits:
            try:
                self._limits[path] = read_offer(path, None).p95_limit_ms
            except EdgekitError:
                self._limits[path] = None
        return self._limits[path]

    def _windows_at(self, windows_s: Collection[float], now_s: float) -> Windows:
        at_s, lengths, found = self._windows
        if frozenset(windows_s) == lengths and 0 <= now_s - at_s < WINDOWS_S:
            return found
        found = {}
        for length_s in windows_s:
            done = queries.windows(self._reader, now_s - length_s, now_s)
            for (device, model), (requests, errors, histogram) in done.items():
                window = Window(requests, errors, histogram.percentile_ms(0.95))
                found.setdefault(device, {}).setdefault(model, {})[length_s] = window
        self._windows = (now_s, frozenset(windows_s), found)
        return found

    def _missing(self, connection: sa.Connection, now_s: float) -> Mapping[str, int]:
        h = schema.high_water.c
        issued = sa.func.max(h.issued, h.top + 1)
        lost = sa.func.max(0, issued - h.have - h.dropped)
        # A device may claim any numbers; sum() fails where they outgrow 64 bits.
        query = sa.select(h.device, sa.func.total(lost)).where(h.received_s > now_s - GAP_S)
        return {name: int(count) for name, count in connection.execute(query.group_by(h.device))}


def _object(text: str | None) -> dict[str, Any]:
    found = json.loads(text) if text else {}
    return found if isinstance(found, dict) else {}
