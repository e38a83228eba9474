"""The whole agent as a process: bundles from the device and from the fleet, kill -9, a bad one."""

from __future__ import annotations

import dataclasses
import functools
import http.server
import json
import signal
import threading
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekit.toolchain.pack import write_bundle
from edgekit.wire.canonical import sha256_file
from edgekit.wire.desired import Desired, sign_desired
from edgekit.wire.topics import topic

from ..agent_board import DEVICE, FLEET, MODEL, Board, sample_of, settings_for, until  # noqa: TID252
from ..agent_broker import Broker  # noqa: TID252 - helpers of all agent tests
from ..agent_receiver import Receiver  # noqa: TID252

pytestmark = pytest.mark.mosquitto


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path / "broker") as running:
        yield running


@pytest.fixture
def receiver(broker, tmp_path) -> Iterator[Receiver]:
    made = Receiver(broker.port, tmp_path / "store.db").start()
    yield made
    made.stop()


@pytest.fixture
def board(tmp_path, small_bundle, broker) -> Iterator[Board]:
    folder = tmp_path / "board"
    folder.mkdir()
    settings = settings_for(small_bundle, broker.port)
    made = Board(folder, small_bundle.private_key, settings)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.kill()


@pytest.fixture
def shop(tmp_path) -> Iterator[Path]:
    """A folder that is served over HTTP, without ranges."""
    folder = tmp_path / "shop"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (folder / "port").write_text(str(server.server_port))
    yield folder
    server.shutdown()
    server.server_close()


@pytest.fixture
def release(shop, small_bundle):
    """Put a further release into the shop and return the fleet's order for it."""

    def make(serial: int, members: dict[str, bytes] | None = None, **changes: Any) -> bytes:
        path = shop / f"{serial}.ekb"
        manifest = dataclasses.replace(small_bundle.manifest, serial=serial)
        write_bundle(
            path, manifest, small_bundle.members | (members or {}), small_bundle.private_key
        )
        fields = {
            "bundle_sha256": sha256_file(path),
            "url": f"http://127.0.0.1:{(shop / 'port').read_text()}/{path.name}",
            "size_bytes": path.stat().st_size,
            "serial": serial,
            "order_id": f"order-{serial}",
            "expires": 4_000_000_000 + serial,
            "model": MODEL,
        }
        return sign_desired(Desired(**(fields | changes)), small_bundle.private_key)

    return make


def test_a_bundle_on_the_device_is_tested_and_serves(board, receiver, small_bundle):
    board.start()
    until(board.serves)
    status = board.status()
    assert status["models"][MODEL]["self_test"]["passed"], board.log()
    assert board.infer(sample_of(small_bundle))["outputs"]["y"]["shape"] == [1, 8, 16, 16]
    (hello,) = until(lambda: receiver.of("hello"))
    assert hello["boot_id"] == status["boot_id"]
    assert {"ping", "status", "log-level"} <= set(hello["commands"])
    until(
        lambda: any(kind == "sample" and MODEL in str(body) for _, _, kind, body in receiver.rows())
    )
    until(lambda: MODEL in (receiver.of("reported") or [{"running": {}}])[-1]["running"])
    assert board.kill(signal.SIGTERM) == 0
    assert until(lambda: receiver.of("state"))[-1]["status"] == "offline"


def test_kill_9_loses_and_doubles_nothing(board, receiver):
    for _ in range(3):
        board.start()
        until(board.serves)
        time.sleep(1.0)
        board.kill()
    board.start()
    until(board.serves)
    boots = {boot for boot, *_ in until(receiver.rows)}
    until(lambda: len({boot for boot, *_ in receiver.rows()}) == 4, 90)
    until(lambda: board.status()["outbox"]["messages"] < 30, 90)
    board.kill(signal.SIGTERM)
    rows = receiver.rows()
    for boot in {boot for boot, *_ in rows} - {board.status().get("boot_id")}:
        seqs = sorted(seq for b, seq, *_ in rows if b == boot)
        assert seqs == list(range(len(seqs))), "every message of a boot, each once"
    assert boots


def test_the_fleet_replaces_a_bundle(board, receiver, release, small_bundle):
    board.start()
    until(board.confirmed)
    first = board.serves()
    order = release(2)
    receiver.say(topic(FLEET, DEVICE, "desired"), order, retain=True)
    until(lambda: board.serves() not in (None, first))
    assert board.infer(sample_of(small_bundle))["outputs"]
    last = until(lambda: [r for r in receiver.of("reported") if r["serials"].get(MODEL) == 2])[-1]
    assert last["order_id"] == "order-2"


def test_a_bundle_that_answers_wrong_never_serves(board, receiver, release, small_bundle):
    board.start()
    until(board.confirmed)
    first = board.serves()
    # What it should answer on one sample is the answer to another one.
    wrong = {
        name: small_bundle.members[name.replace("golden/00", "golden/01")]
        for name in small_bundle.members
        if name.startswith("golden/00/") and "input" not in name
    }
    assert wrong, sorted(small_bundle.members)
    receiver.say(topic(FLEET, DEVICE, "desired"), release(2, wrong))
    refused = until(
        lambda: [
            body
            for _, _, kind, body in receiver.rows()
            if kind == "event" and body.get("what") in ("reverted", "refused", "dropped")
        ]
    )
    assert refused[-1]["why"]
    assert board.serves() == first
    assert board.infer(sample_of(small_bundle))["outputs"]


def test_hostile_orders_and_commands_end_nothing(board, receiver, release):
    board.start()
    until(board.serves)
    say = functools.partial(receiver.say, topic(FLEET, DEVICE, "command"))
    say(b"\xff" * 200)
    say(b'{"id": "c-1", "name": "no-such", "args": {}}')
    say(b'{"id": "c-2", "name": "log-level", "args": {"level": "DEBUG"}}')
    say(b'{"id": "c-3", "name": "log-level", "args": {"level": ["x"]}}')
    order = release(3)
    for bad in (b"", b"{}", order[:-7], order.replace(b"order-3", b"order-9"), b"x" * 100_000):
        receiver.say(topic(FLEET, DEVICE, "desired"), bad)
    until(lambda: {"c-1", "c-2", "c-3"} <= {r["id"] for r in receiver.of("reply")})
    replies = {r["id"]: r for r in receiver.of("reply")}
    assert not replies["c-1"]["ok"]
    assert replies["c-2"]["ok"]
    assert not replies["c-3"]["ok"]
    until(lambda: sum(b.get("what") == "order-refused" for *_, b in receiver.rows()) >= 3)
    assert board.process.poll() is None
    assert board.serves()


def test_the_fleet_asks_for_a_benchmark(board, receiver):
    board.start()
    until(board.serves)
    say = functools.partial(receiver.say, topic(FLEET, DEVICE, "command"))
    say(json.dumps({"id": "b-1", "name": "benchmark", "args": {"model": MODEL}}).encode())
    say(b'{"id": "b-2", "name": "benchmark", "args": {"model": "none"}}')
    until(lambda: len(receiver.of("reply")) == 2, 90)
    replies = {r["id"]: r for r in receiver.of("reply")}
    assert replies["b-1"]["ok"], replies["b-1"]
    assert replies["b-1"]["result"]["schema"] == "edgekit.bench/1"
    assert not replies["b-2"]["ok"]
    assert MODEL in replies["b-2"]["hint"]


def test_pipelines_of_the_settings_serve_with_their_models(board, receiver, small_bundle):
    board.settings["pipelines"] = {
        "line": {"steps": [{"model": MODEL}]},
        "loop": {"steps": [{"model": "loop"}]},
        "broken": {"steps": []},
    }
    board.start()
    until(board.confirmed)
    sample = sample_of(small_bundle)
    assert board.infer(sample, "line") == board.infer(sample)
    until(lambda: any(body.get("model") == "broken" for *_, body in receiver.rows()))
    with pytest.raises(urllib.error.HTTPError, match="404"):
        board.infer(sample, "loop")


def test_settings_that_will_not_do_are_named(board):
    board.settings["fleets"] = 1
    board.start()
    assert board.process.wait(20) == 3
    assert "fleets" in board.log()
    assert "agent.json" in board.log()
