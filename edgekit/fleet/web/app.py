"""The whole web server of a fleet: pages, REST, metrics, files, bundles, behind one guard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import sqlalchemy as sa
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from edgekit.fleet.bundles import BundleApp
from edgekit.fleet.opened import Opened
from edgekit.fleet.settings import Settings
from edgekit.fleet.web.accounts import Accounts
from edgekit.fleet.web.api import add_errors, make_api
from edgekit.fleet.web.csv_routes import add_csv
from edgekit.fleet.web.guard import Guard, Names
from edgekit.fleet.web.login import add_login
from edgekit.fleet.web.metrics import CONTENT_TYPE, exposition
from edgekit.fleet.web.shared import Memory, Web

_STATIC = Path(__file__).parent / "static"
_GRAFANA = Path(__file__).parent / "grafana.json"
_KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def make_app(
    opened: Opened,
    clock: Callable[[], float],
    monotonic: Callable[[], float],
    *,
    with_pages: bool = True,
) -> Guard:
    """Return the server of a fleet as an ASGI application.

    Args:
        opened: Its folder.
        clock: Unix time in seconds.
        monotonic: In seconds.
        with_pages: False leaves the pages out: NiceGUI has one set of them a process.
    """
    web = Web(opened, Accounts(opened.engine), clock, Memory(monotonic))
    app = FastAPI(title="edgekit fleet", docs_url=None, redoc_url=None, openapi_url=None)
    names = names_of(opened.settings)
    guard = Guard(app, web.accounts, names, clock, monotonic)
    head = head_html()
    add_errors(app)
    add_login(app, web, names, head, monotonic)
    _add_files(app)
    add_csv(app, web)
    _add_machines(app, web, guard)
    app.mount("/api/v1", make_api(web))
    app.mount("/bundles", BundleApp(opened.home.bundles))
    if with_pages:
        from edgekit.fleet.web.pages.all import add_pages

        add_pages(app, web, head)
    return guard


def names_of(settings: Settings) -> Names:
    """Return what a fleet's server is called: addresses, localhost, and the names it was given."""
    url = urlsplit(settings.http_url)
    hosts = {name.lower() for name in (url.hostname, settings.broker_name) if name}
    # Cookies are of a host, whatever the port: two fleets on one machine have one each.
    cookie = f"edgekit_session_{settings.http_port}"
    return Names(hosts, cookie, is_https=url.scheme == "https")


def head_html() -> str:
    """Return the HTML that brings style and script, by addresses that change with their content."""
    return (
        f'<link rel="icon" href="{_address("fleet.svg")}">'
        f'<link rel="stylesheet" href="{_address("fleet.css")}">'
        f'<script src="{_address("fleet.js")}"></script>'
    )


def _address(name: str) -> str:
    digest = hashlib.sha256((_STATIC / name).read_bytes()).hexdigest()[:12]
    return f"/assets/{name}?{digest}"


def _add_files(app: FastAPI) -> None:
    files = {path.name: path.read_bytes() for path in sorted(_STATIC.iterdir())}

    @app.get("/assets/{name}")
    async def asset(name: str) -> Response:
        if name not in files:
            return JSONResponse({"message": "there is no such file", "hint": None}, 404)
        keep = {"cache-control": "private, max-age=31536000, immutable"}
        kind = _KINDS[Path(name).suffix]
        return Response(files[name], headers=keep, media_type=kind)


def _add_machines(app: FastAPI, web: Web, guard: Guard) -> None:
    @app.get("/healthz")
    def healthz() -> Response:
        """Tell whether the store can be read, and how ingest is."""
        try:
            ingest = web.ingest()
        except sa.exc.SQLAlchemyError:
            return JSONResponse({"status": "the store cannot be read"}, 503)
        return JSONResponse({"status": "ok", "ingest": ingest.status if ingest else "never ran"})

    @app.get("/metrics")
    def metrics(_: Request) -> Response:
        """Return the fleet's totals for Prometheus."""
        alerts = [(alert.severity, alert.kind) for alert in web.open_alerts()]
        text = exposition(
            web.summary(), alerts, web.ingest(), web.models(), guard.answers, web.clock()
        )
        return PlainTextResponse(text, media_type=CONTENT_TYPE)

    @app.get("/grafana.json")
    def grafana() -> Response:
        """Return a dashboard for Grafana that draws those metrics."""
        name = {"content-disposition": 'attachment; filename="edgekit-fleet.json"'}
        return JSONResponse(json.loads(_GRAFANA.read_text(encoding="utf-8")), headers=name)
