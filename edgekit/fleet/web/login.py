"""Logging in and out: plain pages without a script, so that little stands before the door."""

from __future__ import annotations

import asyncio
import hmac
import html
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs

from fastapi import FastAPI, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from edgekit.fleet.ports import TOKEN_FILE
from edgekit.fleet.web.accounts import SESSION_S
from edgekit.fleet.web.guard import Names, identity_of
from edgekit.fleet.web.limits import Limiter
from edgekit.fleet.web.shared import Web

BURST, REFILL_S = 10, 30.0
_MOST_FORM_BYTES = 8192
_MOST_TOKEN_BYTES = 200
# Each takes 32 MiB and a tenth of a second of a core.
_HASHES_AT_ONCE = 2
_WRONG = "That name and password do not belong together."
_USED = (
    "That link was used already, or is from an earlier start. `edgekit fleet up` prints a new one."
)


def add_login(
    app: FastAPI, web: Web, names: Names, head: str, monotonic: Callable[[], float] = time.monotonic
) -> None:
    """Add ``/login`` and ``/logout``.

    Args:
        app: Where.
        web: The fleet.
        names: Of the server, and of its cookie.
        head: HTML of the style.
        monotonic: In seconds.
    """
    door = Door(web, names, head, monotonic)
    app.get("/login", include_in_schema=False)(door.show)
    app.post("/login", include_in_schema=False)(door.enter)
    app.post("/logout", include_in_schema=False)(door.leave)


class Door:
    """The login page and what it does; see :func:`add_login`."""

    def __init__(self, web: Web, names: Names, head: str, monotonic: Callable[[], float]) -> None:
        self._web = web
        self._names = names
        self._head = head
        self._monotonic = monotonic
        self._limiter = Limiter(BURST, REFILL_S)
        self._hashing = asyncio.Semaphore(_HASHES_AT_ONCE)

    async def show(self, request: Request) -> Response:
        """Show the form, or let in who has the link that `edgekit fleet up` has printed."""
        following = safe_next(request.query_params.get("next", ""))
        if identity_of(request.scope) is not None:
            return RedirectResponse(following, 303)
        token = request.query_params.get("token")
        if token is None:
            return self._form(following)
        wait_s = self._limiter.take(_address(request), self._monotonic())
        if wait_s:
            return self._too_many(following, wait_s)
        if not await asyncio.to_thread(take_token, self._web.opened.home.run, token):
            await asyncio.to_thread(self._web.note, "–", "login-failed", "link", _address(request))
            return self._form(following, _USED, 403)
        secret = await asyncio.to_thread(self._web.accounts.first_login, self._web.clock())
        await asyncio.to_thread(self._web.note, "admin", "login", "link", _address(request))
        return self._welcome(secret, following)

    async def enter(self, request: Request) -> Response:
        """Check a name and a password."""
        form = await _form_of(request)
        following, user = safe_next(form.get("next", "")), form.get("user", "")[:64]
        # Whoever tries many names from one place, and whoever tries one from many, waits.
        keys, now_s = (_address(request), f"user {user}"), self._monotonic()
        wait_s = max(self._limiter.take(key, now_s) for key in keys)
        if wait_s:
            return self._too_many(following, wait_s)
        async with self._hashing:
            is_right = await asyncio.to_thread(
                self._web.accounts.check, user, form.get("password", "")
            )
        if not is_right:
            await asyncio.to_thread(self._web.note, user, "login-failed", "", _address(request))
            return self._form(following, _WRONG, 403)
        for key in keys:
            self._limiter.forget(key)
        secret = await asyncio.to_thread(self._web.accounts.log_in, user, self._web.clock())
        await asyncio.to_thread(self._web.note, user, "login", "", _address(request))
        return self._welcome(secret, following)

    async def leave(self, request: Request) -> Response:
        """End the session, if its own page asks for that."""
        form, identity = await _form_of(request), identity_of(request.scope)
        if identity is not None and identity.key:
            if not hmac.compare_digest(form.get("csrf", "").encode(), identity.csrf.encode()):
                return self._form("/", "Log out from a page of the fleet.", 403)
            await asyncio.to_thread(self._web.accounts.log_out, identity.key)
            await asyncio.to_thread(self._web.note, identity, "logout")
        response = RedirectResponse("/login", 303)
        response.delete_cookie(self._names.cookie, path="/", httponly=True, samesite="strict")
        return response

    def _welcome(self, secret: str, following: str) -> Response:
        # A page that goes on by itself, not a redirect: a strict cookie does not come along on one
        # that began at another site, such as a web mail.
        response = HTMLResponse(
            f'<!doctype html><meta http-equiv="refresh" content="0;url={html.escape(following)}">'
        )
        response.set_cookie(
            self._names.cookie,
            secret,
            max_age=int(SESSION_S),
            path="/",
            secure=self._names.is_https,
            httponly=True,
            samesite="strict",
        )
        return response

    def _too_many(self, following: str, wait_s: float) -> Response:
        response = self._form(following, f"Too many tries. Wait {wait_s:.0f} seconds.", 429)
        response.headers["retry-after"] = str(int(wait_s) + 1)
        return response

    def _form(self, following: str, wrong: str = "", status: int = 200) -> Response:
        alarm = f'<p class="wrong" role="alert">{html.escape(wrong)}</p>' if wrong else ""
        fleet = html.escape(self._web.name)
        return HTMLResponse(
            f"""<!doctype html><html lang="en"><head><title>Log in · {fleet}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">{self._head}</head>
<body class="door"><form method="post" action="/login">
<h1>Fleet {fleet}</h1>{alarm}
<label>Name <input name="user" autocomplete="username" required autofocus maxlength="64"></label>
<label>Password <input name="password" type="password" autocomplete="current-password" required
 maxlength="1024"></label>
<input type="hidden" name="next" value="{html.escape(following)}">
<button class="btn main">Log in</button>
<p>The first time, open the link that <code class="code">edgekit fleet up</code> prints.</p>
</form></body></html>""",
            status,
        )


def take_token(run: Path, given: str) -> bool:
    """Tell whether this is the token of the first login; it is used up then."""
    path = run / TOKEN_FILE
    try:
        with path.open("rb") as file:
            kept = file.read(_MOST_TOKEN_BYTES)
        if not kept or not hmac.compare_digest(kept, given.encode("utf-8", "replace")):
            return False
        path.unlink()  # of two who come at once, one finds it gone
    except OSError:
        return False
    return True


def safe_next(path: str) -> str:
    """Return where to go after the login: a page of this server and of no other."""
    is_own = path.startswith("/") and not path.startswith(("//", "/\\", "/login", "/logout"))
    return path if is_own and path.isprintable() and "\\" not in path else "/"


async def _form_of(request: Request) -> dict[str, str]:
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > _MOST_FORM_BYTES:
            return {}
    try:
        found = parse_qs(data.decode(), max_num_fields=10, keep_blank_values=True)
    except ValueError:
        return {}
    return {key: values[0] for key, values in found.items()}


def _address(request: Request) -> str:
    return request.client.host if request.client else "–"
