"""``/devices/NAME``: one device: its vitals and latencies over time, its models, events, orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement
from starlette.requests import Request

from edgekit.fleet.alerts.rows import AlertRow
from edgekit.fleet.store import queries
from edgekit.fleet.store.rows import DeviceDetail, EventRow
from edgekit.fleet.web import charts, history, order_rows
from edgekit.fleet.web.accounts import Role
from edgekit.fleet.web.history import Heat, Line
from edgekit.fleet.web.order_rows import DeviceOrderRow
from edgekit.fleet.web.pages.facts import (
    clock_words,
    errors_of,
    event_of,
    facts_of,
    lines_of,
    order_of,
    percent_of,
)
from edgekit.fleet.web.pages.frame import Frame, card, missing
from edgekit.fleet.web.pages.items import alert_item
from edgekit.fleet.web.pages.log_card import LogCard
from edgekit.fleet.web.pages.nodes import Chart, Grid, node, set_attributes, set_text
from edgekit.fleet.web.shared import Web
from edgekit.fleet.web.words import number
from edgekit.wire.errors import UsageError

RANGES = {"1h": 3600.0, "6h": 6 * 3600.0, "24h": 86_400.0, "7d": 7 * 86_400.0}
_METRICS = ("temp_c", "cpu_share", "process_cpu_share", "rss_bytes", "memory_available_bytes")
_DRAWN_S = 15.0
_MOST_EVENTS = 30
_EVENTS: tuple[dict[str, Any], ...] = (
    {"field": "received_s", "headerName": "Received", ":cellRenderer": "fleet.cells.time",
     "minWidth": 105, "maxWidth": 130},
    {"field": "time_s", "headerName": "By its clock", ":cellRenderer": "fleet.cells.clock",
     "maxWidth": 130, "context": {"from": 700}},
    {"field": "name", "headerName": "Event", "minWidth": 110, "maxWidth": 190},
    {"field": "values", "headerName": "What it says", "flex": 4, "tooltipField": "values"},
)  # fmt: skip
_ORDERS: tuple[dict[str, Any], ...] = (
    {"field": "phase", "headerName": "Phase", ":cellRenderer": "fleet.cells.badge",
     "maxWidth": 130, "minWidth": 105},
    {"field": "model", "headerName": "Model", ":cellRenderer": "fleet.cells.to"},
    {"field": "serial", "headerName": "Serial", "type": "rightAligned", "maxWidth": 90,
     "context": {"from": 700}},
    {"field": "since_s", "headerName": "Since", ":cellRenderer": "fleet.cells.time",
     "maxWidth": 130},
    {"field": "detail", "headerName": "Why", "flex": 3, "tooltipField": "detail",
     "context": {"from": 560}},
)  # fmt: skip


@dataclass(frozen=True)
class Now:
    """What is known of a device at this moment."""

    detail: DeviceDetail
    alerts: Sequence[AlertRow]
    events: Sequence[EventRow]
    orders: Sequence[DeviceOrderRow]


@dataclass(frozen=True)
class Past:
    """What is drawn over time; ``limit_ms`` is the contract's p95 of what serves."""

    span: tuple[float, float]
    vitals: Mapping[str, Line]
    heat: Heat | None
    limit_ms: float | None


class DevicePage:
    """The page; see the module.

    Args:
        web: The fleet.
        frame: Around it.
        name: Of the device.
        span: One of :data:`RANGES`.
    """

    def __init__(self, web: Web, frame: Frame, name: str, span: str) -> None:
        self._web = web
        self._frame = frame
        self._name = name
        self._span = span
        self._redraw: Any = None
        self._held: dict[str, object] = {}
        self._values: list[TextElement] = []
        with frame:
            with node("div", "", "title"):
                self._dot = node("i", "", "dot")
                node("h1", name)
                self._phase = node("span", "", "badge")
            with node("div", "", "sub"):
                self._state = node("span", "…")
                with node("span"):
                    node("span", "last seen ")
                    self._seen = node("time", "", "num", data_t="")
                self._clock = node("span", "", "hot")
                self._labels = node("span")
            self._alerts = node("section", "", "card list").style("margin-bottom: 16px")
            self._alerts.set_visibility(False)
            self._models, _ = card("Models", "what serves, and its last sample; measured on device")
            self._models.style("margin-bottom: 16px")
            with self._models:
                self._model_list = node("div", "", "list")
            self._charts()
            self._tables()

    async def run(self) -> None:
        """Fill the page and keep it up to date."""
        await self._frame.live(self._ask, self._show)
        self._redraw = await self._frame.live(self._ask_past, self._show_past, _DRAWN_S)

    def _ask(self) -> Now:
        reader = self._web.reader
        return Now(
            queries.device(reader, self._name),
            self._web.alert_rows.list(device=self._name),
            queries.events(reader, device=self._name, limit=_MOST_EVENTS),
            order_rows.orders_of(reader, self._name),
        )

    def _ask_past(self) -> Past:
        reader, until_s = self._web.reader, self._web.clock()
        since_s = until_s - RANGES[self._span]
        bundles = list(queries.device(reader, self._name).row.models.values())
        limit_ms = self._web.promises.limit_ms(bundles)
        vitals = history.vitals(reader, self._name, _METRICS, since_s, until_s)
        heat = history.heat(reader, since_s, until_s, device=self._name, floor_ms=limit_ms)
        begin_s = history.begin(since_s, until_s, vitals.values(), heat)
        return Past((begin_s, until_s), vitals, heat, limit_ms)

    def _charts(self) -> None:
        with node("div", "", "filters"):
            self._chips = {}
            for span in RANGES:
                chip = node("button", span, "chip")
                chip.on("click", lambda s=span: self._to(s))
                self._chips[span] = chip
        self._mark()
        why = "each cell: requests of that time and latency; measured on device"
        heat, _ = card("Latency over time", why)
        heat.style("margin-bottom: 16px")
        with heat:
            self._heat = Chart("latency histogram over time", 290)
        self._lines = {}
        with node("div", "", "row even"):
            for key, title in (
                ("temp", "Hottest zone"), ("cpu", "CPU"), ("memory", "Memory"),
            ):  # fmt: skip
                made, _ = card(title, "measured on device")
                with made:
                    self._lines[key] = Chart(title, 200)
            facts, _ = card("Facts", "as the device says")
            with facts:
                self._facts = node("div", "", "facts")

    def _tables(self) -> None:
        orders, _ = card("Orders")
        orders.style("margin-bottom: 16px")
        with orders:
            self._orders = Grid(_ORDERS)
            self._no_orders = node("div", "no order was given to this device yet", "empty")
        events, end = card("Events", "the newest first")
        with end:
            href = f"/csv/events?device={quote(self._name, safe='')}"
            node("a", "CSV", href=href, download="events.csv")
        with events:
            self._events = Grid(_EVENTS)
            self._no_events = node("div", "nothing has happened yet", "empty")
        if self._frame.may(Role.OPERATOR):
            LogCard(self._web, self._frame, self._name)

    def _show(self, now: Now) -> None:
        row, detail = now.detail.row, now.detail
        word = {True: "online", False: "offline", None: "never seen"}[row.online]
        kind = {True: "on", False: "off", None: "never"}[row.online]
        if kind not in self._dot.classes:
            self._dot.classes(remove="on off never", add=kind)
        why = detail.state.get("reason", "")
        set_text(self._state, f"{word}, {why}" if row.online is False and why else word)
        set_attributes(self._seen, data_t=row.last_seen_s or "")
        set_text(self._clock, clock_words(detail))
        set_text(self._labels, "  ".join(f"{key}={value}" for key, value in row.labels.items()))
        phase = "" if row.phase in {"", "idle"} else row.phase
        set_text(self._phase, phase)
        self._phase.set_visibility(bool(phase))
        self._show_alerts(now.alerts)
        self._show_models(detail)
        self._show_facts(detail)
        self._orders.show([order_of(order) for order in now.orders])
        self._orders.element.set_visibility(bool(now.orders))
        self._no_orders.set_visibility(not now.orders)
        self._events.show([event_of(event) for event in now.events])
        self._events.element.set_visibility(bool(now.events))
        self._no_events.set_visibility(not now.events)

    def _show_alerts(self, alerts: Sequence[AlertRow]) -> None:
        if self._held.get("alerts") == alerts:
            return
        self._held["alerts"] = alerts
        self._alerts.set_visibility(bool(alerts))
        self._alerts.clear()
        with self._alerts:
            for alert in alerts:
                alert_item(alert)

    def _show_models(self, detail: DeviceDetail) -> None:
        said = detail.sample.get("models")
        said = said if isinstance(said, dict) else {}
        rows = []
        for name, digits in detail.row.models.items():
            values = said.get(name, {})
            promise = self._web.promises.of(digits)
            limit_ms = None if promise is None else promise.p95_limit_ms
            contract = "not known here" if promise is None else "without a latency"
            if limit_ms is not None:
                contract = f"≤ {number(limit_ms, 'ms')}"
            p95_ms = detail.row.p95_ms.get(name)
            rows.append((name, digits, p95_ms, limit_ms, contract, errors_of(values)))
        if self._held.get("models") == rows:
            return
        self._held["models"] = rows
        self._model_list.clear()
        with self._model_list:
            if not rows:
                node("div", "no model serves on this device", "empty")
            for name, digits, p95_ms, limit_ms, contract, errors in rows:
                with node("div", "", "item"):
                    node("a", name, href=f"/models/{quote(name, safe='')}")
                    with node("div", "", "num"):
                        over = p95_ms is not None and limit_ms is not None and p95_ms > limit_ms
                        node("span", f"p95 {number(p95_ms, 'ms')}", "hot" if over else "")
                        node("span", f" · contract {contract} · {errors}", "dim")
                    node("span", digits, "code when")

    def _show_facts(self, detail: DeviceDetail) -> None:
        facts = facts_of(detail)
        held = self._held.get("facts")
        if held == facts:
            return
        if isinstance(held, list) and [key for key, _ in held] == [key for key, _ in facts]:
            for element, (_, value) in zip(self._values, facts, strict=True):
                set_text(element, value)
        else:
            self._facts.clear()
            self._values = []
            with self._facts:
                for key, value in facts:
                    with node("div"):
                        node("div", key, "k")
                        self._values.append(node("div", value, "v"))
        self._held["facts"] = facts

    def _show_past(self, past: Past) -> None:
        vitals, span = past.vitals, past.span
        none = f"nothing was measured in the last {self._span}"
        heat = None
        if past.heat is not None:
            heat = charts.latency_heat(past.heat, past.limit_ms, span)
        self._heat.show(heat, f"no requests in the last {self._span}")
        drawn: dict[str, tuple[list[tuple[str, str, Line]], str, float | None]] = {
            "temp": (lines_of(vitals, ("temp_c", "hottest", charts.VERMILLION)), "°C", None),
            "cpu": (
                percent_of(lines_of(
                    vitals, ("cpu_share", "all", charts.BLUE),
                    ("process_cpu_share", "agent", charts.ORANGE),
                )), "%", 100.0,
            ),
            "memory": (
                lines_of(
                    vitals, ("memory_available_bytes", "free", charts.GREEN),
                    ("rss_bytes", "agent", charts.ORANGE),
                ), "bytes", None,
            ),
        }  # fmt: skip
        for key, (lines, unit, most) in drawn.items():
            options = charts.over_time(lines, unit, span, most=most) if lines else None
            self._lines[key].show(options, none)

    def _to(self, span: str) -> None:
        self._span = span
        ui.navigate.history.replace(f"/devices/{quote(self._name, safe='')}?range={span}")
        self._mark()
        if self._redraw is not None:
            self._redraw()

    def _mark(self) -> None:
        for span, chip in self._chips.items():
            is_here = span == self._span
            chip.classes(**{"add" if is_here else "remove": "here"})
            set_attributes(chip, aria_pressed=str(is_here).lower())


def add_device(web: Web) -> None:
    """Add ``/devices/NAME``."""

    @ui.page("/devices/{name}", title="Device")
    async def device(request: Request, name: str) -> None:
        frame = Frame(web, request, name, "/")
        try:
            queries.device(web.reader, name)
        except UsageError as error:
            missing(frame, error)
            return
        span = request.query_params.get("range", "6h")
        await DevicePage(web, frame, name, span if span in RANGES else "6h").run()
