"""The agent over real sockets: what it answers, and what it refuses without being hurt."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekit.agent.engine import Engine, info_of
from edgekit.agent.lane import Limits
from edgekit.agent.serve.asgi import BodyLimits
from edgekit.agent.serve.protocol import Patience
from edgekit.agent.serve.server import HttpServer, HttpSettings
from edgekit.runtime.pipeline import Pipeline, load_pipeline
from edgekit.wire.bundle import open_bundle
from edgekit.wire.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
DOC = ROOT / "docs" / "serving.md"
BODY = BodyLimits(max_bytes=1 << 20, max_total_bytes=3 << 20, timeout_s=1.0)
PATIENCE = Patience(head_s=1.0, idle_s=3.0, write_s=2.0, close_s=1.0, max_connections=40)


@pytest.fixture(scope="module")
def bundle_path(tmp_path_factory) -> Path:
    """The bundle of handwritten digits, built as a user builds it."""
    folder = tmp_path_factory.mktemp("digits")
    line = ["build", "digits-cnn", "--target", "rpi5", "-o", str(folder), "--quiet"]
    edgekit = str(Path(sys.executable).with_name("edgekit"))
    subprocess.run([edgekit, *line], check=True, capture_output=True, cwd=ROOT)
    (path,) = folder.glob("*.ekb")
    return path


@pytest.fixture(scope="module")
def pipeline(bundle_path: Path) -> tuple[Any, Pipeline]:
    with open_bundle(bundle_path, None) as bundle:
        return bundle.manifest, load_pipeline(bundle.manifest, bundle.read)


def start(pipeline: tuple[Any, Pipeline], **settings: Any) -> tuple[Engine, HttpServer]:
    engine = Engine()
    engine.serve(info_of(pipeline[0]), pipeline[1], limits=Limits(queue=8))
    made = HttpSettings(port=0, **{"body": BODY, "patience": PATIENCE, **settings})
    server = HttpServer(engine, made)
    server.start()
    return engine, server


@pytest.fixture(scope="module")
def agent(pipeline) -> Iterator[tuple[Engine, HttpServer]]:
    engine, server = start(pipeline)
    yield engine, server
    server.stop()
    engine.close()


@pytest.fixture
def server(agent: tuple[Engine, HttpServer]) -> HttpServer:
    return agent[1]


def ask(
    server: HttpServer, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, Any, dict[str, str]]:
    """Send one request; the body of the answer is decoded where it is JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    with contextlib.closing(connection):
        connection.request(method, path, body, sent)
        answer = connection.getresponse()
        data = answer.read()
    named = {name.lower(): value for name, value in answer.getheaders()}
    kind = named["content-type"]
    return answer.status, json.loads(data) if data and "json" in kind else data, named


def say(server: HttpServer, data: bytes, timeout_s: float = 10.0) -> bytes:
    """Send raw bytes and read until the server closes, or is silent."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=timeout_s) as sock:
        with contextlib.suppress(OSError):
            sock.sendall(data)
        received = b""
        with contextlib.suppress(OSError):
            while chunk := sock.recv(1 << 16):
                received += chunk
        return received


def picture(value: int = 200) -> bytes:
    image = Image.fromarray(np.full((8, 8), value, np.uint8))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def tensor_request(values: Any = None) -> dict[str, Any]:
    data = [0.5] * 64 if values is None else values
    return {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": data}]}


INFER = "/v2/models/digits-cnn/infer"


def test_v2_says_what_it_is(server) -> None:
    assert ask(server, "GET", "/v2")[1]["extensions"] == ["binary_tensor_data"]
    assert ask(server, "GET", "/v2/health/live")[1] == {"live": True}
    assert ask(server, "GET", "/v2/health/ready")[:2] == (200, {"ready": True})
    assert ask(server, "GET", "/v2/models")[1] == {"models": ["digits-cnn"]}
    assert ask(server, "GET", "/v2/models/digits-cnn/ready")[1]["ready"] is True
    described = ask(server, "GET", "/v2/models/digits-cnn/versions/1")[1]
    assert described["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8]}]


def test_tensors_as_json_and_in_binary_give_the_models_own_answer(server, pipeline) -> None:
    x = np.random.default_rng(5).random((1, 1, 8, 8), dtype=np.float32)
    expected = pipeline[1].run({"image": x})["logits"]
    status, answer, _ = ask(server, "POST", INFER, json.dumps(tensor_request(x.ravel().tolist())))
    assert status == 200
    assert np.float32(answer["outputs"][0]["data"]).tolist() == expected.ravel().tolist()

    request = tensor_request()
    del request["inputs"][0]["data"]
    request["inputs"][0]["parameters"] = {"binary_data_size": 256}
    request["parameters"] = {"binary_data_output": True}
    head = json.dumps(request).encode()
    length = str(len(head))
    for more in ({}, {"connection": "close"}):  # the fast lane, and h11
        status, body, headers = ask(
            server,
            "POST",
            INFER,
            head + x.tobytes(),
            inference_header_content_length=length,
            content_type="application/octet-stream",
            **more,
        )
        assert status == 200
        blob = body[int(headers["inference-header-content-length"]) :]
        assert blob == expected.tobytes()


def test_a_picture_in_a_prediction_out(server, pipeline) -> None:
    status, answer, headers = ask(server, "POST", "/infer/digits-cnn", picture())
    assert status == 200
    assert answer == pipeline[1].predict(picture())
    assert headers["x-content-type-options"] == "nosniff"


def test_a_chunked_body_is_a_body(server) -> None:
    chunks = iter([picture()[:40], picture()[40:]])
    status, answer, _ = ask(server, "POST", "/infer/digits-cnn", chunks)
    assert (status, len(answer["top"])) == (200, 3)


def test_many_requests_on_one_connection_in_both_lanes(server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    body = json.dumps(tensor_request()).encode()
    answers = []
    for index in range(30):
        if index % 3 == 2:
            connection.request("GET", "/v2/models/digits-cnn")
        elif index % 3:
            # "expect" sends this one to h11
            connection.request("POST", INFER, iter([body]), {"te": "trailers"})
        else:
            connection.request("POST", INFER, body)
        answer = connection.getresponse()
        answers.append((answer.status, bool(answer.read())))
    connection.close()
    assert answers == [(200, True)] * 30


def test_pipelined_requests_are_answered_in_order(server) -> None:
    body = json.dumps(tensor_request() | {"id": "%d"}).encode()
    head = b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"
    parts = []
    for index in range(6):
        numbered = body.replace(b"%d", b"%d" % index)
        parts.append(head % (INFER.encode(), len(numbered)) + numbered)
    last = b"GET /v2 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    received = say(server, b"".join([*parts, last]))
    assert re.findall(rb'"id":"(\d)"', received) == [b"%d" % i for i in range(6)]
    assert received.count(b"HTTP/1.1 200") == 7


def test_a_request_in_many_pieces(server) -> None:
    body = json.dumps(tensor_request()).encode()
    head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    data = head.encode() + b"Connection: close\r\n\r\n" + body
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        for start_at in range(0, len(data), 37):
            sock.sendall(data[start_at : start_at + 37])
            time.sleep(0.001)
        received = sock.makefile("rb").read()
    assert received.startswith(b"HTTP/1.1 200")


def test_the_page_and_what_it_shows(server) -> None:
    status, page, headers = ask(server, "GET", "/")
    text = page.decode()
    assert status == 200
    assert "default-src 'none'" in headers["content-security-policy"]
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", text)
    assert "prefers-color-scheme" in text
    assert 'name="viewport"' in text

    ask(server, "POST", "/infer/digits-cnn", picture(17))
    (model,) = ask(server, "GET", "/live")[1]["models"]
    assert model["last"]["prediction"]["top"]
    assert model["last"]["picture"] is True
    status, shown, headers = ask(server, "GET", "/live/digits-cnn/picture")
    assert (status, shown, headers["content-type"]) == (200, picture(17), "image/png")


def test_metrics_are_prometheus_text(server) -> None:
    before = ask(server, "GET", "/metrics")[1].decode()
    ask(server, "POST", "/infer/digits-cnn", picture())
    ask(server, "POST", "/infer/digits-cnn", b"no picture")
    after = ask(server, "GET", "/metrics")[1].decode()

    def value(text: str, name: str) -> float:
        (found,) = re.findall(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found)

    for outcome in ("served", "refused"):
        name = f'edgekit_requests_total{{model="digits-cnn",outcome="{outcome}"}}'
        assert value(after, name) == value(before, name) + 1
    label = 'model="digits-cnn"'
    bucket = f'edgekit_latency_seconds_bucket{{{label},le="+Inf"}}'
    assert value(after, bucket) == value(after, f"edgekit_latency_seconds_count{{{label}}}")
    assert value(after, "process_resident_memory_bytes") > 1e7
    lines = [line for line in after.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z_]+(\{.*\})? [0-9.e+-]+", line) for line in lines)


def problem(answer: tuple[int, Any, dict[str, str]]) -> tuple[int, str, str]:
    status, document, headers = answer
    assert set(document) == {"error", "hint"}, document
    assert headers["content-type"] == "application/json"
    return status, document["error"], document["hint"]


def test_an_unknown_model_is_404_with_the_names(server) -> None:
    for path in ("/infer/digit-cnn", "/v2/models/digit-cnn/infer"):
        status, error, hint = problem(ask(server, "POST", path, b"x"))
        assert (status, error) == (404, 'no model "digit-cnn"')
        assert hint == "did you mean digits-cnn? served here: digits-cnn"
    assert problem(ask(server, "GET", "/v2/models/other"))[0] == 404
    assert problem(ask(server, "GET", "/admin"))[0] == 404


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("GET", INFER, "POST"), ("POST", "/v2", "GET, HEAD"), ("DELETE", "/metrics", "GET, HEAD")],
)
def test_a_wrong_method_is_405_and_says_which(server, method, path, allow) -> None:
    answer = ask(server, method, path)
    assert problem(answer)[0] == 405
    assert answer[2]["allow"] == allow


def test_head_has_no_body(server) -> None:
    status, body, headers = ask(server, "HEAD", "/metrics")
    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) > 100


def test_wrong_tensors_are_400_with_what_was_expected(server) -> None:
    document = tensor_request()
    document["inputs"][0]["shape"] = [1, 3, 8, 8]
    status, error, hint = problem(ask(server, "POST", INFER, json.dumps(document)))
    assert (status, hint) == (400, "expected FP32 [1, 1, 8, 8]")
    assert error == 'input "image": shape is [1, 3, 8, 8]'
    assert problem(ask(server, "POST", INFER, b"{"))[0] == 400
    assert problem(ask(server, "POST", INFER, b""))[0] == 400


@pytest.mark.parametrize(
    "data", [b"x", b"\x89PNG\r\n\x1a\n", picture()[:50], b"\xff\xd8\xff\xe0" + b"\0" * 500]
)
def test_a_corrupt_picture_is_422(server, data) -> None:
    status, error, _ = problem(ask(server, "POST", "/infer/digits-cnn", data))
    assert status == 422
    assert "picture" in error


def test_a_picture_bomb_is_422_before_it_is_unpacked(server) -> None:
    out = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(out, "PNG")
    status, error, _ = problem(ask(server, "POST", "/infer/digits-cnn", out.getvalue()))
    assert (status, "over the limit" in error) == (422, True)


def test_a_body_over_the_limit_is_413_and_not_read(server) -> None:
    def send(head: str, piece: bytes) -> tuple[bytes, int]:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
            sock.sendall(head.encode())
            sent = 0
            with contextlib.suppress(OSError):
                while sent < 100 << 20:
                    sock.sendall(piece)
                    sent += len(piece)
            received = b""
            with contextlib.suppress(OSError):
                while chunk := sock.recv(1 << 16):
                    received += chunk
            return received, sent

    before = rss_mib()
    piece = bytes(1 << 20)
    head = "POST /infer/digits-cnn HTTP/1.1\r\nhost: localhost\r\n"
    received, _ = send(head + f"content-length: {100 << 20}\r\n\r\n", piece)
    assert received.startswith(b"HTTP/1.1 413")
    assert b'"hint":"at most 1,048,576 bytes"' in received
    chunk = b"%x\r\n%s\r\n" % (len(piece), piece)
    received, _ = send(head + "transfer-encoding: chunked\r\n\r\n", chunk)
    assert received.startswith(b"HTTP/1.1 413")
    assert rss_mib() - before < 30


def rss_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def test_large_bodies_at_a_time_have_a_limit_together(server) -> None:
    head = b"POST /infer/digits-cnn HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1048576\r\n\r\n"
    held = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(4)]
    answers = []
    for sock in held:
        sock.sendall(head + bytes(1_040_000))
    for sock in held:
        with contextlib.suppress(OSError):
            answers.append(sock.recv(4096)[:12])
        sock.close()
    assert b"HTTP/1.1 503" in answers


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 40_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"x: y\r\n" * 10_000 + b"\r\n",
        b"A" * 100_000,
    ],
)
def test_a_flood_of_headers_is_refused(server, data) -> None:
    received = say(server, data)
    assert received.startswith(b"HTTP/1.1 4")
    assert b'{"error":' in received


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"GET /\x01 HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 30 + b"\r\n\r\n",
        b"POST /infer/x HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"POST /infer/digits-cnn HTTP/1.1\r\nhost: localhost\r\ncontent-length: -5\r\n\r\n",
        b"POST /infer/digits-cnn HTTP/1.1\r\nhost: localhost\r\ncontent-length: +5\r\n\r\nhello",
        b"POST /infer/digits-cnn HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello",
        b"POST /infer/digits-cnn HTTP/1.1\r\nhost : localhost\r\ncontent-length: 5\r\n\r\nhello",
    ],
)
def test_what_is_no_http_is_400_in_the_same_form(server, data) -> None:
    received = say(server, data)
    assert received.startswith(b"HTTP/1.1 400"), received
    assert set(json.loads(received.partition(b"\r\n\r\n")[2])) == {"error", "hint"}


def test_a_request_smuggled_behind_a_length_is_not_answered(server) -> None:
    inner = b"GET /v2 HTTP/1.1\r\nhost: localhost\r\n\r\n"
    data = (
        b"POST /infer/digits-cnn HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n"
        b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n" % len(inner)
    )
    assert say(server, data + inner, 4).count(b"HTTP/1.1 200") <= 1
    assert b'"edgekit"' not in say(server, data[:-5] + inner, 4)


def test_a_slow_head_and_a_slow_body_are_cut_off(server) -> None:
    for data, status in (
        (b"GET /v2 HT", b"408"),
        (
            b"POST /infer/digits-cnn HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99\r\n\r\nx",
            b"408",
        ),
    ):
        start_s = time.monotonic()
        received = say(server, data, 15)
        assert received.startswith(b"HTTP/1.1 " + status)
        assert time.monotonic() - start_s < 8


def test_a_slow_head_is_not_prolonged_by_dribbling(server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        start_s = time.monotonic()
        with contextlib.suppress(OSError):
            sock.sendall(b"GET /v2 HTTP/1.1\r\n")
            while time.monotonic() - start_s < 10:
                sock.sendall(b"x: y\r\n")
                time.sleep(0.1)
        assert time.monotonic() - start_s < 6


def test_an_idle_connection_is_closed(server) -> None:
    start_s = time.monotonic()
    assert say(server, b"", 15) == b""
    assert 2 < time.monotonic() - start_s < 8


def test_a_client_that_does_not_read_is_dropped(pipeline) -> None:
    engine, server = start(pipeline)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", server.port))
    request = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n"
    sock.settimeout(0.5)
    start_s = time.monotonic()
    closed = False
    while time.monotonic() - start_s < 15 and not closed:
        try:
            sock.send(request * 200)
        except TimeoutError:
            continue
        except OSError:
            closed = True
    sock.close()
    assert closed
    server.stop()
    engine.close()


def test_too_many_connections_are_told_so(pipeline) -> None:
    engine, server = start(pipeline, patience=Patience(max_connections=3))
    held = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
    time.sleep(0.2)
    assert say(server, b"").startswith(b"HTTP/1.1 503")
    held.pop().close()
    time.sleep(0.2)
    assert ask(server, "GET", "/v2")[0] == 200
    for sock in held:
        sock.close()
    server.stop()
    engine.close()


class Slow:
    """A task that takes its time."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)

    def predict(self, run: Any, _data: bytes) -> dict[str, Any]:
        self.entered.release()
        self.gate.wait(20)
        run({})
        return {"text": "done"}

    def agreement(self, reference: Any, other: Any) -> Any:
        raise NotImplementedError


@pytest.fixture
def slow() -> Iterator[tuple[Engine, HttpServer, Slow]]:
    from edgekit.agent.jobs import ModelInfo

    engine, task = Engine(), Slow()
    limits = Limits(queue=2, deadline_s=10)
    engine.serve(
        ModelInfo("slow", "1", "Slow", "slow"), Pipeline(task, lambda _f: {}), limits=limits
    )
    server = HttpServer(engine, HttpSettings(port=0, body=BODY, patience=PATIENCE))
    server.start()
    yield engine, server, task
    task.gate.set()
    server.stop()
    engine.close()


@pytest.mark.parametrize("more", [{}, {"connection": "close"}])
def test_a_full_queue_is_429_with_retry_after(slow, more) -> None:
    engine, server, task = slow
    threads = [
        threading.Thread(target=ask, args=(server, "POST", "/infer/slow", b"x")) for _ in range(3)
    ]
    threads[0].start()
    task.entered.acquire()
    for thread in threads[1:]:
        thread.start()
    while engine.stats("slow").queued < 2:
        time.sleep(0.01)
    answer = ask(server, "POST", "/infer/slow", b"x", **more)
    assert problem(answer)[0] == 429
    assert int(answer[2]["retry-after"]) >= 1
    task.gate.set()
    for thread in threads:
        thread.join(10)


@pytest.mark.parametrize("more", [{}, {"connection": "close"}])
def test_a_deadline_is_504(slow, more) -> None:
    _, server, task = slow
    answer = ask(server, "POST", "/infer/slow", b"x", edgekit_deadline_ms="100", **more)
    assert problem(answer)[0] == 504
    task.gate.set()


@pytest.mark.parametrize("more", [b"", b"te: trailers\r\n"])
def test_who_goes_away_is_not_worked_for(slow, more) -> None:
    engine, server, task = slow
    head = b"POST /infer/slow HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n"
    socks = []
    for _ in range(2):
        sock = socket.create_connection(("127.0.0.1", server.port))
        sock.sendall(head + more + b"\r\nx")
        socks.append(sock)
        time.sleep(0.1)
    task.entered.acquire()
    socks[1].close()
    time.sleep(0.3)
    task.gate.set()
    end = time.monotonic() + 5
    while engine.stats("slow").cancelled < 1 and time.monotonic() < end:
        time.sleep(0.01)
    assert engine.stats("slow").cancelled == 1
    assert not task.entered.acquire(blocking=False)
    socks[0].close()


def test_what_is_under_way_is_answered_when_the_server_stops(slow) -> None:
    _, server, task = slow
    answers: list[Any] = []
    threads = [
        threading.Thread(
            target=lambda m=more: answers.append(ask(server, "POST", "/infer/slow", b"x", **m))
        )
        for more in ({}, {"te": "trailers"})
    ]
    for thread in threads:
        thread.start()
    task.entered.acquire()
    time.sleep(0.2)
    threading.Timer(0.3, task.gate.set).start()
    server.stop()
    for thread in threads:
        thread.join(10)
    assert [status for status, _, _ in answers] == [200, 200]
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.port), timeout=1)


def test_a_connection_that_stays_open_is_closed_with_its_answer(slow) -> None:
    _, server, task = slow
    head = b"POST /infer/slow HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(head + b"x")
        task.entered.acquire()
        threading.Timer(0.2, task.gate.set).start()
        server.stop(grace_s=10)
        received = sock.makefile("rb").read()
    assert received.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in received


@pytest.fixture(scope="module")
def guarded(pipeline) -> Iterator[HttpServer]:
    engine, server = start(pipeline, token="s3cret")  # noqa: S106
    yield server
    server.stop()
    engine.close()


def test_a_token_is_asked_for_before_anything_else(guarded) -> None:
    body = json.dumps(tensor_request())
    for more in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic s3cret"}):
        for path in (INFER, "/v2/models", "/metrics", "/live", "/live/x/picture", "/nothing"):
            method, sent = ("POST", body) if path == INFER else ("GET", None)
            answer = ask(guarded, method, path, sent, **more)
            assert problem(answer)[0] == 401
            assert answer[2]["www-authenticate"] == "Bearer"
    assert ask(guarded, "POST", INFER, body, authorization="Bearer s3cret")[0] == 200
    assert ask(guarded, "GET", "/v2/health/ready")[0] == 200
    assert ask(guarded, "GET", "/")[0] == 200


def test_a_page_of_the_web_cannot_ask_under_its_own_name(server) -> None:
    assert problem(ask(server, "GET", "/live", host="evil.example"))[0] == 421
    body = json.dumps(tensor_request())
    assert problem(ask(server, "POST", INFER, body, host="evil.example:80"))[0] == 421
    assert ask(server, "GET", "/live", host=f"localhost:{server.port}")[0] == 200


def test_it_listens_on_loopback_alone(server) -> None:
    assert HttpSettings().host == "127.0.0.1"
    text = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    listening = re.findall(rf"([0-9A-F]+):{server.port:04X} [0-9A-F]+:0000 0A", text)
    assert listening == ["0100007F"]


def test_a_taken_port_is_said(server) -> None:
    with pytest.raises(ConfigError, match=r"cannot listen on 127\.0\.0\.1"):
        HttpServer(Engine(), HttpSettings(port=server.port)).start()


@pytest.fixture(scope="module")
def fuzz() -> Any:
    """The fuzzer, which the benchmark runs for longer."""
    place = ROOT / "benchmarks" / "agent_load" / "fuzz.py"
    spec = importlib.util.spec_from_file_location("agent_fuzz", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def handles() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_fuzzed_requests_end_in_an_error_each_and_leave_nothing(agent, fuzz) -> None:
    _, server = agent
    fuzz.throw(server.port, fuzz.fuzzed(1, 150, picture()))
    time.sleep(0.3)
    before, open_before = rss_mib(), handles()
    statuses = fuzz.throw(server.port, fuzz.fuzzed(2, 600, picture()))
    time.sleep(0.5)
    assert statuses.get("500", 0) == 0, statuses
    assert {"200", "400", "404", "405", "422"} <= set(statuses)
    assert rss_mib() - before < 12
    assert handles() - open_before <= 2
    assert ask(server, "POST", "/infer/digits-cnn", picture())[0] == 200


def test_the_examples_of_the_documentation_work(bundle_path, tmp_path) -> None:
    text = DOC.read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "digit.png").write_bytes(picture())
    (tmp_path / "digits-cnn.ekb").write_bytes(bundle_path.read_bytes())
    key = tmp_path / "dev.pub.pem"
    edgekit = str(Path(sys.executable).with_name("edgekit"))
    shown = subprocess.run(
        [edgekit, "keys", "show", "--json"], capture_output=True, text=True, check=True
    )
    key.write_text(json.loads(shown.stdout)["public_pem"])
    port = free_port()
    script = tmp_path / "serve.py"
    script.write_text(program.replace("8080", str(port)))
    process = subprocess.Popen([sys.executable, str(script)], cwd=tmp_path, env={**os.environ})
    try:
        wait_for_port(port)
        commands = [b.replace("8080", str(port)) for b in blocks if "curl" in b]
        assert len(commands) >= 3
        for command in commands:
            done = subprocess.run(
                ["/bin/sh", "-euc", command],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, (command, done.stderr)
            assert "error" not in done.stdout, (command, done.stdout)
    finally:
        process.terminate()
        process.wait(10)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def wait_for_port(port: int) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.1)
    pytest.fail("the server does not listen")
