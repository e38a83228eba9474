"""Requests and responses as plain data, and what each error is in HTTP."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgekit.agent.jobs import (
    BadRequestError,
    BusyError,
    CancelledError,
    DroppedError,
    LateError,
    UnknownModelError,
)
from edgekit.wire.errors import BuildError, ConfigError, EdgekitError, MissingToolError

JSON = b"application/json"
BINARY = b"application/octet-stream"
LENGTH_HEADER = b"inference-header-content-length"

MAX_HEAD_BYTES = 16 << 10

REASONS = {
    200: b"OK",
    400: b"Bad Request",
    401: b"Unauthorized",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    411: b"Length Required",
    413: b"Content Too Large",
    415: b"Unsupported Media Type",
    421: b"Misdirected Request",
    422: b"Unprocessable Content",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
}
# The first class that fits decides.
_STATUS: tuple[tuple[type[EdgekitError], int], ...] = (
    (UnknownModelError, 404),
    (BadRequestError, 400),
    (BusyError, 429),
    (DroppedError, 429),
    (LateError, 504),
    (CancelledError, 503),
    (ConfigError, 422),
    (MissingToolError, 415),
)


@dataclass(frozen=True)
class Request:
    """A request whose body has been read.

    Attributes:
        method: In capitals.
        path: Without the query, percent signs decoded.
        headers: By lower-case name; of a repeated one, the last.
        body: Empty where there is none.
    """

    method: str
    path: str
    headers: Mapping[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Response:
    """What a client gets.

    Attributes:
        status: HTTP's code.
        body: Whole.
        kind: Media type.
        headers: Beside content-type and content-length, in lower case.
    """

    status: int
    body: bytes
    kind: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def all_headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers with type and length, which a client may not reinterpret."""
        return [
            (b"content-type", self.kind),
            (b"content-length", b"%d" % len(self.body)),
            (b"x-content-type-options", b"nosniff"),
            *self.headers,
        ]

    def to_bytes(self) -> bytes:
        """Return the response as it goes over an HTTP/1.1 connection that stays open."""
        reason = REASONS.get(self.status, b"")
        lines = [b"HTTP/1.1 %d %s" % (self.status, reason)]
        lines += [b"%s: %s" % header for header in self.all_headers()]
        return b"\r\n".join([*lines, b"", self.body])


def json_response(document: object, status: int = 200) -> Response:
    """Return a JSON response.

    Raises:
        ValueError: The document holds NaN or infinity.
    """
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    # A prediction may hold half a surrogate pair, which UTF-8 has no form for.
    return Response(status, text.encode("utf-8", "replace"))


def problem(status: int, message: str, hint: str | None, *headers: tuple[bytes, bytes]) -> Response:
    """Return an error in the one form that all of them have."""
    body = json.dumps({"error": message, "hint": hint or ""}, separators=(",", ":"))
    return Response(status, body.encode(), headers=headers)


def head_too_large() -> Response:
    """Return the refusal of a flood of headers."""
    return problem(431, "the request's head is too large", f"at most {MAX_HEAD_BYTES:,} bytes")


def error_response(error: EdgekitError) -> Response:
    """Return the response that an error is."""
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
    if isinstance(error, BusyError):
        seconds = max(1, math.ceil(error.retry_after_s))
        return problem(429, error.message, error.hint, (b"retry-after", b"%d" % seconds))
    if isinstance(error, DroppedError):
        return problem(429, error.message, error.hint, (b"retry-after", b"1"))
    hint = error.hint
    if isinstance(error, BuildError) and hint is None:
        hint = "the model failed; see the agent's log"
    return problem(status, error.message, hint)
