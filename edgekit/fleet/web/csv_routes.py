"""``/csv/…``: the tables of the pages as CSV, with the filters of their URL."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from edgekit.fleet.store import queries
from edgekit.fleet.store.rows import DeviceRow
from edgekit.fleet.web.address import Filters
from edgekit.fleet.web.api import Admin
from edgekit.fleet.web.shared import Web
from edgekit.fleet.web.tables import csv_text

_PAGE = 500
_MOST_DEVICES = 100_000
_MOST_ROWS = 10_000
_DEVICES = (
    "name", "online", "last_seen_s", "labels", "target", "version", "models", "p95_ms", "temp_c",
    "cpu_share", "alerts", "phase",
)  # fmt: skip
_ALERTS = (
    "id", "rule", "kind", "severity", "device", "model", "value", "unit", "text", "todo",
    "opened_s", "closed_s", "why", "silenced",
)  # fmt: skip
_EVENTS = ("id", "device", "received_s", "time_s", "name", "values")
_MODELS = ("name", "devices", "bundles", "requests", "errors", "p50_ms", "p95_ms")
_AUDIT = ("id", "at_s", "user", "action", "subject", "detail")


def add_csv(app: FastAPI, web: Web) -> None:
    """Add them; times are Unix seconds of the server, but for ``time_s``, the device's."""

    @app.get("/csv/devices")
    def devices(request: Request) -> Response:
        filters = Filters.read(dict(request.query_params))
        return _answer(_DEVICES, list(_devices(web, filters)))

    @app.get("/csv/alerts")
    def alerts() -> Response:
        return _answer(_ALERTS, web.alert_rows.list(is_open=None, limit=_MOST_ROWS))

    @app.get("/csv/events")
    def events(device: str | None = None) -> Response:
        return _answer(_EVENTS, queries.events(web.reader, device=device, limit=_MOST_ROWS))

    @app.get("/csv/models")
    def models() -> Response:
        return _answer(_MODELS, web.models())

    @app.get("/csv/audit")
    def audit(_admin: Admin) -> Response:
        return _answer(_AUDIT, queries.audit(web.reader, limit=_MOST_ROWS))


def _devices(web: Web, filters: Filters) -> Iterator[DeviceRow]:
    for offset in range(0, _MOST_DEVICES, _PAGE):
        page = queries.devices(web.reader, **filters.asked(), offset=offset, limit=_PAGE)
        yield from page.rows
        if offset + len(page.rows) >= page.total or not page.rows:
            return


def _answer(columns: Sequence[str], rows: Sequence[Any]) -> Response:
    cells = ([_cell(getattr(row, column)) for column in columns] for row in rows)
    return Response(csv_text(columns, cells), media_type="text/csv; charset=utf-8")


def _cell(value: object) -> object:
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else value
