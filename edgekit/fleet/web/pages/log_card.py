"""The card with a device's log, which is fetched from the device when somebody asks for it."""

from __future__ import annotations

import secrets

from nicegui import ui

from edgekit.fleet.device_log import LogLine, device_log
from edgekit.fleet.web.accounts import Role
from edgekit.fleet.web.pages.frame import Frame, card
from edgekit.fleet.web.pages.nodes import node, set_text, since
from edgekit.fleet.web.shared import Web, off_loop
from edgekit.wire.errors import EdgekitError

_LINES = 100


class LogCard:
    """The card; for operators.

    Args:
        web: The fleet.
        frame: Of the page.
        device: Its name.
    """

    def __init__(self, web: Web, frame: Frame, device: str) -> None:
        self._web = web
        self._frame = frame
        self._device = device
        made, end = card("Log", "the agent's last lines, by the device's own clock")
        made.style("margin-top: 16px")
        with end:
            self._button = node("button", "Fetch", "btn")
            self._button.on("click", self._fetch)
        with made:
            self._lines = node("div", "", "log")
            self._none = node("div", "nothing leaves the device until you fetch it", "empty")

    async def _fetch(self) -> None:
        if not self._frame.may(Role.OPERATOR):
            ui.notify("your role may not do that any more")
            return
        self._button.props["disabled"] = True
        set_text(self._button, "Asking …")
        try:
            self._show(await off_loop(self._ask))
        except EdgekitError as error:
            self._say(f"{error.message}; {error.hint}" if error.hint else error.message)
        finally:
            self._button.props.pop("disabled", None)
            set_text(self._button, "Fetch")

    def _ask(self) -> list[LogLine]:
        opened, command_id = self._web.opened, f"logs-{secrets.token_hex(8)}"
        address = opened.address("web")
        found = device_log(address, opened.settings.name, self._device, _LINES, command_id)
        self._web.note(self._frame.identity, "logs", self._device)
        return found

    def _say(self, text: str) -> None:
        self._lines.clear()
        set_text(self._none, text)
        self._none.set_visibility(True)

    def _show(self, lines: list[LogLine]) -> None:
        self._say("its log is empty")
        self._none.set_visibility(not lines)
        with self._lines:
            for line in reversed(lines):
                with node("div"):
                    since(line.time_s, "device")
                    node("b", line.level, line.level.lower() if line.level.isalpha() else "")
                    node("span", line.text)
