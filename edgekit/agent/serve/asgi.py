"""The agent's answers as an ASGI application: bodies within bounds, slow and vanished clients.

Not Starlette: ten routes need no router, and a board has better use for its 6 MB.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgekit.agent.jobs import Job
from edgekit.agent.serve.api import Api
from edgekit.agent.serve.messages import (
    MAX_HEAD_BYTES,
    Request,
    Response,
    head_too_large,
    problem,
)

CLOSE = (b"connection", b"close")
# A client that is refused while it still sends may read the answer for so long.
_LINGER_S = 2.0


@dataclass(frozen=True)
class BodyLimits:
    """What a request's body may take.

    Attributes:
        max_bytes: Of one body.
        max_total_bytes: Of all bodies that are being read at a time.
        timeout_s: From the head to the body's end.
    """

    max_bytes: int = 8 << 20
    max_total_bytes: int = 64 << 20
    timeout_s: float = 30.0


class _GoneError(Exception):
    """The client has closed its connection."""


class _RefusedError(Exception):
    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


class App:
    """The ASGI application.

    Args:
        api: What is answered.
        limits: Of bodies.
        clock: Seconds that only grow; the engine's.
    """

    def __init__(self, api: Api, limits: BodyLimits, clock: Callable[[], float]) -> None:
        self.api = api
        self.limits = limits
        self.clock = clock
        self._held_bytes = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI
        """Answer one request."""
        headers = dict(scope["headers"])
        try:
            # h11 bounds a head that comes in pieces; this one may have come whole.
            if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEAD_BYTES:
                raise _RefusedError(head_too_large())  # noqa: TRY301
            request = await self._request(scope["method"], scope["path"], headers, receive)
            await _send(send, await self._answer(request, receive))
        except _RefusedError as refused:
            await self._refuse(refused.response, receive, send)
        except _GoneError:
            return

    async def _request(
        self,
        method: str,
        path: str,
        headers: dict[bytes, bytes],
        receive: Any,  # noqa: ANN401 - ASGI
    ) -> Request:
        refused = self.api.gate(method, path, headers)
        if refused is not None:
            raise _RefusedError(refused)
        if method == "POST":
            return Request(method, path, headers, await self._body(headers, receive))
        if headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers:
            raise _RefusedError(problem(400, f"{method} takes no body", "leave it out"))
        return Request(method, path, headers)

    async def _body(self, headers: dict[bytes, bytes], receive: Any) -> bytes:  # noqa: ANN401
        stated = headers.get(b"content-length", b"0")
        if not stated.isdigit() or len(stated) > 15 or int(stated) > self.limits.max_bytes:  # noqa: PLR2004
            raise _RefusedError(self._too_large())
        chunks: list[bytes] = []
        held = 0
        try:
            async with asyncio.timeout(self.limits.timeout_s):
                more = True
                while more:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise _GoneError
                    chunk, more = message.get("body", b""), message.get("more_body", False)
                    held += len(chunk)
                    self._held_bytes += len(chunk)
                    if held > self.limits.max_bytes:
                        raise _RefusedError(self._too_large())
                    if self._held_bytes > self.limits.max_total_bytes:
                        busy = problem(503, "too many large requests at a time", "try again")
                        raise _RefusedError(busy)
                    if chunk:
                        chunks.append(chunk)
        except TimeoutError:
            slow = problem(
                408, "the body took too long", f"{self.limits.timeout_s:g} s are allowed"
            )
            raise _RefusedError(slow) from None
        finally:
            self._held_bytes -= held
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _answer(self, request: Request, receive: Any) -> Response:  # noqa: ANN401
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Response] = loop.create_future()

        def settle(response: Response) -> None:
            if not answered.done():
                answered.set_result(response)

        def reply(response: Response) -> None:
            call_soon(loop, settle, response)

        job = self.api.handle(request, reply)
        if job is None:
            return await answered
        return await self._wait(job, answered, receive)

    async def _wait(self, job: Job, answered: asyncio.Future[Response], receive: Any) -> Response:  # noqa: ANN401
        gone = asyncio.ensure_future(receive())
        try:
            left_s = max(0.0, job.deadline - self.clock())
            waiting = {answered, gone}
            await asyncio.wait(waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if gone.done() and not answered.done():
                job.cancel()
                raise _GoneError
            if not answered.done():
                job.expire()
            return await answered
        finally:
            gone.cancel()

    def _too_large(self) -> Response:
        most = self.limits.max_bytes
        return problem(413, "the body is too large", f"at most {most:,} bytes")

    async def _refuse(self, response: Response, receive: Any, send: Any) -> None:  # noqa: ANN401
        """Answer, read on for a moment without keeping anything, and close.

        Closing at once would make the kernel reset the connection, and the answer would be lost.
        """
        response = Response(
            response.status, response.body, response.kind, (*response.headers, CLOSE)
        )
        await _send(send, response, last=False)
        try:
            async with asyncio.timeout(_LINGER_S):
                message = await receive()
                while message["type"] == "http.request" and message.get("more_body", False):
                    message = await receive()
        except TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def call_soon(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *args: object) -> None:
    """Call something in the loop's thread; nothing where the loop has ended."""
    try:
        loop.call_soon_threadsafe(call, *args)
    except RuntimeError:
        if not loop.is_closed():
            raise


async def _send(send: Any, response: Response, *, last: bool = True) -> None:  # noqa: ANN401
    await send(
        {
            "type": "http.response.start",
            "status": response.status,
            "headers": response.all_headers(),
        }
    )
    await send({"type": "http.response.body", "body": response.body, "more_body": not last})
