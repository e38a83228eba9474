"""Orders at work, over a store in memory and devices that run the agent's own state machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from edgekit.fleet.bundles import Offer
from edgekit.fleet.dispatch import Dispatch, Report, Wish
from edgekit.fleet.orders import Rollout
from edgekit.fleet.publisher import Publication
from edgekit.runtime import trial_events as on
from edgekit.runtime.trial import step
from edgekit.runtime.trial_events import Instant
from edgekit.runtime.trial_state import Order, Release, State
from edgekit.runtime.trial_state import Phase as Slot
from edgekit.wire.desired import open_desired
from edgekit.wire.errors import DeviceError, RolloutError
from edgekit.wire.signing import generate_key

KEY = generate_key("orders")
OLD, NEW, OTHER = (
    Offer(digit * 64, 1000, model, "rpi5", serial, None, "dev")
    for digit, model, serial in (("0", "pets", 1), ("a", "pets", 2), ("b", "ocr", 1))
)


@dataclass
class Device:
    """A device's slots; what it hears and what it says."""

    name: str
    slots: dict[str, State] = field(
        default_factory=lambda: {
            "pets": State(Slot.CONFIRMED, Release(OLD.sha256, 1), floor_serial=1)
        }
    )
    report: Report = field(default_factory=Report)
    orders: dict[str, str] = field(default_factory=dict)
    online: bool = True

    def hear(self, payload: bytes, now_s: float) -> None:
        if not payload or not self.online:
            return
        order = open_desired(payload, [KEY.public], now_s=now_s, device=f"lab/{self.name}")
        self.orders[order.bundle_sha256] = order.order_id
        self.handle(order.model, on.OrderReceived(Order.of(order)), now_s)

    def handle(self, model: str, event: on.Event, now_s: float) -> None:
        state, actions = step(self.slots.get(model, State()), event, Instant(now_s, now_s))
        self.slots[model] = state
        for action in actions:
            if isinstance(action, on.Report):
                running = {m: s.current for m, s in self.slots.items() if s.current}
                self.report = Report(
                    self.orders.get(action.sha256), action.what, action.reason, running
                )


class Fleet:
    """A store in memory, a broker that keeps one order a device, and the devices."""

    def __init__(self, *names: str) -> None:
        self.devices = {name: Device(name) for name in names}
        self.rows: dict[str, Rollout] = {}
        self.retained: dict[str, bytes] = {}
        self.sent: list[tuple[str, bytes]] = []
        self.now_s = 1000.0
        self.broken = False
        offers = {offer.sha256: offer for offer in (OLD, NEW, OTHER)}
        self.dispatch = Dispatch(
            "lab", KEY, self, self.publish, offers.get, lambda sha256: f"http://f/{sha256}"
        )

    def save(self, rollout: Rollout) -> None:
        self.rows[rollout.order_id] = rollout

    def open_rollouts(self) -> Sequence[Rollout]:
        return [rollout for rollout in self.rows.values() if not rollout.is_over]

    def rollout(self, order_id: str) -> Rollout | None:
        return self.rows.get(order_id)

    def reports(self, devices: Sequence[str]) -> Mapping[str, Report]:
        return {name: self.devices[name].report for name in devices if name in self.devices}

    def expiries(self, devices: Sequence[str]) -> Sequence[int]:
        return [
            row.expires_s
            for row in self.rows.values()
            if {order.device for order in row.devices} & set(devices)
        ]

    def publish(self, messages: Sequence[Publication]) -> None:
        if self.broken:
            raise DeviceError("the broker cannot be reached")
        for message in messages:
            name = message.topic.split("/")[3]
            assert message.retain
            self.retained[name] = message.payload
            self.sent.append((name, message.payload))
            if name in self.devices:
                self.devices[name].hear(message.payload, self.now_s)

    def give(self, offer: Offer, *names: str, lifetime_s: float = 3600.0) -> str:
        self.now_s += 1
        wish = Wish(offer, f"http://f/{offer.sha256}", names, lifetime_s)
        return self.dispatch.give(wish, self.now_s, "00ff").order_id

    def tick(self, seconds: float = 1.0) -> None:
        self.now_s += seconds
        self.dispatch.tick(self.now_s)

    def phases(self, order_id: str) -> list[str]:
        return [order.phase.value for order in self.rows[order_id].devices]

    def tell(self, name: str, event: on.Event, model: str = "pets") -> None:
        self.devices[name].handle(model, event, self.now_s)


def test_an_order_goes_from_fetching_to_confirmed_and_is_cleared():
    fleet = Fleet("a", "b")
    order = fleet.give(NEW, "b", "a", "a")
    fleet.tick()
    assert fleet.phases(order) == ["waiting", "waiting"]
    fleet.tick()
    assert fleet.phases(order) == ["fetching", "fetching"]
    for name in "ab":
        fleet.tell(name, on.Fetched(NEW.sha256))
        fleet.tell(name, on.Verified(NEW.sha256, 2, None))
        fleet.tell(name, on.Tick())
    fleet.tick()
    assert fleet.phases(order) == ["self-test", "self-test"]
    fleet.tell("a", on.SelfTestPassed(NEW.sha256))
    fleet.tell("b", on.SelfTestFailed(NEW.sha256, "3 of 4 outputs differ"))
    fleet.tick()
    assert fleet.phases(order) == ["trial", "reverted"]
    fleet.tell("a", on.OperatorConfirm())
    fleet.tick()
    rollout = fleet.rows[order]
    assert fleet.phases(order) == ["confirmed", "reverted"]
    assert [o.detail for o in rollout.failed] == ["self-test: 3 of 4 outputs differ"]
    assert fleet.retained == {"a": b"", "b": b""}
    assert [o.before for o in rollout.devices] == [None, None], "nothing was reported before"


def test_a_broker_that_is_away_makes_nothing_forgotten():
    fleet = Fleet("a")
    order = fleet.give(NEW, "a")
    fleet.broken = True
    with pytest.raises(DeviceError):
        fleet.tick()
    assert fleet.phases(order) == ["planned"]
    fleet.broken = False
    fleet.tick()
    assert fleet.phases(order) == ["waiting"]
    assert len(fleet.sent) == 1


def test_a_newer_order_for_the_same_model_takes_the_place_of_the_older():
    fleet = Fleet("a")
    first = fleet.give(NEW, "a", lifetime_s=86_400)
    fleet.tick()
    newest = dataclasses.replace(NEW, sha256="c" * 64, serial=3)
    second = fleet.give(newest, "a", lifetime_s=60)
    fleet.tick()
    assert fleet.phases(first) == ["replaced"]
    assert fleet.retained["a"] != b""
    fleet.tick()
    assert fleet.phases(second) == ["fetching"], "a shorter life does not make it older"


def test_an_order_for_another_model_waits_its_turn():
    fleet = Fleet("a")
    fleet.devices["a"].online = False
    first = fleet.give(NEW, "a", lifetime_s=100)
    second = fleet.give(OTHER, "a", lifetime_s=86_400)
    fleet.tick()
    assert (fleet.phases(first), fleet.phases(second)) == (["waiting"], ["planned"])
    fleet.tick(200)
    assert (fleet.phases(first), fleet.phases(second)) == (["expired"], ["waiting"])
    assert [payload == b"" for _, payload in fleet.sent] == [False, True, False]


def test_a_trial_is_called_back_to_what_ran_before():
    fleet = Fleet("a", "b")
    for device in fleet.devices.values():
        device.report = Report(running={"pets": OLD.sha256})
    fleet.devices["b"].online = False
    order = fleet.give(NEW, "a", "b")
    fleet.tick()
    for event in (
        on.Fetched(NEW.sha256),
        on.Verified(NEW.sha256, 2, None),
        on.Tick(),
        on.SelfTestPassed(NEW.sha256),
    ):
        fleet.tell("a", event)
    fleet.tick()
    assert fleet.phases(order) == ["trial", "waiting"]
    fleet.dispatch.cancel(order, fleet.now_s)
    fleet.tick()
    assert fleet.phases(order) == ["cancelled", "cancelled"]
    assert fleet.devices["a"].slots["pets"].current == OLD.sha256
    assert fleet.retained == {"a": b"", "b": b""}
    with pytest.raises(RolloutError, match="is over"):
        fleet.dispatch.cancel(order, fleet.now_s)


def test_a_device_that_does_not_trust_the_fleet_says_so():
    fleet = Fleet("a")
    fleet.devices["a"].online = False
    order = fleet.give(NEW, "a")
    fleet.devices["a"].report = Report(refusal="an old one", refused_s=fleet.now_s - 5)
    fleet.tick()
    fleet.tick()
    assert fleet.phases(order) == ["waiting"]
    fleet.devices["a"].report = Report(refusal="not trusted here", refused_s=fleet.now_s)
    fleet.tick()
    assert [o.detail for o in fleet.rows[order].failed] == ["not trusted here"]


def test_orders_need_a_device_and_a_name():
    fleet = Fleet("a")
    with pytest.raises(RolloutError, match="no device"):
        fleet.give(NEW)
    with pytest.raises(RolloutError, match="no order"):
        fleet.dispatch.cancel("o-none", 1.0)


def test_a_device_that_is_gone_ends_its_part():
    fleet = Fleet("a", "b")
    order = fleet.give(NEW, "a", "b")
    del fleet.devices["b"]
    fleet.tick()
    assert fleet.phases(order) == ["waiting", "cancelled"]
