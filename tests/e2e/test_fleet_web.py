"""The dashboard in a real Chromium: login, filters, alerts, live changes, narrow and dark."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from edgekit.fleet.client import Fleet
from edgekit.fleet.home import FleetHome
from edgekit.fleet.ports import login_token
from edgekit.fleet.store import open_store, schema
from edgekit.fleet.web.accounts import Accounts, Role
from edgekit.wire.errors import UsageError

from ..agent_board import until  # noqa: TID252 - helpers of all tests
from ..agent_broker import free_port  # noqa: TID252
from ..fleet_fill import add_alert, alive, empty_home, fill  # noqa: TID252

pytestmark = pytest.mark.chromium
PASSWORD = "correct horse battery"  # noqa: S105 - of tests
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@dataclass
class Served:
    home: FleetHome
    url: str
    process: subprocess.Popen[bytes]
    names: list[str]


def serving(folder: Path, devices: int) -> Iterator[Served]:
    port = free_port()
    home = empty_home(folder / "fleet", http_port=port)
    names = fill(home, devices, 3) if devices else []
    alive(home, time.time() + 600)
    engine = open_store(home.database)
    Accounts(engine).set_user("anna", Role.OPERATOR, PASSWORD, time.time())
    engine.dispose()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "edgekit.fleet.web", str(home.path)], stdout=log, stderr=log
        )
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: process.poll() is not None or answers(url))
        assert process.poll() is None, (folder / "log").read_text()
        yield Served(home, url, process, names)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/healthz"):  # noqa: S310
            return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    yield from serving(tmp_path_factory.mktemp("web"), 60)


@pytest.fixture(scope="module")
def empty(tmp_path_factory) -> Iterator[Served]:
    yield from serving(tmp_path_factory.mktemp("empty"), 0)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        # Root has no sandbox in a container; the pages are our own.
        launched = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        yield launched
        launched.close()


Open = Callable[..., Any]


@pytest.fixture
def trouble() -> list[str]:
    """What went wrong in the browser."""
    return []


@pytest.fixture
def visit(browser, trouble) -> Iterator[Open]:
    """Open a page as somebody who is logged in; nothing may fail in the browser meanwhile."""
    contexts: list[Any] = []

    def go(
        served: Served, path: str = "/", size: dict[str, int] = WIDE, scheme: str = "light"
    ) -> Any:
        context = browser.new_context(viewport=size, color_scheme=scheme)
        contexts.append(context)
        engine = open_store(served.home.database)
        secret = Accounts(engine).log_in("anna", time.time())
        engine.dispose()
        port = served.url.rpartition(":")[2]
        cookie = {"name": f"edgekit_session_{port}", "value": secret, "url": served.url}
        context.add_cookies([{**cookie, "httpOnly": True, "sameSite": "Strict"}])
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("console", lambda said: said.type == "error" and trouble.append(said.text))
        page.on(
            "request", lambda asked: trouble.append(asked.url)
            if not asked.url.startswith((served.url, "data:", "blob:")) else None,
        )  # fmt: skip
        page.goto(served.url + path)
        return page

    yield go
    for context in contexts:
        context.close()
    assert trouble == []


def see(page: Any, text: str | re.Pattern[str], selector: str = "main") -> None:
    page.locator(selector, has_text=text).first.wait_for()


def test_login_by_password_and_back_to_where_one_wanted(served, browser):
    context = browser.new_context(viewport=WIDE)
    page = context.new_page()
    page.goto(f"{served.url}/alerts")
    assert "/login" in page.url
    page.fill("input[name=user]", "anna")
    page.fill("input[name=password]", "not her password")
    page.click("button")
    see(page, "do not belong together", ".wrong")
    page.fill("input[name=user]", "anna")
    page.fill("input[name=password]", PASSWORD)
    page.click("button")
    page.wait_for_url("**/alerts")
    see(page, "Alerts", "h1")
    assert page.evaluate("document.cookie").find("edgekit_session") == -1  # HttpOnly
    page.goto(f"{served.url}/account")
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url("**/login")
    page.goto(served.url)
    assert "/login" in page.url
    context.close()


def test_the_link_of_fleet_up_lets_in_once(served, browser):
    token = login_token(served.home)
    for _, heading in enumerate(("fleet", "Fleet lab")):
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{served.url}/login?token={token}")
        page.locator("h1", has_text=re.compile(heading)).wait_for()
        assert ("/login" in page.url) == (heading == "Fleet lab")
        context.close()


def test_filters_live_in_the_url(served, visit):
    page = visit(served)
    rows = page.locator(".ag-center-cols-container .ag-row")
    see(page, re.compile("1–25 of 60"), ".pager")
    page.get_by_role("button", name="offline", exact=True).click()
    page.wait_for_url("**state=offline*")
    until(lambda: rows.count() == 1)
    gone = rows.first.locator("a.name").inner_text()
    assert gone == served.names[-2]
    again = visit(served, page.url.removeprefix(served.url))
    until(lambda: again.locator(".ag-center-cols-container .ag-row").count() == 1)
    again.get_by_role("button", name="all", exact=True).click()
    again.get_by_label("search by name").fill(served.names[7])
    again.wait_for_url(f"**q={served.names[7]}*")
    see(again, served.names[7], ".ag-row")
    again.get_by_label("search by name").fill("no such device")
    see(again, "No device is like that")


def test_paging_and_sorting_are_the_servers(served, visit):
    page = visit(served)
    see(page, re.compile("1–25 of 60"), ".pager")
    page.get_by_role("button", name="Next").click()
    page.wait_for_url("**page=2*")
    see(page, re.compile("26–50 of 60"), ".pager")
    page.get_by_role("button", name="Next").click()
    page.wait_for_url("**page=3*")
    see(page, re.compile("51–60 of 60"), ".pager")
    assert page.get_by_role("button", name="Next").is_disabled()
    page.get_by_role("button", name="Back").click()
    page.locator(".ag-header-cell", has_text="Hottest").click()
    page.wait_for_url("**sort=temp_c*")
    cell = page.locator(".ag-center-cols-container [row-index='0'] [col-id='temp_c']")
    page.locator(".ag-header-cell", has_text="Hottest").click()
    page.wait_for_url("**desc=1*")
    # A cell is empty for a moment after its row has come.
    until(lambda: float((cell.inner_text().split() or ["0"])[0]) > 75)


def test_an_alert_shows_without_a_reload(served, visit):
    page = visit(served)
    see(page, re.compile("of 60"), ".pager")
    device = served.names[3]
    number = add_alert(served.home, device, f"{device} is at 84.1 °C, over 80 °C", "critical")
    try:
        see(page, "84.1 °C", ".card .list")
        see(page, "look at its fan", ".todo")
        see(page, "The fleet needs you", "h1")
        see(page, "1", ".bar nav .n")
        page.get_by_role("link", name=re.compile("84.1")).first.click()
        page.wait_for_url(f"**/devices/{device}")
        see(page, "84.1 °C", ".card.list")
    finally:
        engine = open_store(served.home.database)
        with engine.begin() as connection:
            connection.execute(sa.delete(schema.alerts).where(schema.alerts.c.id == number))
        engine.dispose()


def test_only_what_changed_is_sent(served, visit):
    page = visit(served)
    sent: list[str] = []
    see(page, re.compile("of 60"), ".pager")
    name = served.names[0]
    cell = page.locator(f".ag-row[row-id='{name}'] [col-id='temp_c']")
    cell.wait_for()
    page.on("websocket", lambda _: sent.append("a new connection"))
    page.evaluate("document.querySelector('.ag-row').dataset.mine = 'kept'")
    engine = open_store(served.home.database)
    s = schema.last_state
    with engine.begin() as connection:
        connection.execute(sa.update(s).where(s.c.device == name).values(temp_c=99.5))
    engine.dispose()
    until(lambda: cell.inner_text() == "99.5 °C")
    assert page.evaluate("document.querySelector('.ag-row').dataset.mine") == "kept"
    assert sent == []


def test_a_device_over_time(served, visit):
    page = visit(served, f"/devices/{served.names[1]}?range=1h")
    see(page, "Latency over time")
    page.locator(".chart canvas").first.wait_for()
    until(lambda: page.locator(".chart canvas").count() >= 4)
    see(page, "memory free", ".facts")
    page.get_by_role("button", name="24h").click()
    page.wait_for_url("**range=24h*")


def test_a_log_that_cannot_be_fetched_says_why(served, visit):
    page = visit(served, f"/devices/{served.names[1]}")
    see(page, "nothing leaves the device until you fetch it")
    page.get_by_role("button", name="Fetch").click()
    see(page, re.compile("the broker cannot be reached"), ".card")
    assert page.get_by_role("button", name="Fetch").is_enabled()


def test_a_device_that_is_not_there(served, visit, trouble):
    page = visit(served, "/devices/none")
    see(page, "No device is named")
    assert [text for text in trouble if "404" not in text] == []
    trouble.clear()


def test_a_model_and_its_drift(served, visit):
    page = visit(served, "/models")
    page.get_by_role("link", name="pets").click()
    page.wait_for_url("**/models/pets")
    see(page, "its contract is not known here", "h2")
    see(page, "latency_p95_ms")
    see(page, "output.classes", ".ag-row")


def test_somebody_silences_an_alert(served, visit):
    page = visit(served, "/alerts")
    see(page, "No alert is open")
    page.get_by_label("Reason").fill("the hall is painted")
    page.get_by_role("button", name="Silence").click()
    see(page, "the hall is painted", ".list")
    page.get_by_role("button", name="End").click()
    page.locator(".list", has_text="the hall is painted").wait_for(state="hidden")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("path", ["/", "/devices/{}", "/models", "/models/pets", "/alerts",
                                  "/orders", "/account"])  # fmt: skip
def test_nothing_is_cut_off_or_faint(served, visit, path, size, scheme):
    page = visit(served, path.format(served.names[1]), size, scheme)
    page.locator("h1").first.wait_for()
    page.wait_for_timeout(400)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(CONTRAST) == []


# Text of less than 4.5 : 1 against what is behind it (WCAG 2.2, 1.4.3).
CONTRAST = """() => {
  const parts = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => v / 255)
      .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const color = parts(getComputedStyle(at).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll("h1, h2, p, td, th, a, span, time, .v, .k, .todo")]
    .filter((node) => [...node.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
    .filter((node) => node.offsetParent)
    .filter((node) => !node.closest(":disabled, .badge, .q-notification, [aria-hidden=true]"))
    .filter((node) => {
      const style = getComputedStyle(node);
      if (!style.color.startsWith("rgb")) return false;
      const [ink, paper] = [light(parts(style.color)), light(behind(node))];
      return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05) < 4.5;
    }).map((node) => `${node.textContent} ${getComputedStyle(node).color}`);
}"""


def test_the_python_client_sees_by_rest_what_it_sees_in_the_folder(served):
    engine = open_store(served.home.database)
    accounts = Accounts(engine)
    who = accounts.session(accounts.log_in("anna", time.time()), time.time())
    token = accounts.add_token(who, "client", Role.OPERATOR, None, time.time())
    engine.dispose()
    name, until_s = served.names[1], time.time() + 600
    span = {"since_s": until_s - 7200, "until_s": until_s}
    with Fleet(served.url, token) as there, Fleet(str(served.home.path)) as here:
        for ask in (
            lambda fleet: fleet.devices(state="online", labels={"site": "gate"}, sort="temp_c"),
            lambda fleet: fleet.device(name),
            lambda fleet: fleet.series(name, "temp_c", **span),
            lambda fleet: fleet.latency(device=name, **span),
            lambda fleet: fleet.events(name, since_s=1.0, limit=5),
            lambda fleet: fleet.alerts(is_open=False),
            lambda fleet: fleet.query("SELECT count(*) FROM telemetry"),
        ):
            assert ask(there) == ask(here)
        assert there.summary()["total"] == here.summary()["total"] == len(served.names)
        assert {row["name"] for row in there.models()} == {row["name"] for row in here.models()}
        with pytest.raises(UsageError, match="no device is named"):
            there.device("none")


def test_an_empty_fleet_says_what_to_do(empty, visit):
    page = visit(empty)
    see(page, "No devices yet", "h1")
    see(page, "edgekit fleet device add")
    for path, words in (("/models", "No model serves"), ("/alerts", "No alert is open"),
                        ("/orders", "No order was given")):  # fmt: skip
        page.goto(empty.url + path)
        see(page, words)


def test_ingest_that_is_silent_and_a_store_that_is_gone(empty, visit):
    page = visit(empty)
    alive(empty.home, time.time() - 300)
    see(page, "Ingest has been silent for 5 min", ".banner")
    engine = open_store(empty.home.database)
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE last_state RENAME TO hidden")
    try:
        see(page, re.compile("store cannot be read"), ".banner")
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE hidden RENAME TO last_state")
        engine.dispose()
    alive(empty.home, time.time() + 600)
    page.locator(".banner").wait_for(state="hidden")


def test_who_is_logged_out_elsewhere_is_out(served, visit, trouble):
    page = visit(served)
    see(page, re.compile("of 60"), ".pager")
    engine = open_store(served.home.database)
    with engine.begin() as connection:
        connection.execute(sa.delete(schema.sessions))
    engine.dispose()
    page.wait_for_url("**/login")
    # What the page was loading meanwhile is refused.
    assert [text for text in trouble if "401" not in text] == []
    trouble.clear()
