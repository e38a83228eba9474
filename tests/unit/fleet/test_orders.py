"""What becomes of an order on each device."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.fleet.orders import (
    EXPIRY_GRACE_S,
    OPEN,
    REPORTED,
    Clear,
    DeviceOrder,
    Fact,
    Phase,
    Publish,
    Rollout,
    TakeBack,
    cancel,
    desired,
    expiry,
    step,
)
from edgekit.runtime.trial_events import Report
from edgekit.wire.desired import open_desired, sign_desired
from edgekit.wire.signing import generate_key

OLD = "0" * 64
ROLLOUT = Rollout(
    order_id="o-1",
    sha256="a" * 64,
    model="pets",
    serial=3,
    size_bytes=1000,
    url="http://127.0.0.1:8070/bundles/x.ekb",
    created_s=100.0,
    expires_s=1000,
    devices=(DeviceOrder("cam-1", before=OLD), DeviceOrder("cam-2")),
)


def said(phase: str, detail: str = "") -> Fact:
    return Fact("o-1", phase, detail)


def phases(rollout: Rollout) -> list[str]:
    return [order.phase.value for order in rollout.devices]


def test_an_order_is_published_once_and_followed_to_its_end():
    rollout, actions = step(ROLLOUT, {}, 101.0)
    assert actions == (Publish("cam-1"), Publish("cam-2"))
    assert phases(rollout) == ["waiting", "waiting"]
    assert step(rollout, {}, 102.0) == (rollout, ())
    for word, phase in (
        ("accepted", "fetching"),
        ("staged", "self-test"),
        ("trial", "trial"),
        ("confirmed", "confirmed"),
    ):
        rollout, actions = step(rollout, {"cam-1": said(word)}, 110.0)
        assert phases(rollout) == [phase, "waiting"]
        assert actions == ((Clear("cam-1"),) if phase == "confirmed" else ())
    rollout, actions = step(rollout, {"cam-2": said("reverted", "self-test: no")}, 120.0)
    assert actions == (Clear("cam-2"),)
    assert rollout.is_over
    assert [order.detail for order in rollout.failed] == ["self-test: no"]
    assert rollout.counts == {"confirmed": 1, "reverted": 1}


def test_reports_about_another_order_say_nothing():
    rollout, _ = step(ROLLOUT, {}, 101.0)
    other = {"cam-1": Fact("o-0", "confirmed"), "cam-2": Fact(None, "trial")}
    assert step(rollout, other, 102.0) == (rollout, ())


def test_a_report_that_comes_late_does_not_lead_back():
    rollout, _ = step(ROLLOUT, {"cam-1": said("trial")}, 101.0)
    assert phases(rollout)[0] == "trial"
    assert phases(step(rollout, {"cam-1": said("accepted")}, 102.0)[0])[0] == "trial"


def test_a_device_that_does_not_read_the_order_says_why():
    rollout, _ = step(ROLLOUT, {}, 101.0)
    fact = Fact(refusal="signed by the key 339e2ff9, which is not trusted here")
    rollout, actions = step(rollout, {"cam-1": fact}, 102.0)
    assert (phases(rollout)[0], actions) == ("refused", (Clear("cam-1"),))
    assert "not trusted" in rollout.failed[0].detail


def test_an_order_waits_while_another_is_under_way_and_is_replaced_by_a_newer_one():
    busy = {"cam-1": Fact(busy=True)}
    rollout, actions = step(ROLLOUT, busy, 101.0)
    assert (phases(rollout), actions) == (["planned", "waiting"], (Publish("cam-2"),))
    rollout, actions = step(rollout, {}, 102.0)
    assert actions == (Publish("cam-1"),)
    rollout, actions = step(rollout, {"cam-1": Fact(newer=True)}, 103.0)
    assert (phases(rollout)[0], actions) == ("replaced", ()), "the newer one stays at the broker"


def test_what_expires_ends():
    rollout, _ = step(ROLLOUT, {"cam-2": said("accepted")}, 101.0)
    rollout, actions = step(rollout, {}, 1000.0)
    assert (phases(rollout), actions) == (["expired", "fetching"], (Clear("cam-1"),))
    rollout, actions = step(rollout, {}, 1000.0 + EXPIRY_GRACE_S)
    assert (phases(rollout), actions) == (["expired", "expired"], (Clear("cam-2"),))
    assert phases(step(rollout, {"cam-2": said("confirmed")}, 1200.0)[0])[1] == "confirmed"


def test_a_removed_device_holds_nothing_up():
    rollout, _ = step(ROLLOUT, {"cam-1": Fact(exists=False)}, 101.0)
    assert phases(rollout)[0] == "cancelled"


def test_a_later_wave_waits_for_the_one_before():
    waves = replace(ROLLOUT, devices=(DeviceOrder("cam-1"), DeviceOrder("cam-2", wave=1)))
    rollout, actions = step(waves, {}, 101.0)
    assert actions == (Publish("cam-1"),)
    rollout, _ = step(rollout, {"cam-1": said("confirmed")}, 102.0)
    assert step(rollout, {}, 103.0)[1] == (Publish("cam-2"),)


def test_cancelling_calls_back_what_can_be():
    devices = (
        DeviceOrder("a", Phase.WAITING),
        DeviceOrder("b", Phase.TRIAL, before=OLD),
        DeviceOrder("c", Phase.TRIAL),
        DeviceOrder("d", Phase.CONFIRMED),
        DeviceOrder("e", Phase.PLANNED),
    )
    rollout, actions = cancel(replace(ROLLOUT, devices=devices), frozenset({OLD}), 200.0)
    assert actions == (Clear("a"), TakeBack("b", OLD), Clear("e"))
    assert phases(rollout) == ["cancelled", "trial", "trial", "confirmed", "cancelled"]
    facts = {"b": said("dropped", "the order was taken back"), "c": said("confirmed")}
    rollout, _ = step(rollout, facts, 210.0)
    assert phases(rollout) == ["cancelled", "cancelled", "confirmed", "confirmed", "cancelled"]


def test_nothing_is_sent_after_a_cancel():
    rollout, _ = cancel(replace(ROLLOUT, devices=()), frozenset(), 1.0)
    late = replace(rollout, devices=(DeviceOrder("a"),))
    assert step(late, {}, 2.0)[1] == ()


def test_a_device_reads_the_signed_order():
    key = generate_key("orders")
    envelope = sign_desired(desired(ROLLOUT, "lab", "cam-1"), key)
    order = open_desired(envelope, [key.public], now_s=999, device="lab/cam-1")
    assert (order.order_id, order.bundle_sha256, order.expires) == ("o-1", "a" * 64, 1000)


def test_a_new_order_outlives_those_before():
    assert expiry(100.5, 60, []) == 160
    assert expiry(100.5, 60, [400, 20]) == 401


@pytest.mark.parametrize("word", (Report.__doc__ or "").split("``")[1::2])
def test_every_word_of_the_device_is_known(word):
    assert word in REPORTED


FACTS = st.builds(
    Fact,
    st.sampled_from(["o-1", "o-0", None]),
    st.sampled_from([*REPORTED, "idle", ""]),
    st.sampled_from(["", "why"]),
    st.sampled_from(["", "not trusted"]),
    st.just({}),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
STEPS = st.lists(
    st.tuples(st.integers(0, 300), st.dictionaries(st.sampled_from(["cam-1", "cam-2"]), FACTS)),
    max_size=20,
)


@given(STEPS, st.integers(0, 25))
def test_every_order_ends_and_an_end_is_one(steps, cancel_at):
    rollout, now_s = ROLLOUT, ROLLOUT.created_s
    sent: set[str] = set()
    for index, (wait_s, facts) in enumerate(steps):
        now_s += wait_s
        if index == cancel_at:
            rollout, _ = cancel(rollout, frozenset({OLD}), now_s)
        before = rollout
        for again in range(3):
            rollout, actions = step(rollout, facts, now_s)
            assert again < 2 or actions == (), "the same facts change nothing more"
            published = [action.device for action in actions if isinstance(action, Publish)]
            assert not (published and rollout.cancelled)
            assert not sent.intersection(published)
            sent.update(published)
        for old, new in zip(before.devices, rollout.devices, strict=True):
            if old.is_over:
                assert new.phase in {old.phase, Phase.CONFIRMED}
    rollout, _ = step(rollout, {}, max(now_s, ROLLOUT.expires_s) + EXPIRY_GRACE_S)
    assert rollout.is_over
    assert not set(rollout.counts) & {phase.value for phase in OPEN}
