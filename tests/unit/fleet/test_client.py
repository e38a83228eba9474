"""The Python client: the same rows from a folder and from a server."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from edgekit.fleet.client import Fleet, Web, to_plain
from edgekit.wire.errors import ConfigError, DeviceError, TrustError, UsageError

TOKEN = "tk_secret"  # noqa: S105 - a made-up one


class Server:
    """A fleet's server that answers what the test says."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Any]] = []
        self.got: list[tuple[str, dict[str, str], str | None, bytes]] = []
        own = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                parts = urlsplit(self.path)
                own.got.append(
                    (
                        parts.path,
                        dict(parse_qsl(parts.query)),
                        self.headers.get("Authorization"),
                        self.rfile.read(length),
                    )
                )
                status, body = own.answers.pop(0)
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_POST = do_GET  # noqa: N815 - http.server's

            def log_message(self, *_: object) -> None: ...

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def test_devices_come_page_by_page_with_the_token(server):
    server.answers = [
        (200, {"rows": [{"name": "a"}, {"name": "b"}], "total": 3}),
        (200, {"rows": [{"name": "c"}], "total": 3}),
    ]
    with Fleet(server.url, TOKEN) as fleet:
        found = fleet.devices(search="x", labels={"site": "roof"}, descending=True)
    assert [row["name"] for row in found] == ["a", "b", "c"]
    path, asked, token, _ = server.got[0]
    assert path == "/api/v1/devices"
    assert (asked["labels"], asked["search"], asked["descending"]) == ("site=roof", "x", "true")
    assert "state" not in asked
    assert token == f"Bearer {TOKEN}"
    assert server.got[1][1]["offset"] == "2"


def test_a_server_that_never_ends_its_pages_is_left(server):
    server.answers = [(200, {"rows": [{"name": "a"}], "total": 9}), (200, {"rows": [], "total": 9})]
    assert len(Fleet(server.url).devices()) == 1


def test_names_are_quoted_in_paths(server):
    server.answers = [(200, {"row": {}}), (200, [[1, 2.5]]), (200, [])]
    fleet = Fleet(server.url)
    fleet.device("../users")
    assert fleet.series("a/b", "temp_c", 0.0, 1.0) == [(1.0, 2.5)]
    fleet.events("cam-1")
    assert [path for path, *_ in server.got] == [
        "/api/v1/devices/..%2Fusers",
        "/api/v1/devices/a%2Fb/series/temp_c",
        "/api/v1/events",
    ]


def test_a_query_is_posted(server):
    server.answers = [(200, {"columns": ["a"], "rows": [[1]], "truncated": True})]
    answer = Fleet(server.url).query("SELECT 1", rows=5)
    assert (answer.columns, answer.rows, answer.truncated) == (("a",), ((1,),), True)
    assert json.loads(server.got[0][3]) == {"sql": "SELECT 1", "rows": 5, "timeout_s": 30.0}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, {"message": "no token"}, TrustError),
        (403, b"", TrustError),
        (404, {"message": "no device", "hint": "did you mean cam-1?"}, UsageError),
        (500, b"<html>", DeviceError),
        (302, b"", DeviceError),
        (200, b"no json", DeviceError),
    ],
)
def test_an_answer_that_is_none_is_an_error_of_the_right_kind(server, status, body, kind):
    server.answers = [(status, body)]
    with pytest.raises(kind) as caught:
        Fleet(server.url, TOKEN).summary()
    assert TOKEN not in str(caught.value)
    assert len(server.got) == 1


def test_a_server_that_is_not_there_is_said():
    with pytest.raises(DeviceError, match="cannot be reached"):
        Fleet("http://127.0.0.1:1").summary()
    with pytest.raises(ConfigError):
        Web("ftp://x", None)


def test_what_needs_the_folder_says_so(server):
    with pytest.raises(UsageError, match="folder"):
        Fleet(server.url).opened()


@dataclass(frozen=True)
class Row:
    name: str
    labels: dict[str, str] = field(default_factory=dict)
    parts: tuple[Any, ...] = ()


def test_rows_are_plain_values():
    row = Row("a", {"k": "v"}, (Row("b"), 1.5, None))
    assert to_plain([row]) == [
        {
            "name": "a",
            "labels": {"k": "v"},
            "parts": [{"name": "b", "labels": {}, "parts": []}, 1.5, None],
        }
    ]
