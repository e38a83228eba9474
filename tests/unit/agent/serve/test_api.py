"""Which request gets which answer, and what a stranger can write into the log."""

from __future__ import annotations

import json
import logging
import socket
from typing import Any

import pytest

from edgekit.agent.serve.api import Api
from edgekit.agent.serve.messages import Request, Response
from edgekit.agent.serve.server import HttpServer, HttpSettings


def ask(api: Api, method: str, path: str) -> Response:
    refused = api.gate(method, path, {})
    if refused is not None:
        return refused
    replies: list[Response] = []
    api.handle(Request(method, path), replies.append)
    return replies[0]


@pytest.mark.parametrize("what", ["", "/ready"])
def test_another_version_than_the_one_that_serves_is_not_there(
    engine: Any, echo: Any, what: str
) -> None:
    echo("3")
    api = Api(engine)
    assert ask(api, "GET", f"/v2/models/echo{what}").status == 200
    assert ask(api, "GET", f"/v2/models/echo/versions/3{what}").status == 200
    answer = ask(api, "GET", f"/v2/models/echo/versions/2{what}")
    assert (answer.status, json.loads(answer.body)["hint"]) == (404, "served here: version 3")


def test_a_request_for_another_version_is_not_answered_by_this_one(engine: Any, echo: Any) -> None:
    echo("3")
    api = Api(engine)
    assert api.gate("POST", "/v2/models/echo/versions/3/infer", {}) is None
    refused = api.gate("POST", "/v2/models/echo/versions/2/infer", {})
    assert refused is not None
    assert refused.status == 404
    assert ask(api, "GET", "/v2/models/no/versions/3/ready").status == 404


def test_what_is_no_http_does_not_fill_the_log(
    engine: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server = HttpServer(engine, HttpSettings(port=0))
    server.start()
    caplog.set_level(logging.INFO, logger="edgekit")
    try:
        for head in (b"\x16\x03\x01", b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket"):
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
                client.sendall(head + b"\r\nConnection: Upgrade\r\n\r\n")
                assert client.recv(100).startswith(b"HTTP/1.1 ")
    finally:
        server.stop()
    assert [record.getMessage() for record in caplog.records] == []
