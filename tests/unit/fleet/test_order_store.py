"""Orders and alerts come back from the store as they went in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from edgekit.fleet.alerts.machine import Entry, Key
from edgekit.fleet.alerts.notice import Notice
from edgekit.fleet.alerts.rows import AlertRows
from edgekit.fleet.alerts.rules import Silence
from edgekit.fleet.order_store import Orders
from edgekit.fleet.orders import DeviceOrder, Phase, Rollout
from edgekit.fleet.store import open_store
from edgekit.wire.errors import UsageError

ROLLOUT = Rollout(
    order_id="o-1",
    sha256="a" * 64,
    model="pets",
    serial=3,
    size_bytes=5_000_000_000,
    url="http://f/x",
    created_s=100.5,
    expires_s=4_000_000_000,
    devices=(DeviceOrder("a", before="0" * 64), DeviceOrder("b", wave=1)),
)
NOTICE = Notice(
    "", "open", "lab", "temperature", "temperature", "warning", "cam-1", "", 84.0, "°C",
    "cam-1 is hot", "cool it", 60.0, 60.0,
)  # fmt: skip


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = open_store(tmp_path / "fleet.db")
    yield made
    made.dispose()


@pytest.fixture
def orders(engine) -> Orders:
    return Orders(engine, lambda _devices: {})


def test_an_order_comes_back_as_it_went_in(orders):
    orders.save(ROLLOUT)
    assert orders.rollout("o-1") == ROLLOUT
    assert orders.rollout("o-2") is None
    assert orders.open_rollouts() == [ROLLOUT]


def test_a_change_is_kept_and_an_order_that_is_over_is_not_open(orders):
    orders.save(ROLLOUT)
    half = replace(
        ROLLOUT,
        cancelled=True,
        devices=(
            DeviceOrder("a", Phase.REVERTED, 200.0, "why", "0" * 64),
            DeviceOrder("b", Phase.TRIAL, 201.0, wave=1),
        ),
    )
    orders.save(half)
    assert orders.rollout("o-1") == half
    assert orders.open_rollouts() == [half]
    over = replace(
        half, devices=(half.devices[0], DeviceOrder("b", Phase.CONFIRMED, 300.0, wave=1))
    )
    orders.save(over)
    assert orders.open_rollouts() == []
    assert orders.last_rollouts(5) == [over]


def test_orders_come_in_order(orders):
    for number in (3, 1, 2):
        orders.save(replace(ROLLOUT, order_id=f"o-{number}", created_s=float(number)))
    assert [row.order_id for row in orders.open_rollouts()] == ["o-1", "o-2", "o-3"]
    assert [row.order_id for row in orders.last_rollouts(2)] == ["o-3", "o-2"]


def test_the_latest_expiry_of_any_of_many_devices_is_found(orders):
    names = [f"d-{number:05d}" for number in range(6000)]
    devices = tuple(DeviceOrder(name) for name in names)
    orders.save(replace(ROLLOUT, devices=devices))
    orders.save(replace(ROLLOUT, order_id="o-2", expires_s=5, devices=(DeviceOrder("x"),)))
    assert max(orders.expiries(names)) == 4_000_000_000
    assert orders.expiries(["x"]) == [5]
    assert orders.expiries(["nobody"]) == []


def test_an_alert_comes_back_until_it_is_closed(engine):
    rows = AlertRows(engine)
    first = rows.open(NOTICE, silenced=True)
    assert rows.open_alerts() == {Key("temperature", "cam-1"): (first, Entry(None, 60.0, 84.0))}
    rows.told(first, 61.0)
    rows.silence(first, silenced=False)
    (row,) = rows.list()
    assert (row.told_s, row.silenced, row.todo) == (61.0, False, "cool it")
    rows.close(first, 70.0, "it is well again", 200.0)
    assert rows.open_alerts() == {}
    (row,) = rows.list(is_open=False, device="cam-1")
    assert (row.closed_s, row.why) == (200.0, "it is well again")
    assert rows.list(is_open=None, device="cam-2") == []


def test_a_silence_comes_back_until_it_is_taken_back(engine):
    rows = AlertRows(engine)
    for_good = Silence("temp*", "cam-?", {"site": "roof"}, reason="paint")
    number = rows.add_silence(for_good, 1000.0)
    rows.add_silence(replace(for_good, until_s=2000.0), 1000.0)
    assert rows.silences() == [for_good, replace(for_good, until_s=2000.0)]
    rows.end_silence(number)
    with pytest.raises(UsageError, match="no silence"):
        rows.end_silence(number)
    rows.add_silence(for_good, 2000.0 + 8 * 86_400)
    assert rows.silences() == [for_good], "what ended long ago is forgotten"


def test_a_value_that_would_be_sql_is_a_value(orders, engine):
    evil = "x'; DROP TABLE rollouts; --"
    orders.save(replace(ROLLOUT, order_id=evil))
    assert orders.rollout(evil) is not None
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM rollouts")) == 1
