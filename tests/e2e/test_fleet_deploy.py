"""A fleet's order reaches the real agent: over HTTP through trial to confirmed, or back."""

from __future__ import annotations

import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from edgekit.fleet.bundles import BundleApp
from edgekit.fleet.dispatch import Report
from edgekit.fleet.office import Known, Office, Place
from edgekit.fleet.orders import Rollout
from edgekit.fleet.publisher import BrokerAddress
from edgekit.toolchain.pack import write_bundle
from edgekit.wire.signing import generate_key

from ..agent_board import DEVICE, FLEET, Board, settings_for, until  # noqa: TID252
from ..agent_broker import Broker  # noqa: TID252 - helpers of all agent tests
from ..agent_receiver import Receiver  # noqa: TID252
from ..unit.fleet.store import make_engine  # noqa: TID252

pytestmark = pytest.mark.mosquitto


class Web:
    """Serves bundles, and counts what it sends."""

    def __init__(self, folder: Path) -> None:
        self.app = BundleApp(folder)
        self.requests: list[tuple[str, str | None]] = []
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.base = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.server = uvicorn.Server(
            uvicorn.Config(self._count, log_level="critical", lifespan="off", interface="asgi3")
        )
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
    """Everything of a fleet that a deployment needs."""

    def __init__(self, folder: Path, broker: Broker, receiver: Receiver, signer: Any) -> None:
        self.key = generate_key("orders")
        self.bundles = folder / "bundles"
        self.web = Web(self.bundles)
        self.engine = make_engine(folder)
        self._receiver = receiver
        self._signer = signer
        broker_address = BrokerAddress("127.0.0.1", broker.port)
        self.office = Office(
            Place(FLEET, self.bundles, self.web.base, broker_address, self.key),
            self.engine,
            self._reports,
            lambda: {DEVICE: Known({"site": "roof"}, online=True)},
        )

    def _reports(self, _devices: Sequence[str]) -> dict[str, Report]:
        refusals = [
            body["why"]
            for _, _, kind, body in self._receiver.rows()
            if kind == "event" and body.get("what") == "order-refused"
        ]
        last = (self._receiver.of("reported") or [{}])[-1]
        return {
            DEVICE: Report(
                last.get("order_id"),
                last.get("phase", ""),
                last.get("detail", ""),
                last.get("running", {}),
                refusals[-1] if refusals else "",
                time.time(),
            )
        }

    def deploy(self, path: Path, lifetime_s: float = 3600.0) -> str:
        devices = self.office.choose({"site": "roof"}, [])
        rollout = self.office.give(
            path,
            [self._signer.public],
            devices,
            lifetime_s,
            now_s=time.time(),
            token=f"{time.time_ns() % 65536:04x}",
        )
        return rollout.order_id

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


@pytest.fixture
def broker(tmp_path) -> Iterator[Broker]:
    with Broker(tmp_path / "broker") as running:
        yield running


@pytest.fixture
def receiver(broker, tmp_path) -> Iterator[Receiver]:
    made = Receiver(broker.port, tmp_path / "store.db").start()
    yield made
    made.stop()


@pytest.fixture
def fleet(tmp_path, broker, receiver, small_bundle) -> Iterator[Fleet]:
    folder = tmp_path / "fleet"
    folder.mkdir()
    made = Fleet(folder, broker, receiver, small_bundle.private_key)
    yield made
    made.web.stop()
    made.engine.dispose()


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


def test_an_order_takes_a_bundle_over_http_through_trial_to_confirmed(fleet, board, release):
    board.start()
    until(board.confirmed)
    before = board.serves()
    order = fleet.deploy(release(2))
    seen = fleet.phases(order, lambda rollout: rollout.is_over)
    assert seen[-1] == "confirmed", board.log()
    assert set(seen) <= {"waiting", "fetching", "self-test", "trial", "confirmed"}
    assert "trial" in seen
    rollout = fleet.rollout(order)
    assert rollout.devices[0].before == before
    assert board.serves() == rollout.sha256
    assert fleet.web.requests[0] == (f"/bundles/{rollout.sha256}.ekb", None)
    again = fleet.deploy(release(2))
    assert fleet.phases(again, lambda r: r.is_over)[-1] == "confirmed", "it has it already"


def test_a_bundle_that_answers_wrong_is_reverted_and_says_why(fleet, board, release, small_bundle):
    board.start()
    until(board.confirmed)
    before = board.serves()
    wrong = {
        name: small_bundle.members[name.replace("golden/00", "golden/01")]
        for name in small_bundle.members
        if name.startswith("golden/00/") and "input" not in name
    }
    order = fleet.deploy(release(2, wrong))
    assert fleet.phases(order, lambda rollout: rollout.is_over)[-1] == "reverted"
    (failed,) = fleet.rollout(order).failed
    assert failed.detail.startswith("self-test:")
    assert board.serves() == before


def test_a_device_that_was_off_takes_the_order_when_it_comes(fleet, board, release):
    board.start()
    until(board.confirmed)
    board.kill()
    order = fleet.deploy(release(2))
    fleet.phases(order, lambda r: r.devices[0].phase.value == "waiting")
    board.start()
    assert fleet.phases(order, lambda rollout: rollout.is_over)[-1] == "confirmed", board.log()


def test_an_order_is_called_back_in_its_trial(fleet, board, release):
    board.settings["bundles"] = []
    board.start()
    first = fleet.deploy(release(1))
    assert fleet.phases(first, lambda r: r.is_over)[-1] == "confirmed", board.log()
    before = board.serves()
    board.kill()
    board.settings["trial"] = {"duration_s": 600, "min_requests": 1}
    board.start()
    until(board.serves)
    order = fleet.deploy(release(2))
    fleet.phases(order, lambda r: r.devices[0].phase.value == "trial")
    fleet.office.cancel(order, time.time())
    assert fleet.phases(order, lambda r: r.is_over)[-1] == "cancelled"
    until(lambda: board.serves() == before)


def test_a_device_that_does_not_trust_the_fleet_says_so(fleet, board, release):
    board.settings["trusted_keys"].pop()
    board.start()
    until(board.confirmed)
    order = fleet.deploy(release(2))
    assert fleet.phases(order, lambda rollout: rollout.is_over)[-1] == "refused"
    assert "not trusted" in fleet.rollout(order).failed[0].detail
