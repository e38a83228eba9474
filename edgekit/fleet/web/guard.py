"""What stands before every page and interface: who asks, from where, and what an answer may do.

A plain ASGI application around another one. It lets nothing through that is not named open, holds
requests to the server's own names (DNS rebinding), holds changes to its own origin and to the
session's secret (CSRF), and puts the security headers on every answer.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from edgekit.fleet.web.accounts import Accounts, Identity
from edgekit.fleet.web.limits import Limiter

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
# Devices come without a session; a bundle is named by its digest, and its order is signed.
OPEN_PATHS = ("/login", "/healthz", "/bundles/", "/assets/")
# The live connection of a page; its cookie and its origin are checked, it cannot send a header.
LIVE_PATH = "/_nicegui_ws/"
# These read the secret from the form themselves.
FORM_PATHS = frozenset({"/login", "/logout"})
IDENTITY = "edgekit.identity"
# What programs ask; a page's own connection is one.
LIMITED_PATHS = ("/api/", "/csv/", "/metrics")
REQUESTS_BURST, REQUESTS_REFILL_S = 1200, 0.02

# Vue compiles its templates in the browser: without eval and inline scripts NiceGUI does not run.
_CSP = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    b"content-security-policy": _CSP.encode(),
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(), geolocation=(), microphone=()",
}


@dataclass(frozen=True)
class Names:
    """What this server is called.

    Attributes:
        hosts: Host names beside ``localhost`` and IP addresses, which no stranger can point here.
        cookie: Name of the session's cookie.
        is_https: People reach it over TLS.
    """

    hosts: Collection[str]
    cookie: str
    is_https: bool = False

    def knows(self, host: str) -> bool:
        """Tell whether a ``Host`` header names this server."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        if name == "localhost" or name in self.hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


class Guard:
    """Stands before an application.

    Args:
        app: It.
        accounts: Knows who may come in.
        names: Of this server.
        clock: Unix time in seconds.
        monotonic: In seconds.

    Attributes:
        answers: How many answers there were by first digit of their status, for the metrics.
    """

    def __init__(
        self,
        app: App,
        accounts: Accounts,
        names: Names,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._app = app
        self._accounts = accounts
        self._names = names
        self._clock = clock
        self._monotonic = monotonic
        self._limiter = Limiter(REQUESTS_BURST, REQUESTS_REFILL_S)
        self.answers: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] == "http":
            await self._http(scope, receive, self._with_headers(send))
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers, path = _headers(scope), str(scope["path"])
        is_open = path.startswith(OPEN_PATHS)
        if not path.startswith("/bundles/") and not self._names.knows(headers.get("host", "")):
            await _refuse(send, 421, "this server is not called that", "set http.url in fleet.toml")
            return
        if scope["method"] not in SAFE and not _is_own_origin(headers):
            await _refuse(send, 403, "another site has sent this", "use the fleet's own pages")
            return
        identity = await self._identity(headers)
        if identity is None and not is_open:
            await self._unknown(scope, headers, send)
            return
        if identity is not None and not self._may_change(scope, headers, identity, path):
            hint = "send the session's secret as X-CSRF-Token, or use a token"
            await _refuse(send, 403, "this request is not one of the fleet's own pages'", hint)
            return
        if identity is not None and path.startswith(LIMITED_PATHS):
            wait_s = self._limiter.take(f"{identity.user}/{identity.key}", self._monotonic())
            if wait_s:
                after = [(b"retry-after", b"1")]
                await _refuse(send, 429, "that is too many requests", "ask less often", after)
                return
        scope[IDENTITY] = identity
        await self._app(scope, receive, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _headers(scope)
        is_right = self._names.knows(headers.get("host", "")) and _is_own_origin(headers)
        identity = await self._identity(headers) if is_right else None
        if identity is None:
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        scope[IDENTITY] = identity
        await self._app(scope, receive, send)

    def _may_change(
        self, scope: Scope, headers: dict[str, str], identity: Identity, path: str
    ) -> bool:
        if scope["method"] in SAFE or not identity.key:
            return True
        if path in FORM_PATHS or path.startswith(LIVE_PATH):
            return True
        given = headers.get("x-csrf-token", "").encode()
        return hmac.compare_digest(given, identity.csrf.encode())

    async def _identity(self, headers: dict[str, str]) -> Identity | None:
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and token:
            return await asyncio.to_thread(self._accounts.token, token.strip(), self._clock())
        secret = _cookie(headers.get("cookie", ""), self._names.cookie)
        if not secret:
            return None
        return await asyncio.to_thread(self._accounts.session, secret, self._clock())

    async def _unknown(self, scope: Scope, headers: dict[str, str], send: Send) -> None:
        if scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
            query = scope.get("query_string", b"").decode("latin-1")
            there = str(scope["path"]) + (f"?{query}" if query else "")
            to = f"/login?next={quote(there, safe='/')}" if there != "/" else "/login"
            await _answer(send, 303, b"", [(b"location", to.encode())])
            return
        hint = "log in, or send a token: Authorization: Bearer edgekit_…"
        await _refuse(send, 401, "nobody knows you here", hint, [(b"www-authenticate", b"Bearer")])

    def _with_headers(self, send: Send) -> Send:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.answers[f"{message['status'] // 100}xx"] += 1
                given = {key.lower() for key, _ in message.get("headers", ())}
                more = [pair for pair in HEADERS.items() if pair[0] not in given]
                if b"cache-control" not in given:
                    more.append((b"cache-control", b"no-store"))
                message["headers"] = [*message.get("headers", ()), *more]
            await send(message)

        return sending


def identity_of(scope: Scope) -> Identity | None:
    """Return who asks, as the guard has found out."""
    found = scope.get(IDENTITY)
    return found if isinstance(found, Identity) else None


def _headers(scope: Scope) -> dict[str, str]:
    return {
        bytes(k).decode("latin-1").lower(): bytes(v).decode("latin-1") for k, v in scope["headers"]
    }


def _is_own_origin(headers: dict[str, str]) -> bool:
    """Tell whether a page of this server sends this; what is no browser names no origin."""
    if headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        return False
    origin = headers.get("origin")
    if origin is None:
        return True
    try:
        return urlsplit(origin).netloc.lower() == headers.get("host", "").lower()
    except ValueError:
        return False


def _cookie(text: str, name: str) -> str:
    # Other servers of this host leave cookies here, too; one that is malformed hides none of ours.
    for pair in text.split(";"):
        key, _, value = pair.strip().partition("=")
        if key == name:
            return value
    return ""


async def _refuse(
    send: Send,
    status: int,
    message: str,
    hint: str,
    headers: list[tuple[bytes, bytes]] | None = None,
) -> None:
    body = json.dumps({"message": message, "hint": hint}).encode()
    kind = [(b"content-type", b"application/json")]
    await _answer(send, status, body, kind + (headers or []))


async def _answer(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})
