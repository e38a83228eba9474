"""The lifecycle's hands over a bad network, and a verification that takes its time."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekit.agent import hands as hands_module
from edgekit.agent.hands import AgentHands
from edgekit.agent.slots import Trust, open_slots
from edgekit.runtime import trial_events as on
from edgekit.runtime.trial_state import Order
from tests.agent_board import until

DATA = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(DATA).hexdigest()

Answer = Callable[[http.server.BaseHTTPRequestHandler, int], None]


class Server:
    """Serves the data; the first answers are as bad as it is told."""

    def __init__(self, *bad: Answer, ranges: bool = True) -> None:
        self.offsets: list[int] = []
        left = list(bad)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(handler) -> None:  # noqa: N805
                asked = handler.headers.get("Range", "bytes=0-")
                offset = int(asked.removeprefix("bytes=").rstrip("-"))
                self.offsets.append(offset)
                if left:
                    left.pop(0)(handler, offset)
                    return
                start = offset if ranges else 0
                handler.send_response(206 if start else 200)
                handler.send_header("Content-Length", str(len(DATA) - start))
                handler.end_headers()
                handler.wfile.write(DATA[start:])

            def log_message(handler, *_args: object) -> None:  # noqa: N805
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/bundle.ekb"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def breaks_off(handler: http.server.BaseHTTPRequestHandler, offset: int) -> None:
    """Promise all, send a third of it and close the connection in the proper way."""
    handler.send_response(206 if offset else 200)
    handler.send_header("Content-Length", str(len(DATA) - offset))
    handler.end_headers()
    handler.wfile.write(DATA[offset : offset + len(DATA) // 3])


def breaks_off_unstated(handler: http.server.BaseHTTPRequestHandler, offset: int) -> None:
    handler.send_response(206 if offset else 200)
    handler.end_headers()
    handler.wfile.write(DATA[offset : offset + len(DATA) // 3])


def is_no_http(handler: http.server.BaseHTTPRequestHandler, _offset: int) -> None:
    handler.wfile.write(b"<html>Log in to the hotel's network</html>\r\n\r\n")


def breaks_a_chunk(handler: http.server.BaseHTTPRequestHandler, offset: int) -> None:
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(206 if offset else 200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(b"%x\r\n" % len(DATA) + DATA[offset : offset + 300_000])


@pytest.fixture
def posted() -> list[on.Event]:
    return []


@pytest.fixture
def hands(
    tmp_path: Path, posted: list[on.Event], monkeypatch: pytest.MonkeyPatch
) -> Iterator[AgentHands]:
    monkeypatch.setattr(hands_module, "_RETRY_S", (0.01,))
    slots = open_slots(tmp_path / "slots", Trust(()))
    nothing: Any = None
    made = AgentHands(
        slots, nothing, (), lambda _model, event: posted.append(event), lambda _m, _r: None
    )
    yield made
    made.stop()
    slots.close()


def order(url: str) -> Order:
    return Order("o-1", SHA256, 1, len(DATA), 4e9, url)


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize(
    "bad", [breaks_off, breaks_off_unstated, is_no_http, breaks_a_chunk], ids=lambda f: f.__name__
)
def test_a_connection_that_breaks_is_taken_up_where_it_broke(
    hands: AgentHands, posted: list[on.Event], bad: Answer, ranges: bool
) -> None:
    server = Server(bad, bad, ranges=ranges)
    try:
        hands.fetch("m", order(server.url))
        until(lambda: posted, 20)
    finally:
        server.close()
    assert posted == [on.Fetched(SHA256)]
    assert server.offsets == sorted(server.offsets)
    assert bad is is_no_http or server.offsets[-1] > 0


def test_what_is_whole_and_another_file_is_not_asked_for_again(
    hands: AgentHands, posted: list[on.Event]
) -> None:
    def another(handler: http.server.BaseHTTPRequestHandler, _offset: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "9")
        handler.end_headers()
        handler.wfile.write(b"not found")

    server = Server(another)
    try:
        hands.fetch("m", order(server.url))
        until(lambda: posted, 20)
    finally:
        server.close()
    assert isinstance(posted[0], on.FetchFailed)
    assert server.offsets == [0]


def test_a_fetch_that_was_stopped_writes_nothing_into_the_next_one(
    hands: AgentHands, posted: list[on.Event]
) -> None:
    go, again = threading.Event(), threading.Event()

    def slow(handler: http.server.BaseHTTPRequestHandler, _offset: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(DATA)))
        handler.end_headers()
        handler.wfile.write(DATA[:300_000])
        go.wait(20)
        with contextlib.suppress(OSError):
            handler.wfile.write(DATA[300_000:])

    def after(handler: http.server.BaseHTTPRequestHandler, offset: int) -> None:
        handler.send_response(206 if offset else 200)
        handler.send_header("Content-Length", str(len(DATA) - offset))
        handler.end_headers()
        handler.wfile.write(DATA[offset : offset + 100_000])
        handler.wfile.flush()
        again.set()
        time.sleep(0.5)
        handler.wfile.write(DATA[offset + 100_000 :])

    server = Server(slow, after)
    try:
        hands.fetch("m", order(server.url))
        until(lambda: server.offsets, 20)
        time.sleep(0.2)
        hands.cancel("m", SHA256)
        hands.fetch("m", order(server.url))
        again.wait(1.0)  # in vain where the second waits for the first
        go.set()
        until(lambda: posted, 20)
    finally:
        go.set()
        server.close()
    assert posted == [on.Fetched(SHA256)]
    assert (hands._slots.root / "incoming" / SHA256 / "bundle.ekb").read_bytes() == DATA


def test_devices_do_not_fetch_again_in_step(
    hands: AgentHands, posted: list[on.Event], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(hands_module, "_RETRY_S", (8.0,))
    caplog.set_level(logging.INFO, logger="edgekit")
    shares = iter((0.0, 1.0))
    monkeypatch.setattr(hands, "_random", lambda: next(shares))
    for count in (1, 2):
        hands.fetch("m", order("http://127.0.0.1:9/"))
        until(lambda count=count: caplog.text.count("again in") == count, 20)  # type: ignore[misc]
        hands.cancel("m", SHA256)
    assert "again in 4 s" in caplog.text
    assert "again in 8 s" in caplog.text
    assert posted == []


class SlowSlots:
    """Verifies for as long as the test wants."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.began = threading.Semaphore(0)

    def accept(self, _model: str, _sha256: str) -> Any:
        self.began.release()
        self.go.wait(20)
        raise OSError(5, "Input/output error")


def test_a_verification_holds_nobody_up_and_tells_what_came_of_it() -> None:
    posted: list[on.Event] = []
    slots: Any = SlowSlots()
    nothing: Any = None
    hands = AgentHands(slots, nothing, (), lambda _m, e: posted.append(e), lambda _m, _r: None)
    hands.verify("m", SHA256)
    assert slots.began.acquire(timeout=20)
    assert posted == []
    slots.go.set()
    until(lambda: posted, 20)
    assert posted == [on.FetchFailed(SHA256, "the bundle cannot be read: Input/output error")]


def test_nothing_comes_of_a_verification_that_was_cancelled() -> None:
    posted: list[on.Event] = []
    slots: Any = SlowSlots()
    nothing: Any = None
    hands = AgentHands(slots, nothing, (), lambda _m, e: posted.append(e), lambda _m, _r: None)
    hands.verify("m", SHA256)
    assert slots.began.acquire(timeout=20)
    hands.cancel("m", SHA256)
    # The same bundle is ordered anew: one result is to come, and not the first.
    hands.verify("m", SHA256)
    slots.go.set()
    assert slots.began.acquire(timeout=20)
    until(lambda: posted, 20)
    assert len(posted) == 1
