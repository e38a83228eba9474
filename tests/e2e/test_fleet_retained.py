"""An ingest that comes back hears the state of every device, however many there are."""

from __future__ import annotations

import subprocess
import time

import pytest

from edgekit.fleet.broker import credentials, mosquitto
from edgekit.fleet.home import FleetHome
from edgekit.fleet.ingest.inbox import Inbox
from edgekit.fleet.ingest.link import Link
from edgekit.fleet.publisher import BrokerAddress, Connection, Publication
from edgekit.fleet.settings import Settings
from edgekit.wire.errors import DeviceError

from ..agent_broker import free_port  # noqa: TID252

DEVICES = 4000
LEAVES = ("hello", "state", "reported")


@pytest.mark.mosquitto
def test_all_that_the_broker_keeps_reaches_an_ingest_that_comes_back(tmp_path):
    home = FleetHome.create(tmp_path / "fleet")
    settings = Settings(name="lab", broker_port=free_port())
    mosquitto.prepare(home, settings)
    with subprocess.Popen(mosquitto.command(home)) as process:
        try:
            _keep(BrokerAddress("127.0.0.1", settings.broker_port, *credentials(home, "web")))
            inbox = Inbox()
            address = BrokerAddress("127.0.0.1", settings.broker_port, *credentials(home, "ingest"))
            link = Link(address, "lab", inbox)
            link.start()
            heard: set[str] = set()
            quiet_s = time.monotonic() + 10
            while len(heard) < DEVICES * len(LEAVES) and time.monotonic() < quiet_s:
                for item in inbox.take(0.5):
                    heard.add(item.topic)
                    quiet_s = time.monotonic() + 3
            inbox.close()
            link.stop()
        finally:
            process.terminate()
    assert len(heard) == DEVICES * len(LEAVES)


def _keep(address: BrokerAddress) -> None:
    deadline_s = time.monotonic() + 20
    while True:
        try:
            connection = Connection(address).__enter__()
            break
        except DeviceError:
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
    with connection:
        for leaf in LEAVES:
            connection.publish(
                [
                    Publication(f"edgekit/1/lab/d{number}/{leaf}", b"{}", retain=True)
                    for number in range(DEVICES)
                ],
                timeout_s=60.0,
            )
