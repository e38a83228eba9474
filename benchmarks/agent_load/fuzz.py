"""HTTP requests that are broken in all kinds of ways, and what they are answered with."""

from __future__ import annotations

import contextlib
import json
import random
import re
import select
import socket
from collections.abc import Iterator

INFER = "/v2/models/digits-cnn/infer"
PATHS = (
    *[INFER, "/infer/digits-cnn"] * 3,
    "/v2/models/digits-cnn",
    "/v2",
    "/live",
    "/",
    "/metrics",
)
_PATIENCE_S = 0.03
METHODS = ("POST", "POST", "POST", "GET", "PUT", "X")


def tensor_request() -> bytes:
    """Return a request for the model of handwritten digits that is right."""
    data = [0.5] * 64
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": data}
    return json.dumps({"inputs": [tensor]}).encode()


def fuzzed(seed: int, count: int, picture: bytes) -> Iterator[bytes]:
    """Yield requests, most of them broken somewhere.

    Args:
        seed: The same gives the same requests.
        count: How many.
        picture: A picture file that the model takes.
    """
    rng = random.Random(seed)  # noqa: S311 - to be repeatable, not secret
    for _ in range(count):
        path = rng.choice(PATHS)
        if rng.random() < 0.1:  # noqa: PLR2004
            path = "/" + "".join(chr(rng.randrange(33, 126)) for _ in range(rng.randrange(30)))
        body = bytearray(
            rng.choice([tensor_request(), picture, rng.randbytes(rng.randrange(300)), b""])
        )
        for _ in range(rng.randrange(4)):
            if body:
                body[rng.randrange(len(body))] = rng.randrange(256)
        yield _sent(rng, path, bytes(body))


def _sent(rng: random.Random, path: str, body: bytes) -> bytes:
    length = len(body) if rng.random() < 0.9 else rng.randrange(2 * len(body) + 2)  # noqa: PLR2004
    lines = [
        f"{rng.choice(METHODS)} {path} HTTP/1.1",
        "host: localhost",
        f"content-length: {length}",
    ]
    if rng.random() < 0.3:  # noqa: PLR2004
        size = rng.choice([len(body), 0, 100, -1, 10**9, "x"])
        lines.append(f"inference-header-content-length: {size}")
    if rng.random() < 0.2:  # noqa: PLR2004
        lines.append(rng.choice(["connection: close", "transfer-encoding: chunked", "te: x"]))
    raw = bytearray("\r\n".join([*lines, "", ""]).encode() + body)
    if rng.random() < 0.2:  # noqa: PLR2004
        raw[rng.randrange(len(raw))] = rng.randrange(256)
    if rng.random() < 0.1:  # noqa: PLR2004
        del raw[rng.randrange(len(raw)) :]
    return bytes(raw)


def throw(port: int, requests: Iterator[bytes]) -> dict[str, int]:
    """Send requests to loopback, each on a connection of its own, and count the statuses."""
    statuses: dict[str, int] = {}
    for raw in requests:
        received = b""
        with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
            with contextlib.suppress(OSError):
                sock.sendall(raw)
                # A server may take the end of what is sent for a client that has gone.
                select.select([sock], [], [], _PATIENCE_S)
                sock.shutdown(socket.SHUT_WR)
            with contextlib.suppress(OSError):
                while chunk := sock.recv(1 << 16):
                    received += chunk
        for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received) or [b"none"]:
            statuses[status.decode()] = statuses.get(status.decode(), 0) + 1
    return statuses
