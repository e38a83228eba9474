"""What all pages share: the bar on top, the banner of trouble, and the live connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Self, TypeVar

import sqlalchemy as sa
from nicegui import ui
from starlette.requests import Request

from edgekit.fleet.web.accounts import Identity, Role
from edgekit.fleet.web.guard import identity_of
from edgekit.fleet.web.pages.nodes import node, set_attributes, set_text
from edgekit.fleet.web.shared import Web, off_loop
from edgekit.fleet.web.verdict import ingest_trouble
from edgekit.wire.errors import EdgekitError, UsageError

log = logging.getLogger(__name__)
Found = TypeVar("Found")
LIVE_S = 2.0
# A page that is quick is sent with what it shows; one that is not is sent at once, and filled then.
FIRST_S = 1.0
_LINKS = (("/", "Fleet"), ("/models", "Models"), ("/alerts", "Alerts"), ("/orders", "Orders"))


class Frame:
    """One page of one browser; use it in a ``with``, and what is added stands in its middle.

    Args:
        web: The fleet.
        request: For the page.
        title: Of the window.
        here: The link of the bar that this page belongs to.
    """

    def __init__(self, web: Web, request: Request, title: str, here: str = "") -> None:
        identity = identity_of(request.scope)
        if identity is None:  # the guard lets nobody through unknown
            raise RuntimeError("a page without a guard before it")
        self.web = web
        self.identity = identity
        self.client = ui.context.client
        ui.page_title(f"{title} · {web.name}")
        ui.add_head_html(f'<meta name="server-time" content="{web.clock():.3f}">')
        theme = request.cookies.get("edgekit_theme", "auto")
        ui.dark_mode({"dark": True, "light": False}.get(theme))
        self._bar(here, theme if theme in {"dark", "light"} else "auto")
        self.body = node("main")
        with self.body:
            self._banner = node("div", "", "banner")
            self._banner.set_visibility(False)
            with self._banner:
                self._trouble = node("b")
                self._hint = node("div", "", "dim")

    def __enter__(self) -> Self:
        self.body.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.body.__exit__()

    def may(self, role: Role) -> bool:
        """Tell whether who sees the page has at least this role, now."""
        found = self._who()
        return found is not None and found.role >= role

    async def live(
        self,
        ask: Callable[[], Found],
        show: Callable[[Found], None],
        period_s: float = LIVE_S,
    ) -> Callable[[], object]:
        """Show something and keep it up to date.

        Args:
            ask: Finds it, in a thread.
            show: Shows it.
            period_s: How often.

        Returns:
            A function that does it at once: after a filter has changed.
        """
        lock = asyncio.Lock()

        async def once() -> None:
            async with lock:
                try:
                    found = await off_loop(ask)
                    trouble = await off_loop(self._trouble_now)
                except (EdgekitError, sa.exc.SQLAlchemyError, OSError, ValueError) as error:
                    self._broken(error)
                    return
                if self.client.is_deleted:
                    return
                self._say(trouble, "`edgekit fleet status` shows what runs" if trouble else "")
                set_attributes(self._age, data_t=self.web.clock())
                self._live.classes(remove="stale")
                with self.body:
                    show(found)

        async def repeat() -> None:
            if not self.client.has_socket_connection:
                return  # nobody sees it, though somebody may come back
            if await off_loop(self._who) is None:
                ui.navigate.to("/login")
                return
            await once()

        first = asyncio.create_task(once())
        await asyncio.wait({first}, timeout=FIRST_S)
        if first.done():
            first.result()
        with self.body:
            ui.timer(period_s, repeat, immediate=False)
        return lambda: asyncio.create_task(once())

    def _who(self) -> Identity | None:
        if not self.identity.key:
            return self.identity
        return self.web.accounts.session_of(self.identity.key, self.web.clock())

    def _trouble_now(self) -> str:
        # The badge of the bar comes along: it is on every page.
        self._open = len(self.web.open_alerts())
        return ingest_trouble(self.web.ingest(), self.web.clock())

    def _say(self, trouble: str, hint: str) -> None:
        set_text(self._trouble, trouble[:1].upper() + trouble[1:])
        set_text(self._hint, hint)
        if self._banner.visible != bool(trouble):
            self._banner.set_visibility(bool(trouble))
        set_text(self._badge, str(self._open) if self._open else "")
        if self._badge.visible != bool(self._open):
            self._badge.set_visibility(bool(self._open))

    def _broken(self, error: Exception) -> None:
        log.warning("a page cannot be filled: %s", error)
        said = error.message if isinstance(error, EdgekitError) else "the store cannot be read"
        hint = error.hint if isinstance(error, EdgekitError) else None
        self._live.classes(add="stale")
        self._say(said, hint or "it is tried again every few seconds; `edgekit fleet status`")

    def _bar(self, here: str, theme: str) -> None:
        self._open = 0
        with node("header", "", "bar"):
            with node("a", "edgekit", "brand", href="/"):
                node("small", self.web.name)
            with node("nav", aria_label="pages"):
                links = [*_LINKS, ("/audit", "Audit")]
                for href, text in links if self.identity.role >= Role.ADMIN else _LINKS:
                    made = node("a", text, "here" if href == here else "", href=href)
                    if href == "/alerts":
                        with made:
                            self._badge = node("span", "", "n")
                            self._badge.set_visibility(False)
            with node("div", "", "live", title="when this page was last brought up to date"):
                self._live = ui.context.slot.parent
                node("i")
                with node("span"):
                    self._age = node("time", "", "num", data_t="")
            sign = {"auto": "◐", "light": "☀", "dark": "☾"}[theme]
            node(
                "button", sign, "icon", onclick="fleet.theme()", title=f"colours: {theme}",
                aria_label=f"colours: {theme}",
            )  # fmt: skip
            node("a", self.identity.user, "icon", href="/account", title="your account")


def card(title: str, why: str = "") -> tuple[ui.element, ui.element]:
    """Add a card; return it and the place at the end of its head."""
    with node("section", "", "card") as made, node("div", "", "head"):
        node("h2", title)
        if why:
            node("span", why, "why")
        end = node("div", "", "end")
    return made, end


def missing(frame: Frame, error: UsageError) -> None:
    """Say that there is no such thing."""
    frame.client.status_code = 404
    with frame, node("section", "", "card"), node("div", "", "empty"):
        node("h1", f"{error.message[:1].upper()}{error.message[1:]}")
        if error.hint:
            node("div", error.hint)
        node("a", "To the fleet", href="/")
