"""Several processes follow the same orders: none undoes what another has decided."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from edgekit.fleet import office as module
from edgekit.fleet.dispatch import Report
from edgekit.fleet.office import Office, Place
from edgekit.fleet.order_store import Orders
from edgekit.fleet.orders import DeviceOrder, Rollout
from edgekit.fleet.publisher import BrokerAddress
from edgekit.fleet.store import open_store
from edgekit.wire.signing import generate_key

NOW_S = 1_795_720_800.0
ROLLOUT = Rollout(
    order_id="o-1",
    sha256="a" * 64,
    model="pets",
    serial=3,
    size_bytes=1000,
    url="http://f/x",
    created_s=NOW_S,
    expires_s=int(NOW_S) + 3600,
    devices=(DeviceOrder("a"),),
)


@pytest.fixture
def engine(tmp_path: Path):
    made = open_store(tmp_path / "store" / "fleet.db")
    yield made
    made.dispose()


def office(engine, tmp_path: Path) -> Office:
    place = Place(
        "lab", tmp_path / "bundles", "http://f", BrokerAddress("h", 1), generate_key("orders")
    )
    return Office(place, engine, lambda names: {name: Report() for name in names}, dict)


def test_a_call_back_during_another_ones_look_is_not_undone(engine, tmp_path, monkeypatch):
    Orders(engine, None).save(ROLLOUT)
    sending, go_on = threading.Event(), threading.Event()
    sent: list[bytes] = []

    def publish(_broker, messages):
        if messages[0].payload:
            sending.set()
            assert go_on.wait(20)
        sent.extend(message.payload for message in messages)

    monkeypatch.setattr(module, "publish", publish)
    follows, calls_back = office(engine, tmp_path), office(engine, tmp_path)
    looking = threading.Thread(target=follows.tick, args=(NOW_S + 1,))
    looking.start()
    assert sending.wait(20)
    calling = threading.Thread(target=calls_back.cancel, args=("o-1", NOW_S + 2))
    calling.start()
    calling.join(0.3)
    go_on.set()
    looking.join(20)
    calling.join(20)
    found = Orders(engine, None).rollout("o-1")
    assert found is not None
    assert found.cancelled
    assert found.counts == {"cancelled": 1}
    assert sent[-1] == b"", "the broker holds an order that was called back"
