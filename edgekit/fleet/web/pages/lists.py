"""``/orders`` and ``/audit``: what was sent to devices, and what people did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from nicegui import ui
from starlette.requests import Request

from edgekit.fleet.orders import OPEN, Phase
from edgekit.fleet.store import queries
from edgekit.fleet.store.rows import AuditRow
from edgekit.fleet.web import order_rows
from edgekit.fleet.web.accounts import Role
from edgekit.fleet.web.order_rows import OrderRow
from edgekit.fleet.web.pages.frame import Frame, card
from edgekit.fleet.web.pages.nodes import Grid, node
from edgekit.fleet.web.shared import Web, off_loop
from edgekit.fleet.web.words import bytes_of
from edgekit.wire.errors import EdgekitError

_MOST = 200
_ORDERS: tuple[dict[str, Any], ...] = (
    {"field": "order_id", "headerName": "Order", "minWidth": 170, "flex": 1.4},
    {"field": "model", "headerName": "Model", ":cellRenderer": "fleet.cells.to"},
    {"field": "serial", "headerName": "Serial", "type": "rightAligned", "maxWidth": 90,
     "context": {"from": 700}},
    {"field": "size", "headerName": "Size", "type": "rightAligned", "maxWidth": 110,
     "context": {"from": 900}},
    {"field": "phases", "headerName": "Devices by phase", ":cellRenderer": "fleet.cells.tags",
     "flex": 2.5, "minWidth": 140},
    {"field": "created_s", "headerName": "Given", ":cellRenderer": "fleet.cells.time",
     "maxWidth": 125, "context": {"from": 560}},
)  # fmt: skip
_AUDIT: tuple[dict[str, Any], ...] = (
    {"field": "at_s", "headerName": "When", ":cellRenderer": "fleet.cells.time", "minWidth": 100,
     "maxWidth": 125},
    {"field": "user", "headerName": "Who", "minWidth": 80},
    {"field": "action", "headerName": "What", ":cellRenderer": "fleet.cells.badge",
     "minWidth": 105},
    {"field": "subject", "headerName": "Of", "context": {"from": 560}},
    {"field": "detail", "headerName": "Detail", "flex": 3, "tooltipField": "detail",
     "context": {"from": 700}},
)  # fmt: skip


class OrdersPage:
    """``/orders``."""

    def __init__(self, web: Web, frame: Frame) -> None:
        self._web = web
        self._frame = frame
        self._again: Any = None
        self._held: object = None
        with frame:
            with node("div", "", "title"):
                node("h1", "Orders")
            self._under_way, _ = card("Under way")
            self._under_way.style("margin-bottom: 16px")
            with self._under_way:
                self._list = node("div", "", "list")
            made, _ = card("The last orders", "a device's own page says why it stands there")
            with made:
                self._grid = Grid(_ORDERS)
                self._none = node("div", "", "empty")
                with self._none:
                    node("b", "No order was given yet")
                    node("code", "edgekit fleet deploy dist/MODEL-TARGET.ekb --all")

    async def run(self) -> None:
        """Fill the page and keep it up to date."""
        self._again = await self._frame.live(
            lambda: order_rows.orders(self._web.reader, _MOST), self._show
        )

    def _show(self, orders: Sequence[OrderRow]) -> None:
        running = [order for order in orders if any(phase in order.phases for phase in OPEN)]
        if self._held != running:
            self._held = running
            self._under_way.set_visibility(bool(running))
            self._list.clear()
            may = self._frame.may(Role.OPERATOR)
            with self._list:
                for order in running:
                    self._item(order, may=may)
        self._grid.show([_order(order) for order in orders])
        self._grid.element.set_visibility(bool(orders))
        self._none.set_visibility(not orders)

    def _item(self, order: OrderRow, *, may: bool) -> None:
        total = sum(order.phases.values())
        done = order.phases.get(Phase.CONFIRMED, 0)
        with node("div", "", "item"):
            node("a", order.model, href=f"/models/{quote(order.model, safe='')}")
            node("span", f"serial {order.serial}: {done} of {total} confirmed, "
                 + ", ".join(_phases(order)))  # fmt: skip
            if may:
                cancel = node("button", "Call back", "btn bad")
                cancel.on("click", lambda o=order.order_id: self._cancel(o))

    async def _cancel(self, order_id: str) -> None:
        if not self._frame.may(Role.OPERATOR):
            ui.notify("your role may not do that any more")
            return
        try:
            await off_loop(lambda: self._web.opened.office().cancel(order_id, self._web.clock()))
        except EdgekitError as error:
            ui.notify(error.message)
            return
        who = self._frame.identity
        await off_loop(lambda: self._web.note(who, "cancel", order_id))
        self._again()


class AuditPage:
    """``/audit``."""

    def __init__(self, web: Web, frame: Frame) -> None:
        self._web = web
        self._frame = frame
        with frame:
            with node("div", "", "title"):
                node("h1", "Audit")
            made, end = card("What people did", "the latest first")
            with end:
                node("a", "CSV", href="/csv/audit", download="audit.csv")
            with made:
                self._grid = Grid(_AUDIT)
                self._none = node("div", "nobody has done anything yet", "empty")

    async def run(self) -> None:
        """Fill the page and keep it up to date."""
        await self._frame.live(lambda: queries.audit(self._web.reader, limit=_MOST), self._show)

    def _show(self, rows: Sequence[AuditRow]) -> None:
        self._grid.show([{"key": str(row.id), **vars(row)} for row in rows])
        self._grid.element.set_visibility(bool(rows))
        self._none.set_visibility(not rows)


def _order(order: OrderRow) -> dict[str, Any]:
    return {
        "key": order.order_id,
        "order_id": order.order_id,
        "model": [order.model, f"/models/{quote(order.model, safe='')}"],
        "serial": order.serial,
        "size": bytes_of(order.size_bytes),
        "phases": _phases(order),
        "created_s": order.created_s,
    }


def _phases(order: OrderRow) -> list[str]:
    found = {phase.value: order.phases[phase] for phase in Phase if phase in order.phases}
    return [f"{n} {phase}" for phase, n in found.items()]


def add_lists(web: Web) -> None:
    """Add ``/orders`` and ``/audit``."""

    @ui.page("/orders", title="Orders")
    async def orders(request: Request) -> None:
        await OrdersPage(web, Frame(web, request, "Orders", "/orders")).run()

    @ui.page("/audit", title="Audit")
    async def audit(request: Request) -> None:
        frame = Frame(web, request, "Audit", "/audit")
        if frame.identity.role < Role.ADMIN:
            frame.client.status_code = 403
            with frame, node("section", "", "card"), node("div", "", "empty"):
                node("b", "This page is for admins")
                node("a", "To the fleet", href="/")
            return
        await AuditPage(web, frame).run()
