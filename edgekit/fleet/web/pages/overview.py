"""``/``: is the fleet well, which parts of it are not, and all its devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from nicegui import ui
from starlette.requests import Request

from edgekit.fleet.alerts.rows import AlertRow
from edgekit.fleet.store import queries
from edgekit.fleet.store.rows import DeviceRow, Page, Summary
from edgekit.fleet.web import charts
from edgekit.fleet.web.address import PAGE_ROWS, Filters
from edgekit.fleet.web.pages.frame import Frame, card
from edgekit.fleet.web.pages.items import (
    DEVICE_COLUMNS,
    alert_item,
    groups_of,
    keys_of,
    row_of,
)
from edgekit.fleet.web.pages.nodes import Bars, Chart, Grid, node, set_attributes, set_text
from edgekit.fleet.web.shared import Web
from edgekit.fleet.web.verdict import Verdict, verdict
from edgekit.fleet.web.words import number

_SIGNS = {"good": "✓", "look": "!", "act": "!", "empty": "–"}
_FEW_ALERTS = 5
_MOST_LABELS = 200
_TILES = (
    ("total", "devices", "", "/"),
    ("online", "online", "on", "/?state=online"),
    ("offline", "offline", "off", "/?state=offline"),
    ("never_seen", "never seen", "never", "/?state=never"),
    ("open_alerts", "open alerts", "", "/alerts"),
)  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """What the page shows."""

    summary: Summary
    verdict: Verdict
    alerts: Sequence[AlertRow]
    page: Page[DeviceRow]


class Overview:
    """The page; see the module.

    Args:
        web: The fleet.
        frame: Around it.
        filters: As the URL says.
        key: Label that groups are made by; empty for the best one.
    """

    def __init__(self, web: Web, frame: Frame, filters: Filters, key: str) -> None:
        self._web = web
        self._frame = frame
        self._filters = filters
        self._key = key
        self._again: Any = None
        self._total = 0
        self._last_alerts: object = None
        with frame:
            self._head()
            self._empty = node("section", "", "card")
            self._empty.set_visibility(False)
            with self._empty, node("div", "", "empty"):
                node("b", "No device is registered")
                node("div", "On this machine:")
                node("code", "edgekit fleet device add cam-1 --target rpi5 --label site=roof")
                node("div", "then start edgekit agent run on the device. Or see a living fleet:")
                node("code", "edgekit fleet demo")
            self._full = node("div")
            with self._full:
                self._charts()
                self._table()

    async def run(self) -> None:
        """Fill the page and keep it up to date."""
        self._again = await self._frame.live(self._ask, self._show)

    def _ask(self) -> Seen:
        web, filters = self._web, self._filters
        summary, alerts = web.summary(), web.open_alerts()
        page = queries.devices(
            web.reader, **filters.asked(), offset=filters.page * PAGE_ROWS, limit=PAGE_ROWS
        )
        return Seen(summary, verdict(summary, alerts, web.ingest(), web.clock()), alerts, page)

    def _head(self) -> None:
        with node("div", "", "answer") as self._answer:
            self._mark = node("div", "", "mark", aria_hidden="true")
            with node("div"):
                self._title = node("h1", "…")
                self._reasons = node("p")
        self._said: object = None
        self._tiles = {}
        with node("div", "", "tiles"):
            for name, words, dot, href in _TILES:
                with node("a", "", "tile", href=href) as tile:
                    value = node("div", "–", "v")
                    with node("div", "", "k"):
                        if dot:
                            node("i", "", f"dot {dot}")
                        node("span", words)
                self._tiles[name] = (tile, value)

    def _charts(self) -> None:
        with node("div", "", "row two"):
            groups, end = card("Groups", "area: devices; colour: how many are online")
            with end:
                self._keys = node("div")
            with groups:
                self._groups = Chart("devices by label", 250)
            self._groups.on_click = self._open_group
            side, _ = card("Versions", "of edgekit, as devices say")
            with side:
                self._versions = Bars("devices by version")
                node("h2", "Targets").style("margin: 18px 0 8px")
                self._targets = Bars("devices by target")
        self._alerts_card, end = card("Open alerts")
        with end:
            node("a", "all alerts", href="/alerts")
        self._alerts_card.style("margin-bottom: 16px")
        with self._alerts_card:
            self._alerts = node("div", "", "list")

    def _table(self) -> None:
        filters = self._filters
        table, end = card("Devices")
        with end:
            self._csv = node("a", "CSV", href=self._csv_url(), download="devices.csv")
        with table:
            with node("div", "", "filters"):
                search = ui.element("input")
                set_attributes(
                    search, type="search", placeholder="Search by name",
                    defaultValue=filters.search,
                    aria_label="search by name", maxlength=100,
                )  # fmt: skip
                search.on(
                    "input", lambda e: self._filter(search=str(e.args)[:200]),
                    js_handler="(e) => emit(e.target.value)", throttle=0.3, leading_events=False,
                )  # fmt: skip
                self._chips = {}
                for state in ("", "online", "offline", "never"):
                    words = {"": "all", "never": "never seen"}.get(state, state)
                    chip = node("button", words, "chip")
                    chip.on("click", lambda s=state: self._filter(state=s))
                    self._chips[state] = chip
                self._label = self._choice("label", "any label", filters.label)
                self._model = self._choice("model", "any model", filters.model)
            self._grid = Grid(DEVICE_COLUMNS, self._sorted, (filters.sort, filters.descending))
            self._none = node("div", "", "empty")
            with self._none:
                node("b", "No device is like that")
                node("a", "Show all devices", href="/")
            with node("div", "", "pager"):
                self._where = node("span", "", "num")
                self._back = node("button", "‹ Back", "btn")
                self._next = node("button", "Next ›", "btn")
                self._back.on("click", lambda: self._turn(-1))
                self._next.on("click", lambda: self._turn(1))
        self._mark_filters()

    def _choice(self, what: str, any_words: str, chosen: str) -> ui.element:
        made = ui.element("select")
        set_attributes(made, aria_label=what)
        made.on(
            "change", lambda e: self._filter(**{what: str(e.args)[:200]}),
            js_handler="(e) => emit(e.target.value)",
        )  # fmt: skip
        self._options(made, [chosen] if chosen else [], any_words, chosen)
        return made

    def _options(
        self, select: ui.element, values: Sequence[str], any_words: str, chosen: str
    ) -> None:
        held = (tuple(values), chosen)
        if getattr(select, "held", None) == held:
            return
        select.held = held  # type: ignore[attr-defined]
        select.clear()
        with select:
            for value in ("", *dict.fromkeys([*values, *([chosen] if chosen else [])])):
                option = node("option", value or any_words, value=value)
                if value == chosen:
                    set_attributes(option, selected=True)

    def _show(self, seen: Seen) -> None:
        summary, has_devices = seen.summary, bool(seen.summary.total)
        self._show_answer(seen.verdict)
        for name, (tile, value) in self._tiles.items():
            count = getattr(summary, name)
            set_text(value, number(count))
            is_bad = name in {"offline", "open_alerts"} and count > 0
            if ("bad" in tile.classes) != is_bad:
                tile.classes(**{"add" if is_bad else "remove": "bad"})
        if self._full.visible != has_devices:
            self._full.set_visibility(has_devices)
            self._empty.set_visibility(not has_devices)
        if not has_devices:
            return
        self._show_groups(summary)
        self._versions.show(_named(summary.versions))
        self._targets.show(_named(summary.targets))
        self._show_alerts(seen.alerts)
        self._show_page(seen.page)
        labels = sorted(summary.groups)[:_MOST_LABELS]
        self._options(self._label, labels, "any label", self._filters.label)
        models = [row.name for row in self._web.models()]
        self._options(self._model, models, "any model", self._filters.model)

    def _show_answer(self, said: Verdict) -> None:
        if said == self._said:
            return
        self._said = said
        self._answer.classes(remove="good look act empty", add=said.level)
        set_text(self._mark, _SIGNS[said.level])
        set_text(self._title, said.title)
        self._reasons.clear()
        with self._reasons:
            for reason in said.reasons:
                if reason.link:
                    node("a", reason.text, href=reason.link)
                else:
                    node("span", reason.text)
            if not said.reasons:
                words = {"good": "all devices are online, no alert is open"}.get(said.level, "")
                node("span", words)

    def _show_groups(self, summary: Summary) -> None:
        keys = keys_of(summary)
        chosen = self._key if self._key in keys else (keys[0] if keys else "")
        self._shown_key = chosen
        if getattr(self, "_shown_keys", None) != (keys, chosen):
            self._shown_keys = (keys, chosen)
            self._keys.clear()
            with self._keys:
                for key in keys[:6]:
                    chip = node("button", key, "chip here" if key == chosen else "chip")
                    chip.on("click", lambda k=key: self._group_by(k))
        self._groups.show(charts.treemap(groups_of(summary, chosen)))

    def _show_alerts(self, alerts: Sequence[AlertRow]) -> None:
        shown = [alert for alert in alerts if not alert.silenced][:_FEW_ALERTS]
        ids = [alert.id for alert in shown]
        if ids == self._last_alerts:
            return
        self._last_alerts = ids
        self._alerts_card.set_visibility(bool(shown))
        self._alerts.clear()
        with self._alerts:
            for alert in shown:
                alert_item(alert)

    def _show_page(self, page: Page[DeviceRow]) -> None:
        self._total = page.total
        self._grid.show([row_of(device) for device in page.rows])
        self._grid.element.set_visibility(bool(page.rows))
        self._none.set_visibility(not page.rows)
        first = self._filters.page * PAGE_ROWS
        last = first + len(page.rows)
        where = f"{number(first + 1)}–{number(last)} of {number(page.total)}" if page.rows else ""
        set_text(self._where, where)
        set_attributes(self._back, disabled=self._filters.page == 0)
        set_attributes(self._next, disabled=last >= page.total)

    def _filter(self, **values: Any) -> None:  # noqa: ANN401 - fields of the filters
        self._to(self._filters.changed(**values))

    def _sorted(self, column: str, descending: bool) -> None:
        self._to(self._filters.changed(sort=column, descending=descending))

    def _turn(self, by: int) -> None:
        page = self._filters.page + by
        if page >= 0 and page * PAGE_ROWS < max(1, self._total):
            self._to(self._filters.changed(page=page))

    def _group_by(self, key: str) -> None:
        self._key = key
        self._to(self._filters)

    def _open_group(self, name: str) -> None:
        if name and not name.startswith("without "):
            label = f"{self._shown_key}={name}"
            ui.navigate.to(Filters(label=label).url())

    def _to(self, filters: Filters) -> None:
        self._filters = filters
        query = filters.query()
        by = f"by={quote(self._key)}" if self._key else ""
        both = "&".join(part for part in (query, by) if part)
        ui.navigate.history.replace(f"/?{both}" if both else "/")
        set_attributes(self._csv, href=self._csv_url())
        self._mark_filters()
        if self._again is not None:
            self._again()

    def _mark_filters(self) -> None:
        for state, chip in self._chips.items():
            is_here = state == self._filters.state
            chip.classes(**{"add" if is_here else "remove": "here"})
            set_attributes(chip, aria_pressed=str(is_here).lower())

    def _csv_url(self) -> str:
        query = self._filters.query(with_page=False)
        return f"/csv/devices?{query}" if query else "/csv/devices"


def _named(counts: Mapping[str, int]) -> dict[str, int]:
    return {name or "not said yet": count for name, count in counts.items()}


def add_overview(web: Web) -> None:
    """Add ``/``."""

    @ui.page("/", title="Fleet")
    async def overview(request: Request) -> None:
        frame = Frame(web, request, "Fleet", "/")
        asked = dict(request.query_params)
        page = Overview(web, frame, Filters.read(asked), asked.get("by", "")[:100])
        await page.run()
