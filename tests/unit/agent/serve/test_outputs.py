from __future__ import annotations

import contextlib
import json
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from edgekit.agent.inputs import create_input
from edgekit.agent.outputs import create_output, output_names
from edgekit.agent.outputs.webhook import Webhook
from edgekit.wire.errors import ConfigError


def test_every_file_is_an_output() -> None:
    assert output_names() == ["file", "mqtt", "webhook"]
    with pytest.raises(ConfigError, match='no output named "fil"'):
        create_output("fil", {})


def lines(path: Path) -> list[int]:
    return [json.loads(line)["n"] for line in path.read_text().splitlines()]


def test_a_file_is_rotated_and_loses_nothing_within_its_bounds(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    output = create_output("file", {"path": str(path), "max_bytes": 1000, "keep": 2})
    for n in range(300):
        output.send({"n": n})
    output.close()
    files = [tmp_path / f"results.jsonl{suffix}" for suffix in (".2", ".1", "")]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f.name for f in files)
    kept = [n for file in files for n in lines(file)]
    assert kept == list(range(300 - len(kept), 300))
    assert all(file.stat().st_size <= 1000 for file in files)


def test_a_file_that_cannot_be_written_is_counted(tmp_path: Path) -> None:
    output: Any = create_output("file", {"path": str(tmp_path / "r")})
    (tmp_path / "r").mkdir()
    output.send({"n": 1})
    assert output.lost == 1
    with pytest.raises(ConfigError, match="no such folder"):
        create_output("file", {"path": "/no/such/r"})


def test_half_a_line_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "r"
    path.write_bytes(b'{"n":0}\n{"n":')  # as a crash may leave it
    output: Any = create_output("file", {"path": str(path)})
    output.send({"n": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 3, before[1]))
        output.send({"n": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    output.send({"n": 3})
    assert output.lost == 1
    good = []
    for line in path.read_text().splitlines():
        with contextlib.suppress(ValueError):
            good.append(json.loads(line)["n"])
    assert good == [0, 1, 3]


class Receiver:
    """A web server that answers with the statuses it is given, then with 200."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.headers: list[str | None] = []
        self.statuses: list[int] = []
        self.delay_s = 0.0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.headers.append(self.headers["authorization"])
                time.sleep(outer.delay_s)
                status = outer.statuses.pop(0) if outer.statuses else 200
                if status == 200:
                    outer.got.append(json.loads(body))
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    self.end_headers()

            def log_message(self, *_args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?a=1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


def hook(url: str, **more: Any) -> Webhook:
    options: dict[str, Any] = {"timeout_s": 1.0, "retries": 2, "queue": 5, "first_wait_s": 0.01}
    return Webhook(url, {"authorization": "Bearer x"}, **(options | more))


def test_a_webhook_posts_every_result(receiver) -> None:
    output = hook(receiver.url)
    for n in range(4):
        output.send({"n": n})
    output.close()
    assert [r["n"] for r in receiver.got] == [0, 1, 2, 3]
    assert (output.sent, output.lost) == (4, 0)
    assert receiver.headers[0] == "Bearer x"


def test_what_may_pass_is_tried_again_and_what_will_not_is_not(receiver) -> None:
    receiver.statuses = [503, 429, 200, 400, 200, 500, 500, 500]
    output = hook(receiver.url)
    for n in range(4):
        output.send({"n": n})
    output.close()
    assert [r["n"] for r in receiver.got] == [0, 2]
    assert (output.sent, output.lost) == (2, 2)
    assert receiver.statuses == []


def test_a_webhook_that_is_away_holds_nothing_up() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        output = hook(url, retries=0)
        start_s = time.monotonic()
        for n in range(1000):
            output.send({"n": n})
        assert time.monotonic() - start_s < 2
        output.close()
    assert (output.sent, output.lost) == (0, 1000)


def test_a_webhook_that_is_slow_is_given_up(receiver) -> None:
    receiver.delay_s = 3
    output = hook(receiver.url, timeout_s=0.1, retries=0)
    output.send({"n": 1})
    start_s = time.monotonic()
    output.close()
    assert time.monotonic() - start_s < 2
    assert output.lost == 1


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"url": "ftp://x/"},
        {"url": "http:///path"},
        {"url": "http://x:99999/"},
        {"url": "http://x/a b"},
        {"url": "http://x/\r\nevil: 1"},
        {"url": "http://x/", "headers": {"a": "b\r\nc: d"}},
        {"url": "http://x/", "headers": {"a": 1}},
        {"url": "http://x/", "retries": 100},
    ],
)
def test_a_wrong_webhook_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        create_output("webhook", options)


@pytest.fixture(scope="module")
def broker(tmp_path_factory) -> Iterator[int]:
    program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    if not Path(program).exists():
        pytest.skip("mosquitto is not installed")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    config = tmp_path_factory.mktemp("broker") / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    process = subprocess.Popen(
        [program, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        time.sleep(0.05)
    yield port
    process.terminate()
    process.wait(10)


def test_results_go_through_a_real_broker_to_an_input(broker: int) -> None:
    source: Any = create_input(
        "mqtt",
        {"host": "127.0.0.1", "port": broker, "topic": "edge/+/in", "max_bytes": 100},
        time.monotonic,
    )
    stop, got = threading.Event(), []

    def read() -> None:
        got.extend((s.name, json.loads(s.data)["n"]) for s in source.samples(stop))

    reader = threading.Thread(target=read)
    reader.start()
    output: Any = create_output("mqtt", {"host": "127.0.0.1", "port": broker, "topic": "edge/a/in"})
    end = time.monotonic() + 10
    while not got and time.monotonic() < end:  # until the subscription stands
        output.send({"n": 0})
        time.sleep(0.1)
    output.send({"n": 1, "text": "x" * 200})
    for n in range(2, 5):
        output.send({"n": n})
    output.close()
    while len({n for _, n in got}) < 4 and time.monotonic() < end:
        time.sleep(0.05)
    stop.set()
    reader.join(10)
    assert {name for name, _ in got} == {"edge/a/in"}
    assert sorted({n for _, n in got}) == [0, 2, 3, 4]
    assert source.refused == 1
    assert output.lost == 0


def test_a_broker_that_is_away_costs_the_rest_alone() -> None:
    output: Any = create_output("mqtt", {"host": "127.0.0.1", "port": 1, "topic": "t"})
    for n in range(150):
        output.send({"n": n})
    output.close()
    assert 40 <= output.lost <= 60


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"topic": ""},
        {"topic": "a/#"},
        {"topic": "t", "port": 0},
        {"topic": "t", "qos": 2},
        {"topic": "t", "password_file": "/no/such"},
        {"topic": "t", "ca_file": "/no/such"},
        {"topic": "t", "tpoic": "t"},
    ],
)
def test_wrong_broker_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        create_output("mqtt", options)


def test_a_huge_message_is_not_read_and_the_next_one_is(broker: int) -> None:
    topic = "edge/huge/in"
    options = {"host": "127.0.0.1", "port": broker, "topic": topic, "max_bytes": 1000}
    source: Any = create_input("mqtt", options, time.monotonic)
    stop, got = threading.Event(), []

    def run() -> None:
        got.extend(sample.data for sample in source.samples(stop))

    def publish(payload: str) -> None:
        script = (
            f"from paho.mqtt import publish; publish.single('{topic}', {payload}, 1, port={broker})"
        )
        subprocess.run([sys.executable, "-c", script], check=True)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        end = time.monotonic() + 20
        while not got and time.monotonic() < end:
            publish("b'first'")  # until it has subscribed
        tracemalloc.start()
        publish("bytes(30_000_000)")
        seen = len(got)
        while len(got) == seen and time.monotonic() < end:
            publish("b'next'")
        assert got[-1] == b"next"
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
        stop.set()
        thread.join(10)
    assert not thread.is_alive()
