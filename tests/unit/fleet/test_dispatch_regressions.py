"""Orders outlive a broker that forgets and one that is called back beside them."""

from __future__ import annotations

import dataclasses

import pytest

from edgekit.fleet.dispatch import REMIND_S, Report, Wish
from edgekit.runtime import trial_events as on
from edgekit.wire.errors import TrustError

from .test_dispatch import NEW, OLD, OTHER, Fleet


def test_an_order_that_waits_for_another_is_called_back_without_wiping_that_one():
    fleet = Fleet("a", "b")
    for device in fleet.devices.values():
        device.online = False
    first = fleet.give(NEW, "a")
    second = fleet.give(OTHER, "a", "b")
    fleet.tick()
    fleet.dispatch.cancel(second, fleet.now_s)
    assert fleet.phases(second) == ["cancelled", "cancelled"]
    assert fleet.retained["b"] == b""
    assert fleet.retained["a"] != b"", "the broker has lost an order that stands"
    assert fleet.phases(first) == ["waiting"]


def test_a_broker_that_has_lost_an_order_gets_it_again():
    fleet = Fleet("a")
    fleet.devices["a"].online = False
    order = fleet.give(NEW, "a", lifetime_s=86_400)
    fleet.tick()
    fleet.retained.clear()
    fleet.tick(REMIND_S / 2)
    assert fleet.retained == {}
    fleet.devices["a"].online = True
    fleet.tick(REMIND_S / 2)
    fleet.tick()
    assert fleet.phases(order) == ["fetching"]
    sent = len(fleet.sent)
    fleet.tick(REMIND_S)
    assert len(fleet.sent) == sent, "a device that has answered is told again"


def test_a_broker_that_has_lost_a_call_back_gets_it_again():
    fleet = Fleet("a")
    fleet.devices["a"].report = Report(running={"pets": OLD.sha256})
    order = fleet.give(NEW, "a", lifetime_s=86_400)
    fleet.tick()
    fleet.tick()
    fleet.devices["a"].online = False
    fleet.dispatch.cancel(order, fleet.now_s)
    fleet.retained.clear()
    fleet.devices["a"].online = True
    fleet.tick(REMIND_S)
    fleet.tick()
    assert fleet.phases(order) == ["cancelled"]


def test_a_call_back_that_is_heard_twice_before_anybody_looks_is_done():
    fleet = Fleet("a")
    device = fleet.devices["a"]
    device.report = Report(running={"pets": OLD.sha256})
    order = fleet.give(NEW, "a")
    fleet.tick()
    fleet.tick()
    fleet.dispatch.cancel(order, fleet.now_s)
    assert device.report.phase == "dropped"
    # It connects again, and the broker keeps the order.
    device.hear(fleet.retained["a"], fleet.now_s)
    assert device.report.phase == "already"
    fleet.tick()
    assert fleet.phases(order) == ["cancelled"]
    assert fleet.retained["a"] == b""


def test_an_order_that_no_device_would_read_is_not_kept():
    fleet = Fleet("a")
    wish = Wish(NEW, "http://fleet.lan/größe.ekb", ["a"], 3600.0)
    with pytest.raises(TrustError):
        fleet.dispatch.give(wish, fleet.now_s, "00ff")
    assert fleet.rows == {}


def test_a_reminder_is_no_second_order():
    fleet = Fleet("a")
    fleet.devices["a"].online = False
    order = fleet.give(NEW, "a", lifetime_s=86_400)
    fleet.tick()
    first = fleet.retained["a"]
    fleet.tick(REMIND_S)
    assert fleet.retained["a"] == first
    fleet.devices["a"].online = True
    fleet.devices["a"].hear(first, fleet.now_s)
    fleet.devices["a"].hear(first, fleet.now_s)
    fleet.tick()
    assert fleet.phases(order) == ["fetching"]
    fleet.tell("a", on.Fetched(NEW.sha256))
    assert dataclasses.asdict(fleet.devices["a"].slots["pets"])["order"] is not None
