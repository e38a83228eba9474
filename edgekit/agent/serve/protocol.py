"""One HTTP/1.1 connection: uvicorn's h11 protocol with a fast lane, timeouts and JSON errors.

h11 takes more time for a small request than a small model. A plain one (a POST to a model, whole in
one piece, with a length and nothing unusual in its head) is therefore read by one regular
expression and answered without ASGI. Everything else, and whatever the expression does not fully
match, goes to h11, which has never seen the plain ones: a connection is with either of the two,
request by request, and the stricter reading decides which.
"""

from __future__ import annotations

import asyncio
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from edgekit.agent.jobs import Job
from edgekit.agent.serve.asgi import CLOSE, App, call_soon
from edgekit.agent.serve.messages import (
    MAX_HEAD_BYTES,
    Request,
    Response,
    head_too_large,
    problem,
)

_MAX_LENGTH_DIGITS = 9
_PLAIN = re.compile(
    rb"POST (/(?:v2/models/[A-Za-z0-9._-]{1,100}/infer|infer/[A-Za-z0-9._-]{1,100})) HTTP/1\.1\r\n"
    rb"((?:[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}:[\t\x20-\x7e]*\r\n){1,50})\r\n"
)
_UNUSUAL = (b"transfer-encoding", b"expect", b"upgrade", b"te", b"trailer")


@dataclass(frozen=True)
class Patience:
    """How long a connection may take for what.

    Attributes:
        head_s: From the first byte of a request to the end of its head.
        idle_s: Between requests.
        write_s: For a client to make room for an answer.
        close_s: For the rest to leave a connection that is being closed.
        max_connections: At a time.
    """

    head_s: float = 10.0
    idle_s: float = 30.0
    write_s: float = 20.0
    close_s: float = 5.0
    max_connections: int = 64


def plain_request(data: bytes) -> Request | None:
    """Read a plain request; None where h11 must look at it.

    Args:
        data: What a connection has received since its last request.
    """
    match = _PLAIN.match(data)
    if match is None or match.end() > MAX_HEAD_BYTES:
        return None
    headers: dict[bytes, bytes] = {}
    lines = match[2].split(b"\r\n")
    for line in lines[:-1]:
        name, _, value = line.partition(b":")
        headers[name.lower()] = value.strip(b" \t")
    length = headers.get(b"content-length", b"")
    if (
        len(headers) != len(lines) - 1  # one stands twice
        or b"host" not in headers
        or not length.isdigit()
        or len(length) > _MAX_LENGTH_DIGITS
        or int(length) != len(data) - match.end()
        or headers.get(b"connection", b"keep-alive").lower() != b"keep-alive"
        or any(name in headers for name in _UNUSUAL)
    ):
        return None
    return Request("POST", match[1].decode("ascii"), headers, data[match.end() :])


class Connection(H11Protocol):
    """One connection; made by :class:`edgekit.agent.serve.server.HttpServer`."""

    def __init__(
        self,
        config: Config,
        state: ServerState,
        patience: Patience,
        loop: asyncio.AbstractEventLoop,
        on_made: Callable[[], None],
    ) -> None:
        super().__init__(config=config, server_state=state, app_state={}, _loop=loop)
        self._application = cast("App", config.app)
        self._patience = patience
        self._on_made = on_made
        self._thread_id = threading.get_ident()
        self._timer: asyncio.TimerHandle | None = None
        self._job: Job | None = None  # of the fast lane
        self._answering = False  # the fast lane has a request
        self._ending = False
        self._held = b""
        self._since = loop.time()  # of the present wait
        self._head_begun = False
        self._paused_since: float | None = None
        self._closing_since: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, unless there are too many."""
        super().connection_made(cast("asyncio.Transport", transport))
        self._on_made()
        if len(self.connections) > self._patience.max_connections:
            self._write_and_close(problem(503, "too many connections", "close some, or try again"))

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self._answering:
            self._held += data
            self.transport.pause_reading()
            return
        idle = self._h11_is_idle()
        request = plain_request(data) if idle and self._paused_since is None else None
        if request is not None and len(request.body) <= self._application.limits.max_bytes:
            self._answer_plain(request)
            return
        if idle and not self._head_begun:
            self._head_begun, self._since = True, self.loop.time()
        super().data_received(data)
        if not self._h11_is_waiting():
            self._head_begun = False

    def connection_lost(self, exc: Exception | None) -> None:
        """Give up what is under way: nobody will read it."""
        if self._job is not None:
            self._job.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Note since when the client reads too slowly."""
        self._paused_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._paused_since = None
        super().resume_writing()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        self._since = self.loop.time()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, in the form that all errors have."""
        error = sys.exc_info()[1]
        status = getattr(error, "error_status_hint", 400)
        if status == 431:  # noqa: PLR2004
            found = head_too_large()
        else:
            found = problem(
                400, f"not an HTTP request: {error or msg}"[:300], "HTTP/1.1 is spoken here"
            )
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._write_and_close(found)
        else:
            self.transport.close()

    def shutdown(self) -> None:
        """Close once the present request is answered."""
        if self._answering:
            self._ending = True
        else:
            super().shutdown()

    def sweep(self) -> None:
        """Close or abort a connection that has used up its time; called once a second."""
        now, patience = self.loop.time(), self._patience
        if self.transport.is_closing():
            if self._closing_since is None:
                self._closing_since = now
            elif now - self._closing_since > patience.close_s:
                self.transport.abort()
        elif self._paused_since is not None:
            if now - self._paused_since > patience.write_s:
                self.transport.abort()
        elif not self._answering and self._h11_is_waiting():
            if self._head_begun and now - self._since > patience.head_s:
                hint = f"{patience.head_s:g} s are allowed"
                self._write_and_close(problem(408, "the request's head took too long", hint))
            elif now - self._since > patience.idle_s:
                self.transport.close()

    def _h11_is_waiting(self) -> bool:
        """Tell whether h11 waits for a request or the rest of its head."""
        return self.cycle is None or self.cycle.response_complete

    def _h11_is_idle(self) -> bool:
        """Tell whether h11 has not a byte of the next request."""
        return (
            self._h11_is_waiting()
            and self.conn.our_state is h11.IDLE
            and self.conn.their_state is h11.IDLE
            and not self.conn.trailing_data[0]
        )

    def _answer_plain(self, request: Request) -> None:
        self._unset_keepalive_if_required()
        self._answering = True
        api = self._application.api
        refused = api.gate(request.method, request.path, request.headers)
        if refused is not None:
            self._reply(refused)
            return
        job = api.handle(request, self._reply_from_anywhere)
        if job is not None and self._answering:
            self._job = job
            delay_s = max(0.0, job.deadline - self._application.clock())
            self._timer = self.loop.call_later(delay_s, job.expire)

    def _reply_from_anywhere(self, response: Response) -> None:
        if threading.get_ident() == self._thread_id:
            self._reply(response)
        else:
            call_soon(self.loop, self._reply, response)

    def _reply(self, response: Response) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._job = self._timer = None
        self._answering = False
        self._since = self.loop.time()
        if self.transport.is_closing():
            return
        if self._ending:
            self._write_and_close(response)
            return
        self.transport.write(response.to_bytes())
        held, self._held = self._held, b""
        if held:
            self.transport.resume_reading()
            self.data_received(held)

    def _write_and_close(self, response: Response) -> None:
        closing = Response(
            response.status, response.body, response.kind, (*response.headers, CLOSE)
        )
        self.transport.write(closing.to_bytes())
        self.transport.close()


def make_config(app: App, patience: Patience) -> Config:
    """Return uvicorn's settings: only its protocol is used; no request of a stranger is logged."""
    asgi: Any = app
    config = Config(
        asgi,
        interface="asgi3",
        http=H11Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=round(patience.idle_s) or 1,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )
    config.load()
    return config
