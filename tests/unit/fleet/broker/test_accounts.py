"""Accounts: hashes that mosquitto takes, and rights that end at a device's own topics."""

from __future__ import annotations

import stat
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.fleet.broker import credentials
from edgekit.fleet.broker.accounts import (
    hash_password,
    is_password,
    new_password,
    read_passwords,
    with_roles,
    write_passwords,
)
from edgekit.fleet.broker.mosquitto import command, prepare
from edgekit.fleet.home import FleetHome
from edgekit.fleet.publisher import BrokerAddress, Connection, Publication
from edgekit.fleet.settings import Settings
from edgekit.wire.errors import ConfigError, DeviceError

from ....agent_broker import free_port  # noqa: TID252 - helpers of all tests with a broker


@pytest.fixture
def home(tmp_path) -> FleetHome:
    return FleetHome.create(tmp_path / "fleet")


@given(st.text(max_size=60), st.text(max_size=60))
def test_a_hash_is_of_one_password(password, other):
    hashed = hash_password(password)
    assert is_password(password, hashed)
    assert is_password(other, hashed) == (other == password)


@given(st.text(max_size=60))
def test_what_is_no_hash_is_nobodys(text):
    assert not is_password("password", text)


def test_a_password_is_kept_where_its_owner_reads_it_alone(home):
    name, password = credentials(home, "ingest")
    assert name == ".ingest"
    assert credentials(home, "ingest") == (name, password)
    assert credentials(home, "web")[1] != password
    assert len({new_password() for _ in range(50)}) == 50
    for path in home.broker.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_passwords_are_read_as_they_were_written(home):
    assert read_passwords(home) == {}
    whole = with_roles(home, {"cam-1": hash_password("secret")})
    write_passwords(home, whole)
    assert read_passwords(home) == whole
    assert set(whole) == {"cam-1", ".ingest", ".web", ".alerts"}
    assert with_roles(home, whole) == whole, "those that hold are left"
    (home.broker / "passwords").write_text("cam-1\n")
    with pytest.raises(ConfigError, match="not a line of a password file") as raised:
        read_passwords(home)
    assert str(raised.value.where).endswith("passwords:1")


@pytest.mark.mosquitto
def test_a_device_can_use_its_own_topics_alone(home):
    settings = Settings(name="north", broker_port=free_port())
    write_passwords(home, {"cam-1": hash_password("one"), "cam-2": hash_password("two")})
    prepare(home, settings)
    process = subprocess.Popen(command(home), stderr=subprocess.DEVNULL)
    try:
        one = BrokerAddress("127.0.0.1", settings.broker_port, "cam-1", "one")
        web = BrokerAddress("127.0.0.1", settings.broker_port, *credentials(home, "web"))
        heard: list[tuple[str, bytes]] = []
        spied: list[str] = []
        fleet = Opened(web, ("edgekit/1/north/#",), lambda *m: heard.append(m))
        device = Opened(one, ("edgekit/1/north/#",), lambda t, _p: spied.append(t))
        with fleet as everything, device as thief:
            for topic in ("cam-1/telemetry", "cam-2/telemetry", "cam-1/desired", "cam-2/command"):
                thief.publish([Publication(f"edgekit/1/north/{topic}", b"cam-1")])
            everything.publish([Publication("edgekit/1/north/cam-2/command", b"fleet")])
            everything.publish([Publication("edgekit/1/north/cam-1/command", b"fleet")])
            wait(lambda: ("edgekit/1/north/cam-1/command", b"fleet") in heard)
            wait(lambda: "edgekit/1/north/cam-1/command" in spied)
        from_device = [topic for topic, payload in heard if payload == b"cam-1"]
        assert from_device == ["edgekit/1/north/cam-1/telemetry"]
        assert all(topic.startswith("edgekit/1/north/cam-1/") for topic in spied)
        wrong = BrokerAddress("127.0.0.1", settings.broker_port, "cam-1", "two")
        with pytest.raises(DeviceError, match="does not let us in"), Connection(wrong):
            pass
    finally:
        process.terminate()
        process.wait(10)


def Opened(address, hears, on_message) -> Connection:  # noqa: N802 - reads as what it returns
    """A connection to a broker that may still be starting."""
    deadline = time.monotonic() + 20
    while True:
        try:
            with Connection(address):
                return Connection(address, hears=hears, on_message=on_message)
        except DeviceError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def wait(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_folder_that_is_no_fleet_says_so(tmp_path: Path):
    with pytest.raises(ConfigError, match="no fleet lives in this folder") as raised:
        FleetHome.open(tmp_path)
    assert "edgekit fleet up" in str(raised.value.hint)
