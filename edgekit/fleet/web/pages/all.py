"""Adds all pages to the server, and NiceGUI under them."""

from __future__ import annotations

from fastapi import FastAPI
from nicegui import core, ui
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse

from edgekit.fleet.web.pages.account import add_account
from edgekit.fleet.web.pages.alerts import add_alerts
from edgekit.fleet.web.pages.device import add_device
from edgekit.fleet.web.pages.lists import add_lists
from edgekit.fleet.web.pages.models import add_models
from edgekit.fleet.web.pages.overview import add_overview
from edgekit.fleet.web.shared import Web


def add_pages(app: FastAPI, web: Web, head: str) -> None:
    """Add the pages.

    Args:
        app: The server.
        web: The fleet.
        head: HTML of style and script.
    """
    ui.add_head_html(head, shared=True)
    for add in (add_overview, add_device, add_models, add_alerts, add_lists, add_account):
        add(web)

    @core.app.exception_handler(404)
    async def nothing(_: Request, __: HTTPException) -> HTMLResponse:
        return HTMLResponse(
            f'<!doctype html><html lang="en"><head><title>Not there</title>{head}</head><body '
            'class="door"><div class="box"><h1>There is no such page</h1><p>The link is old, or '
            'was not copied whole.</p><a href="/">To the fleet</a></div></body></html>',
            404,
        )

    ui.run_with(
        app,
        title="edgekit fleet",
        favicon=None,
        dark=None,
        tailwind=False,
        show_welcome_message=False,
        reconnect_timeout=15.0,
        cache_control_directives="private, max-age=31536000, immutable",
    )
