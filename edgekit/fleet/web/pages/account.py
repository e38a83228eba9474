"""``/account``: one's own password and tokens; for admins also the users of the fleet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nicegui import ui
from starlette.requests import Request

from edgekit.fleet.web.accounts import Role
from edgekit.fleet.web.pages.alerts import Field
from edgekit.fleet.web.pages.frame import Frame, card
from edgekit.fleet.web.pages.nodes import node, since
from edgekit.fleet.web.shared import Web, off_loop
from edgekit.wire.errors import EdgekitError

_DAY_S = 86_400.0
_LIVES = {"30": "30 days", "365": "1 year", "0": "for good"}
_SPACE = "margin-bottom: 16px"


class AccountPage:
    """The page; see the module."""

    def __init__(self, web: Web, frame: Frame) -> None:
        self._web = web
        self._frame = frame
        who = frame.identity
        with frame:
            with node("div", "", "title"):
                node("h1", who.user)
                node("span", who.role.word, "badge")
            mine = next((user for user in web.accounts.users() if user.name == who.user), None)
            if mine is not None and not mine.has_password:
                with node("div", "", "banner note"):
                    node("b", "You came in by the link of `edgekit fleet up`")
                    node("div", "Set a password, so that you can log in without it.", "dim")
            self._password()
            self._tokens_card()
            if frame.may(Role.ADMIN):
                self._users_card()
            # A form of the browser's own: it works where the live connection does not.
            with node("form", "", "form", method="post", action="/logout"):
                node("input", type="hidden", name="csrf", value=who.csrf)
                node("button", "Log out", "btn")

    def _password(self) -> None:
        made, _ = card("Password", "12 characters or more; your other sessions end")
        made.style(_SPACE)
        with made, node("div", "", "form"):
            with node("label", "Password now"):
                self._old = Field("password now", "", "", "password")
            with node("label", "New password"):
                self._new = Field("new password", "", "", "password")
            node("button", "Set", "btn main").on("click", self._set_password)

    async def _set_password(self) -> None:
        who, accounts = self._frame.identity, self._web.accounts
        new, old = self._new.value, self._old.value

        def work() -> None:
            mine = next((user for user in accounts.users() if user.name == who.user), None)
            # Whoever finds an open browser does not take over the account.
            if mine is not None and mine.has_password and not accounts.check(who.user, old):
                raise _WrongError("that is not your password now")
            accounts.set_password(who.user, new)
            self._web.note(who, "password", who.user)

        if await self._do(work, Role.VIEWER):
            ui.navigate.to("/login")

    def _tokens_card(self) -> None:
        made, _ = card("Tokens", "for programs: Authorization: Bearer …")
        made.style(_SPACE)
        with made:
            with node("div", "", "form"):
                with node("label", "For"):
                    self._name = Field("token for", "grafana", "")
                roles = [role for role in Role if role <= self._frame.identity.role]
                with node("label", "May do"):
                    self._role = Choice({role.word: role.word for role in roles})
                with node("label", "Counts"):
                    self._life = Choice(_LIVES)
                node("button", "Make", "btn main").on("click", self._make_token)
            self._secret = node("div", "", "secret").style("margin: 10px 0")
            self._secret.set_visibility(False)
            self._tokens = node("div", "", "list")
        self._show_tokens()

    async def _make_token(self) -> None:
        made: list[str] = []
        days = float(self._life.value)
        role, name = Role.of(self._role.value), self._name.value

        def work() -> None:
            who, now_s = self._frame.identity, self._web.clock()
            life_s = days * _DAY_S or None
            made.append(self._web.accounts.add_token(who, name, role, life_s, now_s))
            self._web.note(who, "add-token", name, role.word)

        if await self._do(work, role):
            self._secret.set_text(made[0])
            self._secret.set_visibility(True)
            ui.notify("copy it now: it is not shown again")
            self._show_tokens()

    def _show_tokens(self) -> None:
        everybody = self._frame.may(Role.ADMIN)
        mine = None if everybody else self._frame.identity.user
        self._tokens.clear()
        with self._tokens:
            for token in self._web.accounts.tokens(mine):
                with node("div", "", "item"):
                    node("span", token.role, "badge")
                    with node("div"):
                        node("span", f"{token.name} ({token.user}), used ")
                        since(token.used_s)
                    end = node("button", "Take back", "btn bad")
                    end.on("click", lambda t=token.id: self._remove_token(t, mine))

    async def _remove_token(self, token_id: str, user: str | None) -> None:
        def work() -> None:
            self._web.accounts.remove_token(token_id, user)
            self._web.note(self._frame.identity, "remove-token", token_id)

        if await self._do(work, Role.VIEWER if user else Role.ADMIN):
            self._show_tokens()

    def _users_card(self) -> None:
        made, _ = card("Users", "of this fleet")
        made.style(_SPACE)
        with made:
            with node("div", "", "form"):
                with node("label", "Name"):
                    self._user = Field("user", "anna", "")
                with node("label", "May do"):
                    self._user_role = Choice({role.word: role.word for role in Role})
                with node("label", "Password"):
                    self._user_password = Field("password of the user", "", "", "password")
                node("button", "Save", "btn main").on("click", self._save_user)
            self._users = node("div", "", "list").style("margin-top: 10px")
        self._show_users()

    def _show_users(self) -> None:
        self._users.clear()
        with self._users:
            for user in self._web.accounts.users():
                with node("div", "", "item"):
                    node("span", user.role, "badge")
                    node("span", user.name + ("" if user.has_password else " (no password)"))
                    if user.name != self._frame.identity.user:
                        end = node("button", "Remove", "btn bad")
                        end.on("click", lambda n=user.name: self._remove_user(n))

    async def _save_user(self) -> None:
        name, role = self._user.value.strip(), Role.of(self._user_role.value)
        password = self._user_password.value or None

        def work() -> None:
            self._web.accounts.set_user(name, role, password, self._web.clock())
            self._web.note(self._frame.identity, "set-user", name, role.word)

        if await self._do(work, Role.ADMIN):
            self._show_users()

    async def _remove_user(self, name: str) -> None:
        def work() -> None:
            self._web.accounts.remove_user(name)
            self._web.note(self._frame.identity, "remove-user", name)

        if await self._do(work, Role.ADMIN):
            self._show_users()
            self._show_tokens()

    async def _do(self, work: Callable[[], None], role: Role) -> bool:
        """Do what a button says, if its user may, now; say why where it cannot be done."""
        if not self._frame.may(role):
            ui.notify("your role may not do that")
            return False
        try:
            await off_loop(work)
        except EdgekitError as error:
            ui.notify(f"{error.message}{'; ' + error.hint if error.hint else ''}")
            return False
        return True


class _WrongError(EdgekitError):
    """Somebody has typed something that does not fit."""


class Choice(ui.element):
    """One of a few."""

    def __init__(self, choices: dict[str, str]) -> None:
        super().__init__("select")
        self._choices = choices
        self.value = next(iter(choices))
        self.on("change", self._chosen, js_handler="(e) => emit(e.target.value)")
        with self:
            for value, words in choices.items():
                node("option", words, value=value)

    def _chosen(self, event: Any) -> None:  # noqa: ANN401 - NiceGUI's
        if event.args in self._choices:
            self.value = str(event.args)


def add_account(web: Web) -> None:
    """Add ``/account``."""

    @ui.page("/account", title="Account")
    async def account(request: Request) -> None:
        AccountPage(web, Frame(web, request, "Account", "/account"))
