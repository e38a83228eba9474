"""``/alerts``: what is wrong, what was, and what nobody is told of for a while."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from nicegui import ui
from starlette.requests import Request

from edgekit.fleet.alerts.rows import AlertRow, SilenceRow
from edgekit.fleet.alerts.rules import Silence
from edgekit.fleet.web.accounts import Role
from edgekit.fleet.web.pages.frame import Frame, card
from edgekit.fleet.web.pages.items import alert_item
from edgekit.fleet.web.pages.nodes import Grid, node
from edgekit.fleet.web.shared import Web, off_loop
from edgekit.fleet.web.words import count, number
from edgekit.wire.errors import EdgekitError

_MOST_SHOWN = 200
_HOURS = {"1": "1 hour", "8": "8 hours", "24": "1 day", "168": "1 week"}
_CLOSED: tuple[dict[str, Any], ...] = (
    {"field": "text", "headerName": "What", "flex": 4, "tooltipField": "text", "minWidth": 180},
    {"field": "device", "headerName": "Device", ":cellRenderer": "fleet.cells.to",
     "context": {"from": 700}},
    {"field": "value", "headerName": "Last value", "type": "rightAligned",
     "context": {"from": 800}, "maxWidth": 130},
    {"field": "opened_s", "headerName": "Opened", ":cellRenderer": "fleet.cells.time",
     "maxWidth": 125, "context": {"from": 560}},
    {"field": "closed_s", "headerName": "Closed", ":cellRenderer": "fleet.cells.time",
     "maxWidth": 125, "minWidth": 95},
    {"field": "why", "headerName": "Why", "context": {"from": 900}},
)  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """What the page shows."""

    open: Sequence[AlertRow]
    closed: Sequence[AlertRow]
    silences: Sequence[SilenceRow]


class AlertsPage:
    """The page; see the module."""

    def __init__(self, web: Web, frame: Frame) -> None:
        self._web = web
        self._frame = frame
        self._again: Any = None
        self._held: tuple[object, object] = (None, None)
        with frame:
            with node("div", "", "title"):
                node("h1", "Alerts")
            made, end = card("Open", "the newest first")
            made.style("margin-bottom: 16px")
            with end:
                node("a", "CSV", href="/csv/alerts", download="alerts.csv")
            with made:
                self._open = node("div", "", "list")
            if frame.may(Role.OPERATOR):
                self._form()
            self._silenced, _ = card("Silences", "they open and close, but nobody is told")
            self._silenced.style("margin-bottom: 16px")
            with self._silenced:
                self._silences = node("div", "", "list")
            made, _ = card("Closed", "the last of them")
            with made:
                self._closed = Grid(_CLOSED)
                self._none = node("div", "no alert has closed yet", "empty")

    async def run(self) -> None:
        """Fill the page and keep it up to date."""
        self._again = await self._frame.live(self._ask, self._show)

    def _ask(self) -> Seen:
        rows = self._web.alert_rows
        return Seen(
            self._web.open_alerts()[:_MOST_SHOWN],
            rows.list(is_open=False, limit=_MOST_SHOWN),
            rows.silence_rows(),
        )

    def _form(self) -> None:
        made, _ = card("Silence", "nobody is told of some alerts for a while")
        made.style("margin-bottom: 16px")
        with made, node("div", "", "form"):
            self._rule = _field("Rule", "*, temperature", "*")
            self._device = _field("Device", "*, cam-1*", "*")
            with node("label", "For"):
                self._hours = ui.element("select")
                self._hours.on(
                    "change", lambda e: setattr(self, "_for", str(e.args)),
                    js_handler="(e) => emit(e.target.value)",
                )  # fmt: skip
                with self._hours:
                    for hours, words in _HOURS.items():
                        node("option", words, value=hours)
            self._for = "1"
            self._reason = _field("Reason", "the hall is being painted", "")
            node("button", "Silence", "btn main").on("click", self._silence)

    async def _silence(self) -> None:
        if not self._frame.may(Role.OPERATOR):
            ui.notify("your role may not do that any more")
            return
        reason = self._reason.value.strip()[:300]
        if not reason:
            ui.notify("say why, for the others")
            return
        now_s = self._web.clock()
        until_s = now_s + 3600 * float(self._for if self._for in _HOURS else "1")
        made = Silence(
            self._rule.value[:100] or "*", self._device.value[:100] or "*", {}, until_s, reason
        )
        await off_loop(lambda: self._web.alert_rows.add_silence(made, now_s))
        who, subject = self._frame.identity, f"{made.rule} {made.device}"
        await off_loop(lambda: self._web.note(who, "silence", subject, reason))
        ui.notify("silenced")
        self._again()

    async def _end(self, number_: int) -> None:
        if not self._frame.may(Role.OPERATOR):
            ui.notify("your role may not do that any more")
            return
        try:
            await off_loop(lambda: self._web.alert_rows.end_silence(number_))
        except EdgekitError as error:
            ui.notify(error.message)
            return
        who = self._frame.identity
        await off_loop(lambda: self._web.note(who, "end-silence", str(number_)))
        self._again()

    def _show(self, seen: Seen) -> None:
        if self._held[0] != seen.open:
            self._open.clear()
            with self._open:
                for alert in seen.open:
                    alert_item(alert)
                if not seen.open:
                    with node("div", "", "empty"):
                        node("b", "No alert is open")
                        node("div", "the rules stand in alerts.toml")
        if self._held[1] != seen.silences:
            self._show_silences(seen.silences)
        self._held = (seen.open, seen.silences)
        self._closed.show([_closed(alert) for alert in seen.closed])
        self._closed.element.set_visibility(bool(seen.closed))
        self._none.set_visibility(not seen.closed)

    def _show_silences(self, silences: Sequence[SilenceRow]) -> None:
        now_s = self._web.clock()
        live = [row for row in silences if row.silence.until_s > now_s]
        self._silenced.set_visibility(bool(live))
        self._silences.clear()
        may = self._frame.may(Role.OPERATOR)
        with self._silences:
            for row in live:
                left_s = row.silence.until_s - now_s
                ends = "for good" if left_s == float("inf") else f"{_left(left_s)} left"
                with node("div", "", "item"):
                    node("span", f"{row.silence.rule} on {row.silence.device}", "code")
                    node("span", f"{row.silence.reason}, {ends}")
                    if may:
                        end = node("button", "End", "btn")
                        end.on("click", lambda n=row.id: self._end(n))


def _left(seconds: float) -> str:
    hours = seconds / 3600
    return count(round(hours / 24), "day") if hours > 48 else f"{number(hours)} h"  # noqa: PLR2004 - two days


class Field(ui.element):
    """A text field that remembers what was typed."""

    def __init__(self, label: str, placeholder: str, value: str, kind: str = "text") -> None:
        super().__init__("input")
        self.value = value
        self.props.update(
            {
                "type": kind, "placeholder": placeholder, "defaultValue": value,
                "aria-label": label,
                "maxlength": 1024, "autocomplete": "off" if kind == "text" else "new-password",
            }
        )  # fmt: skip
        self.on("input", self._typed, js_handler="(e) => emit(e.target.value)")

    def _typed(self, event: Any) -> None:  # noqa: ANN401 - NiceGUI's
        # It stands in the browser already: it is not sent back.
        self.value = str(event.args)[:1024]


def _field(label: str, placeholder: str, value: str) -> Field:
    with node("label", label):
        return Field(label, placeholder, value)


def _closed(alert: AlertRow) -> dict[str, Any]:
    to = [alert.device, f"/devices/{quote(alert.device, safe='')}"] if alert.device else None
    return {
        "key": str(alert.id),
        "text": alert.text,
        "device": to,
        "value": number(alert.value, alert.unit),
        "opened_s": alert.opened_s,
        "closed_s": alert.closed_s,
        "why": alert.why,
    }


def add_alerts(web: Web) -> None:
    """Add ``/alerts``."""

    @ui.page("/alerts", title="Alerts")
    async def alerts(request: Request) -> None:
        await AlertsPage(web, Frame(web, request, "Alerts", "/alerts")).run()
