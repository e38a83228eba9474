"""A fleet's order reaches the real agent: over HTTP through trial to confirmed, or back."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from edgekit.fleet.bundles import BundleApp
from edgekit.fleet.home import FleetHome, write_private
from edgekit.fleet.opened import Opened
from edgekit.fleet.orders import Rollout
from edgekit.fleet.settings import Settings, write_settings
from edgekit.fleet.store.writes import add_device
from edgekit.toolchain.pack import write_bundle
from edgekit.wire.signing import generate_key

from ..agent_board import DEVICE, FLEET, Board, settings_for, until  # noqa: TID252
from ..agent_broker import Broker  # noqa: TID252 - helpers of all agent tests

pytestmark = pytest.mark.mosquitto


class Web:
    """Serves bundles, and keeps what is asked."""

    def __init__(self, folder: Path) -> None:
        self.app = BundleApp(folder)
        self.requests: list[tuple[str, str | None]] = []
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        config = uvicorn.Config(
            self._count, log_level="critical", lifespan="off", interface="asgi3"
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(
            target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True
        )
        self.thread.start()

    async def _count(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {key.decode(): value.decode() for key, value in scope["headers"]}
        self.requests.append((scope["path"], headers.get("range")))
        await self.app(scope, receive, send)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)


class Fleet:
    """A fleet's folder, its ingest as a process, and its bundles over HTTP."""

    def __init__(self, folder: Path, broker: Broker, signer: Any) -> None:
        self.home = FleetHome.create(folder)
        self.web = Web(self.home.bundles)
        settings = Settings(name=FLEET, http_port=self.web.port, broker_port=broker.port)
        write_settings(self.home, settings)
        self.key = generate_key("orders")
        write_private(self.home.keys / "orders.pem", self.key.to_pem())
        self.public = folder / "signer.pub.pem"
        self.public.write_bytes(signer.public.to_pem())
        self.opened = Opened(folder)
        add_device(self.opened.engine, DEVICE, {"site": "roof"}, time.time())
        self.office = self.opened.office()
        self.log = folder / "ingest.log"
        with self.log.open("wb") as log:
            self.ingest = subprocess.Popen(
                [sys.executable, "-m", "edgekit.fleet.ingest", str(folder)], stdout=log, stderr=log
            )

    def deploy(self, *argv: str) -> subprocess.Popen[str]:
        """Start ``edgekit fleet deploy`` as a user does."""
        command = [sys.executable, "-m", "edgekit", "fleet", "deploy", *argv]
        command += ["--home", str(self.home.path)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def order(self, path: Path) -> str:
        """Give an order and leave; return its name."""
        argv = (str(path), "--to", "site=roof", "--key", str(self.public), "--no-wait", "-q")
        out, err = self.deploy(*argv).communicate(timeout=60)
        assert out.strip(), err
        return out.strip()

    def rollout(self, order_id: str) -> Rollout:
        self.office.tick(time.time())
        return self.office.rollout(order_id)

    def phases(self, order_id: str, stop: Callable[[Rollout], bool]) -> list[str]:
        """Follow an order, and return the phases that it was seen in."""
        seen: list[str] = []

        def look() -> bool:
            rollout = self.rollout(order_id)
            phase = rollout.devices[0].phase.value
            if not seen or seen[-1] != phase:
                seen.append(phase)
            return stop(rollout)

        until(look, 40)
        return seen

    def stop(self) -> None:
        self.ingest.terminate()
        self.ingest.wait(20)
        self.web.stop()
        self.opened.close()


@pytest.fixture
def broker(tmp_path) -> Iterator[Broker]:
    with Broker(tmp_path / "broker") as running:
        yield running


@pytest.fixture
def fleet(tmp_path, broker, small_bundle) -> Iterator[Fleet]:
    made = Fleet(tmp_path / "fleet", broker, small_bundle.private_key)
    yield made
    made.stop()


@pytest.fixture
def board(tmp_path, small_bundle, broker, fleet) -> Iterator[Board]:
    folder = tmp_path / "board"
    folder.mkdir()
    settings = settings_for(small_bundle, broker.port)
    settings["trusted_keys"].append(fleet.key.public.to_pem().decode())
    made = Board(folder, small_bundle.private_key, settings)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.kill()


@pytest.fixture
def release(tmp_path, small_bundle):
    """Make a further release."""

    def make(serial: int, members: dict[str, bytes] | None = None) -> Path:
        path = tmp_path / f"{serial}.ekb"
        manifest = dataclasses.replace(small_bundle.manifest, serial=serial)
        write_bundle(
            path, manifest, small_bundle.members | (members or {}), small_bundle.private_key
        )
        return path

    return make


def is_over(rollout: Rollout) -> bool:
    return rollout.is_over


def runs(fleet: Fleet, sha256: str | None) -> bool:
    """Tell whether the fleet knows that the board serves a bundle."""
    return sha256 in fleet.opened.reports([DEVICE])[DEVICE].running.values()


def test_a_bundle_goes_over_http_through_trial_to_confirmed(fleet, board, release):
    board.start()
    until(board.confirmed)
    before = board.serves()
    until(lambda: runs(fleet, before))
    path = release(2)
    argv = (str(path), "--to", "site=roof", "--key", str(fleet.public), "--timeout", "60s")
    out, err = fleet.deploy(*argv, "--json").communicate(timeout=90)
    document = json.loads(out)
    (device,) = document["order"]["devices"]
    assert device["phase"] == "confirmed", err
    assert device["before"] == before
    assert board.serves() == document["order"]["bundle_sha256"]
    assert fleet.web.requests == [(f"/bundles/{board.serves()}.ekb", None)]
    second = fleet.deploy(*argv)
    out, err = second.communicate(timeout=90)
    assert second.returncode == 0, err
    assert "1 confirmed of 1" in out, "it has it already"
    assert len(fleet.web.requests) == 1


def test_a_bundle_that_answers_wrong_is_reverted_and_says_why(fleet, board, release, small_bundle):
    board.start()
    until(board.confirmed)
    before = board.serves()
    wrong = {
        name: small_bundle.members[name.replace("golden/00", "golden/01")]
        for name in small_bundle.members
        if name.startswith("golden/00/") and "input" not in name
    }
    argv = (str(release(2, wrong)), "--all", "--key", str(fleet.public), "--timeout", "60s")
    command = fleet.deploy(*argv)
    out, err = command.communicate(timeout=90)
    assert command.returncode == 9, err
    assert "1 reverted of 1" in out
    assert "self-test:" in out
    assert board.serves() == before


def test_a_device_that_was_off_takes_the_order_when_it_comes(fleet, board, release):
    board.start()
    until(board.confirmed)
    until(lambda: fleet.opened.known()[DEVICE].online)
    board.kill()
    order = fleet.order(release(2))
    fleet.phases(order, lambda r: r.devices[0].phase.value == "waiting")
    board.start()
    assert fleet.phases(order, is_over)[-1] == "confirmed", board.log()


def test_ctrl_c_leaves_the_order_and_cancel_calls_the_trial_back(fleet, board, release):
    board.settings["bundles"] = []
    board.start()
    first = fleet.order(release(1))
    assert fleet.phases(first, is_over)[-1] == "confirmed", board.log()
    before = board.serves()
    until(lambda: runs(fleet, before))
    board.kill()
    board.settings["trial"] = {"duration_s": 600, "min_requests": 1}
    board.start()
    until(board.serves)
    command = fleet.deploy(str(release(2)), "--all", "--key", str(fleet.public))
    until(lambda: board.serves() not in {None, before}, 40)
    os.kill(command.pid, signal.SIGINT)
    _, err = command.communicate(timeout=60)
    assert command.returncode == 130
    (order,) = [line.split()[-1] for line in err.splitlines() if "--cancel" in line]
    fleet.phases(order, lambda r: r.devices[0].phase.value == "trial")
    cancel = fleet.deploy("--cancel", order)
    out, err = cancel.communicate(timeout=60)
    assert "1 cancelled of 1" in out, err
    until(lambda: board.serves() == before)


def test_a_device_that_does_not_trust_the_fleet_says_so(fleet, board, release):
    board.settings["trusted_keys"].pop()
    board.start()
    until(board.confirmed)
    order = fleet.order(release(2))
    assert fleet.phases(order, is_over)[-1] == "refused", fleet.log.read_text()
    assert "not trusted" in fleet.rollout(order).failed[0].detail
