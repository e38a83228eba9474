"""A small web server on the loopback that resumes, breaks off and lies on demand."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@dataclass
class Site:
    """What the server serves, and what it was asked.

    Attributes:
        files: Content by path.
        redirects: Where paths lead.
        break_after: Bytes after which the connection breaks off, once for each entry.
        failures: Status codes that the next requests get.
        ranges: Whether it knows ranges.
        commit: What a HEAD request says the files are of, as a hub does.
        asked: Path and Range header of every request.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    break_after: list[int] = field(default_factory=list)
    failures: list[int] = field(default_factory=list)
    ranges: bool = True
    commit: str = "c" * 40
    asked: list[tuple[str, str | None]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site, wanted = self.site, self.headers.get("Range")
        site.asked.append((self.path, wanted))
        if site.failures:
            self._end(site.failures.pop(0))
        elif self.path in site.redirects:
            self._end(302, Location=site.redirects[self.path])
        elif self.path not in site.files:
            self._end(404)
        else:
            self._send(site.files[self.path], wanted)

    def do_HEAD(self) -> None:
        data = self.site.files.get(self.path)
        self.send_response(404 if data is None else 200)
        if data is not None:
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", self.site.commit)
        self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()

    def _send(self, data: bytes, wanted: str | None) -> None:
        start = 0
        match = re.fullmatch(r"bytes=(\d+)-", wanted or "")
        if match and self.site.ranges:
            start = int(match[1])
            if start >= len(data):
                self._end(416, **{"Content-Range": f"bytes */{len(data)}"})
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        body = data[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.site.break_after:
            self.wfile.write(body[: self.site.break_after.pop(0)])
            self.close_connection = True
        else:
            self.wfile.write(body)

    def _end(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Say nothing."""


@pytest.fixture
def site() -> Iterator[Site]:
    found = Site()
    handler = type("Handler", (Handler,), {"site": found})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        found.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        server.shutdown()
        thread.join()
