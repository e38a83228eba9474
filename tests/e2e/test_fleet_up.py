"""A fleet that runs: the real commands, the real agent, both brokers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgekit.fleet.publisher import BrokerAddress, Connection, Publication
from edgekit.wire.errors import DeviceError

from ..agent_board import until  # noqa: TID252
from ..agent_broker import find_mosquitto, free_port  # noqa: TID252

EDGEKIT = [sys.executable, "-m", "edgekit", "fleet"]


def fleet(home: Path, *words: str) -> dict:
    done = subprocess.run(
        [*EDGEKIT, *words, "--home", str(home), "--json"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    return json.loads(done.stdout)


@pytest.fixture(params=["mosquitto", "amqtt"])
def home(request, tmp_path):
    if request.param == "mosquitto" and find_mosquitto() is None:
        pytest.skip("no mosquitto")
    home = tmp_path / "fleet"
    home.mkdir(mode=0o700)
    mqtt, http = free_port(), free_port()
    (home / "fleet.toml").write_text(
        f'name = "lab"\n[http]\nport = {http}\n[broker]\nkind = "{request.param}"\nport = {mqtt}\n'
    )
    with (tmp_path / "up.json").open("wb") as out:
        process = subprocess.Popen([*EDGEKIT, "up", "--home", str(home), "--json"], stdout=out)
        try:
            until(lambda: (tmp_path / "up.json").stat().st_size or process.poll() is not None)
            assert process.poll() is None
            yield home
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
    assert fleet(home, "status")["parts"] == {}
    assert not list((home / "run").glob("*.pid"))


def account(home: Path, name: str) -> BrokerAddress:
    folder = home / "devices" / name
    broker = json.loads((folder / "agent.json").read_text())["broker"]
    password = (folder / "broker.password").read_text()
    return BrokerAddress(broker["host"], broker["port"], name, password)


def test_a_device_keeps_to_itself_until_it_is_removed(home):
    for name in ("cam-1", "cam-2"):
        fleet(home, "device", "add", name, "--target", "rpi5")
    until(lambda: can_connect(home, "cam-2"))
    heard: list[str] = []
    owner = Connection(
        account(home, "cam-2"),
        hears=["edgekit/1/lab/cam-2/#"],
        on_message=lambda t, _: heard.append(t),
    )
    with owner, Connection(account(home, "cam-1")) as thief:
        thief.publish([Publication("edgekit/1/lab/cam-2/state", b"x", retain=True)])
        owner.publish([Publication("edgekit/1/lab/cam-2/reply", b"mine")])
        until(lambda: heard)
        time.sleep(0.5)
        assert heard == ["edgekit/1/lab/cam-2/reply"]
        assert thief._client.is_connected()
        fleet(home, "device", "remove", "cam-1")
        until(lambda: not thief._client.is_connected())
    assert not can_connect(home, "cam-1")


def can_connect(home: Path, name: str) -> bool:
    try:
        with Connection(account(home, name)):
            return True
    except DeviceError:
        return False


def test_the_real_agent_is_seen(home):
    made = fleet(home, "device", "add", "cam-1", "--target", "x86-64-vnni", "--label", "site=roof")
    config = Path(made["devices"][0]["config"])
    document = json.loads(config.read_text()) | {"http": {"port": free_port()}}
    config.write_text(json.dumps(document))
    agent = subprocess.Popen([sys.executable, "-m", "edgekit.agent.main", "--config", str(config)])
    try:
        until(lambda: fleet(home, "devices", "--state", "online")["devices"])
        row = fleet(home, "devices")["devices"][0]
        assert (row["name"], row["labels"]) == ("cam-1", {"site": "roof"})
    finally:
        agent.terminate()
        agent.wait(30)
