"""Asking a device: a command goes to the real agent by a real broker, and its answer comes back."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit.fleet.ask import ask, command_of
from edgekit.fleet.broker.accounts import hash_password, write_passwords
from edgekit.fleet.broker.mosquitto import command as mosquitto
from edgekit.fleet.broker.mosquitto import prepare
from edgekit.fleet.device_log import device_log
from edgekit.fleet.home import FleetHome
from edgekit.fleet.publisher import BrokerAddress
from edgekit.fleet.settings import Settings, write_settings
from edgekit.fleet.store import open_store
from edgekit.fleet.store.writes import add_device
from edgekit.wire.errors import DeviceError

from ..agent_board import DEVICE, FLEET, MODEL, Board, settings_for, until  # noqa: TID252
from ..agent_broker import Broker, free_port  # noqa: TID252 - helpers of all agent tests

pytestmark = pytest.mark.mosquitto


@pytest.fixture
def address(tmp_path: Path, small_bundle) -> Iterator[BrokerAddress]:
    """A broker with an agent at it that serves a model."""
    folder = tmp_path / "board"
    folder.mkdir()
    with Broker(tmp_path / "broker") as broker:
        board = Board(folder, small_bundle.private_key, settings_for(small_bundle, broker.port))
        board.start()
        try:
            until(board.serves)
            until(lambda: board.status().get("broker", {}).get("connected"))
            yield BrokerAddress("127.0.0.1", broker.port)
        finally:
            board.kill()


def test_a_device_answers(address):
    found = ask(address, FLEET, DEVICE, command_of("1", "ping", {"echo": "hello", "not": None}))
    assert found == {"pong": "hello"}
    again = ask(address, FLEET, DEVICE, command_of("1", "ping", {"echo": "hello"}))
    assert again == found, "it remembers"


def test_a_device_measures_a_bundle(address):
    asked = {"model": MODEL, "threads": 1}
    found = ask(address, FLEET, DEVICE, command_of("2", "benchmark", asked), timeout_s=60)
    assert found["schema"] == "edgekit.bench/1"
    assert found["measured"]["device"] == DEVICE


def test_a_device_tells_its_log(address):
    told = device_log(address, FLEET, DEVICE, 200, "log-1")
    assert any("serves http://" in line.text for line in told)
    assert len(device_log(address, FLEET, DEVICE, 1, "log-2")) == 1


def test_what_a_device_cannot_do_is_said(address):
    with pytest.raises(DeviceError, match=f"{DEVICE}: no command is named pnig") as raised:
        ask(address, FLEET, DEVICE, command_of("3", "pnig", {}))
    assert raised.value.hint == "did you mean ping?"
    with pytest.raises(DeviceError, match="no model 'other' is served"):
        ask(address, FLEET, DEVICE, command_of("4", "benchmark", {"model": "other"}))


def test_who_is_not_there_does_not_answer(address):
    with pytest.raises(DeviceError, match="board-9 does not answer within 1 s"):
        ask(address, FLEET, "board-9", command_of("5", "ping", {}), timeout_s=1)
    nobody = BrokerAddress("127.0.0.1", 1)
    with pytest.raises(DeviceError, match="cannot be reached"):
        ask(nobody, FLEET, DEVICE, command_of("6", "ping", {}))


def test_the_command_line_asks_a_device(tmp_path, small_bundle):
    home = FleetHome.create(tmp_path / "fleet")
    settings = Settings(name=FLEET, broker_port=free_port())
    write_settings(home, settings)
    write_passwords(home, {DEVICE: hash_password("secret")})
    engine = open_store(home.database)
    add_device(engine, DEVICE, {}, time.time())
    engine.dispose()
    prepare(home, settings)
    broker = subprocess.Popen(mosquitto(home), stderr=subprocess.DEVNULL)
    folder = tmp_path / "board"
    folder.mkdir()
    (folder / "password").write_text("secret")
    own = settings_for(small_bundle, settings.broker_port)
    own["broker"] |= {"username": DEVICE, "password_file": "password"}
    board = Board(folder, small_bundle.private_key, own, module=("edgekit", "agent", "run"))
    board.start()
    try:
        until(board.serves)
        until(lambda: board.status().get("broker", {}).get("connected"))
        line = ["bench", small_bundle.path, "--key", small_bundle.public_key, "--home", home.path]
        ran = subprocess.run(
            [sys.executable, "-m", "edgekit", *map(str, line), "--device", DEVICE, "--json"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        found = json.loads(ran.stdout)
        assert found["measured"]["device"] == DEVICE
        assert found["schema"] == "edgekit.bench/1"
        line = ["fleet", "logs", DEVICE, "--home", str(home.path), "-n", "2"]
        ran = subprocess.run(
            [sys.executable, "-m", "edgekit", *line], capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
        assert 1 <= ran.stdout.count("edgekit.agent") <= 2
    finally:
        board.kill()
        broker.terminate()
        broker.wait(10)
