"""How long pages of the dashboard take in a real browser, from the click until they are drawn."""

from __future__ import annotations

import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from edgekit.fleet.home import FleetHome
from edgekit.fleet.settings import load_settings
from edgekit.fleet.store import open_store
from edgekit.fleet.web.accounts import Accounts, Role

from .homes import free_port

CHROMIUM = "/usr/bin/chromium"
USER = "bench"
# A page is drawn when its table has rows and all its charts stand.
_FLEET = (
    "document.querySelectorAll('.ag-center-cols-container .ag-row').length >= 10"
    " && document.querySelector('.bar-row') && %s"
)
_CHARTS = (
    "document.querySelectorAll('.chart canvas').length >= {}"
    " && !document.querySelector('.skeleton')"
)
_DRAWN_FLEET = _FLEET % _CHARTS.format(1)
_DRAWN_DEVICE = _CHARTS.format(4)
# What stands is painted in the next frame.
_PAINTED = (
    "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame("
    "() => done(performance.now()))))"
)
_LOOK_MS = 1000
_START_S = 60.0


def pages_of(device: str, model: str) -> dict[str, tuple[str, str]]:
    """Return the pages that are measured: path, and JavaScript that is true once it is drawn."""
    name = quote(device, safe="")
    return {
        "fleet": ("/", _DRAWN_FLEET),
        "fleet, the hottest online": ("/?state=online&sort=temp_c&desc=1", _DRAWN_FLEET),
        "device, 6 h": (f"/devices/{name}", _DRAWN_DEVICE),
        "device, 1 h": (f"/devices/{name}?range=1h", _DRAWN_DEVICE),
        "device, 24 h": (f"/devices/{name}?range=24h", _DRAWN_DEVICE),
        "model": (f"/models/{quote(model, safe='')}", _CHARTS.format(3)),
    }


def measure(home: FleetHome, device: str, model: str, times: int) -> dict[str, Any]:
    """Return how long each page takes, in milliseconds: the first, the median, the 95th percentile.

    A page is opened anew each time, in a window that has shown others: scripts and styles are
    cached, as they are for a person on the second page.
    """
    from playwright.sync_api import sync_playwright

    result: dict[str, Any] = {}
    with _serving(home) as (url, cookie), sync_playwright() as playwright:
        # Root has no sandbox in a container; the pages are our own.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        context.add_cookies([{**cookie, "url": url, "httpOnly": True, "sameSite": "Strict"}])
        page = context.new_page()
        for what, (path, drawn) in pages_of(device, model).items():
            took = []
            for _ in range(times):
                # A person looks at a page before the next one.
                page.wait_for_timeout(_LOOK_MS)
                page.goto(url + path, wait_until="commit")
                # The browser's clock counts from the navigation's start.
                page.wait_for_function(drawn, polling="raf")
                took.append(float(page.evaluate(_PAINTED)))
            result[what] = summed(took)
        browser.close()
    return result


def summed(took_ms: list[float]) -> dict[str, float]:
    """Return the first, the median and the 95th percentile of durations."""
    return {
        "first": round(took_ms[0], 1),
        "median": round(statistics.median(took_ms), 1),
        "p95": round(sorted(took_ms)[int(0.95 * (len(took_ms) - 1))], 1),
    }


@contextmanager
def _serving(home: FleetHome) -> Iterator[tuple[str, Mapping[str, str]]]:
    port = free_port()
    engine = open_store(home.database)
    accounts = Accounts(engine)
    accounts.set_user(USER, Role.VIEWER, None, time.time())
    secret = accounts.log_in(USER, time.time())
    engine.dispose()
    # The cookie is named after the port of the settings.
    cookie = {"name": f"edgekit_session_{load_settings(home).http_port}", "value": secret}
    command = [sys.executable, "-m", "edgekit.fleet.web", str(home.path), "--port", str(port)]
    log = Path(home.run) / "bench-web.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
    url = f"http://127.0.0.1:{port}"
    try:
        until_s = time.monotonic() + _START_S
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > until_s:
                raise RuntimeError(f"the dashboard does not start: {log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield url, cookie
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/healthz"):  # noqa: S310 - our own
            return True
    except OSError:
        return False
