"""The way of a bundle through a slot: each rule by itself, then all of them in any order."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edgekit.runtime import trial_events as on
from edgekit.runtime.trial import step
from edgekit.runtime.trial_events import Instant, Persist, Report
from edgekit.runtime.trial_rules import TrialRules
from edgekit.runtime.trial_state import (
    MAX_REFUSED,
    RESTING,
    Counts,
    Order,
    Phase,
    Release,
    State,
    parse_state,
)
from edgekit.wire.canonical import canonical_json
from edgekit.wire.desired import MAX_URL, Desired
from edgekit.wire.errors import TrustError

A, B, C = "a" * 64, "b" * 64, "c" * 64
NOW = Instant(1000.0, 50_000.0)
RULES = TrialRules(duration_s=100, min_requests=10, max_duration_s=300)
OLD = State(phase=Phase.CONFIRMED, confirmed=Release(A, 3), previous=Release(C, 2), floor_serial=3)


def order(sha256=B, serial=4, expires_s=60_000.0, order_id="1"):
    return Order(order_id, sha256, serial, 1000, expires_s, "http://fleet/b.ekb")


def later(seconds):
    return Instant(NOW.monotonic_s + seconds, NOW.unix_s + seconds)


def play(state, *events, now=NOW, rules=RULES):
    """Apply events and return the state with all actions."""
    actions = []
    for event in events:
        state, more = step(state, event, now, rules)
        actions += more
    return state, actions


def on_trial(state=OLD, limit_ms=50.0, **fields):
    state, _ = play(
        state,
        on.OrderReceived(order(**fields)),
        on.Fetched(B),
        on.Verified(B, fields.get("serial", 4), limit_ms),
        on.Tick(),
        on.SelfTestPassed(B),
        on.Started(B),
    )
    assert state.phase is Phase.TRIAL
    return state


def served(state, n, latency_ms=10.0, *, error=False):
    actions = []
    for _ in range(n):
        state, more = step(state, on.RequestServed(B, latency_ms, error), NOW, RULES)
        actions += more
    return state, actions


def ticked(state, seconds, rules=RULES, **tick):
    """Tick once a second for some time."""
    actions = []
    began = state.ticked_s
    for passed in range(1, seconds + 1):
        now = Instant(began + passed, NOW.unix_s)
        state, more = step(state, on.Tick(**tick), now, rules)
        actions += more
    return state, actions


def crash(state, now=NOW):
    """End the process without a word and start a new one."""
    kept = parse_state(json.loads(canonical_json(state.to_json())))
    assert kept == state
    return step(kept, on.ProcessStarted(), now, RULES)


def kinds(actions):
    return [type(action).__name__ for action in actions]


def test_a_good_bundle_goes_from_order_to_confirmed():
    state, actions = play(OLD, on.OrderReceived(order()))
    assert state.phase is Phase.FETCHING
    assert kinds(actions) == ["Persist", "Fetch", "Report"]
    state, actions = play(state, on.Fetched(B))
    assert actions == [on.Verify(B)]
    state, actions = play(state, on.Verified(B, 4, 50.0))
    assert (state.phase, state.next, state.current) == (Phase.STAGED, B, A)
    state, actions = play(state, on.Tick(ready=False))
    assert (state.phase, actions) == (Phase.STAGED, [])
    state, actions = play(state, on.Tick())
    assert (state.phase, actions) == (Phase.SELF_TEST, [Persist(), on.RunSelfTest(B)])
    assert state.next == B
    state, actions = play(state, on.SelfTestPassed(B))
    assert actions == [Persist(), on.Swap(B), Report("trial", B)]
    assert (state.current, state.fallback, state.next) == (B, A, None)
    state, _ = play(state, on.Started(B))
    state, _ = served(state, 10)
    state, actions = ticked(state, 99)
    assert state.phase is Phase.TRIAL
    assert Persist() in actions  # the counts are kept once a minute
    state, actions = ticked(state, 1)
    assert (state.phase, state.current, state.fallback) == (Phase.CONFIRMED, B, A)
    assert actions == [Persist(), Report("confirmed", B)]
    assert state.floor_serial == 4


@pytest.mark.parametrize(
    ("changed", "now", "reason"),
    [
        ({"expires_s": 50_000.0}, NOW, "has expired"),
        ({}, Instant(0.0, None), "clock is not set"),
        ({"serial": 2}, NOW, "serial 2 is lower than 3"),
        ({"sha256": "x"}, NOW, "malformed"),
        ({"order_id": "\x1b[2J"}, NOW, "malformed"),
    ],
)
def test_an_order_that_is_not_taken_says_why(changed, now, reason):
    state, actions = step(OLD, on.OrderReceived(order(**changed)), now, RULES)
    assert state == OLD
    assert kinds(actions) == ["Report"]
    assert actions[0].what == "refused"
    assert reason in actions[0].reason


def test_a_signed_order_becomes_one_of_a_slot():
    desired = Desired(B, "https://fleet/b.ekb", 1000, 4, "o-1", 60_000, "digits-cnn", device="f/d")
    assert Order.of(desired) == Order("o-1", B, 4, 1000, 60_000.0, "https://fleet/b.ekb")
    longest = replace(desired, url="https://fleet/" + "b" * (MAX_URL - 14))
    state, _ = play(OLD, on.OrderReceived(Order.of(longest)))
    assert parse_state(state.to_json()).order.url == longest.url


def test_an_order_older_than_the_last_one_is_stale():
    state, _ = play(OLD, on.OrderReceived(order(C, expires_s=70_000.0)))
    after, actions = play(state, on.OrderReceived(order(B, expires_s=69_999.0)))
    assert after == state
    assert "newer order" in actions[0].reason


def local(sha256: str, serial: int, expires_s: float) -> on.OrderReceived:
    made = Order(f"local-{sha256[:12]}", sha256, serial, 1000, expires_s)
    assert made.is_local
    return on.OrderReceived(made)


def test_a_fleet_replaces_what_the_settings_name_however_soon_its_order_expires():
    named = local(A, 3, NOW.unix_s + 20 * 365 * 86_400)
    state, _ = play(OLD, named)
    assert state.confirmed.sha256 == A
    state, actions = play(state, on.OrderReceived(order(B)))
    assert state.phase is Phase.FETCHING, actions
    assert play(state, named) == (state, []), "the next start names the same file again"
    newer = local(C, 4, NOW.unix_s + 20 * 365 * 86_400 + 1)
    assert play(state, newer)[0].order.sha256 == C, "somebody put another file there"


def test_the_same_order_again_changes_nothing():
    state, _ = play(OLD, on.OrderReceived(order()))
    assert play(state, on.OrderReceived(order())) == (state, [])
    confirmed, actions = play(OLD, on.OrderReceived(order(A, 3)))
    assert confirmed.phase is Phase.CONFIRMED
    assert actions == [Persist(), Report("already", A)]


def test_an_order_for_what_is_confirmed_takes_the_one_under_way_back():
    state = on_trial()
    state, actions = play(state, on.OrderReceived(order(A, 3, 61_000.0)))
    assert (state.phase, state.current) == (Phase.CONFIRMED, A)
    assert kinds(actions) == ["Persist", "Revert", "Report"]
    # Nothing failed: the bundle may come again.
    state, actions = play(state, on.OrderReceived(order(B, 4, 62_000.0)))
    assert state.phase is Phase.FETCHING


def test_another_order_replaces_the_one_under_way():
    state, _ = play(OLD, on.OrderReceived(order()))
    state, actions = play(state, on.OrderReceived(order(C, 5, 61_000.0)))
    assert state.order.sha256 == C
    assert kinds(actions) == ["Persist", "Cancel", "Report", "Fetch", "Report"]
    state, actions = play(on_trial(), on.OrderReceived(order(C, 5, 61_000.0)))
    assert state.current == A
    assert actions[1] == on.Revert(A, B, "another order came")


def test_a_fetch_that_fails_leaves_everything_and_may_come_again():
    state, _ = play(OLD, on.OrderReceived(order()))
    state, _ = play(state, on.FetchFailed(B, "404"))
    assert (state.phase, state.current, state.reason) == (Phase.CONFIRMED, A, "404")
    state, _ = play(state, on.OrderReceived(order()))
    assert state.phase is Phase.FETCHING


def test_a_full_disk_gives_up_the_older_bundle_once():
    state, _ = play(OLD, on.OrderReceived(order()))
    state, actions = play(state, on.FetchFailed(B, "full", disk_full=True))
    assert (state.phase, state.previous) == (Phase.FETCHING, None)
    assert kinds(actions) == ["Persist", "Fetch"]
    state, _ = play(state, on.FetchFailed(B, "full", disk_full=True))
    assert (state.phase, state.current) == (Phase.CONFIRMED, A)


@pytest.mark.parametrize("first", [True, False])
def test_a_failed_self_test_never_serves(first):
    state, _ = play(
        State() if first else OLD, on.OrderReceived(order()), on.Verified(B, 4, None), on.Tick()
    )
    state, actions = play(state, on.SelfTestFailed(B, "golden sample 3 is off"))
    assert (state.phase, state.current) == (Phase.REVERTED, None if first else A)
    assert "golden sample 3" in state.reason
    assert not {"Swap", "Start", "Revert"} & set(kinds(actions))
    _, actions = play(state, on.OrderReceived(order()))
    assert "failed here" in actions[0].reason
    state, _ = play(state, on.OrderReceived(order(expires_s=60_001.0)))
    assert state.phase is Phase.FETCHING


def test_a_bundle_of_another_serial_than_ordered_is_refused():
    state, _ = play(OLD, on.OrderReceived(order()), on.Verified(B, 9, None))
    assert (state.phase, state.current) == (Phase.REVERTED, A)


def test_a_self_test_that_says_nothing_ends_at_its_deadline():
    state, _ = play(OLD, on.OrderReceived(order()), on.Verified(B, 4, None), on.Tick())
    state, actions = ticked(state, int(RULES.self_test_deadline_s) + 1)
    assert state.phase is Phase.REVERTED
    assert on.Cancel(B) in actions


def test_an_order_that_expires_before_its_bundle_serves_is_dropped():
    state, _ = play(OLD, on.OrderReceived(order()), on.Verified(B, 4, None))
    state, _ = step(state, on.Tick(), later(20_000), RULES)
    assert (state.phase, state.reason) == (Phase.CONFIRMED, "the order has expired")
    trial, _ = step(on_trial(), on.Tick(), later(20_000), RULES)
    assert trial.phase is Phase.TRIAL


def test_a_crash_in_a_trial_is_forgiven_once():
    state, actions = crash(on_trial())
    assert actions == (Persist(), on.Start(B))
    assert (state.phase, state.restarts) == (Phase.TRIAL, 1)
    state, actions = crash(state)
    assert (state.phase, state.current) == (Phase.REVERTED, A)
    assert kinds(actions) == ["Persist", "Revert", "Report"]
    assert actions[1].sha256 == A


def test_a_clean_stop_is_no_crash():
    state = on_trial()
    for _ in range(5):
        state, actions = play(state, on.Stopping())
        assert actions == [Persist()]
        state, actions = crash(state)
        assert (state.phase, state.restarts) == (Phase.TRIAL, 0)


def test_a_crash_in_the_self_test_is_counted_one_while_waiting_is_not():
    state, _ = play(OLD, on.OrderReceived(order()), on.Verified(B, 4, None))
    for _ in range(5):
        state, _ = crash(state)
        assert (state.phase, state.restarts) == (Phase.STAGED, 0)
    state, _ = play(state, on.Tick())
    state, actions = crash(state)
    assert (state.phase, state.restarts) == (Phase.STAGED, 1)
    assert actions == (Persist(), on.Start(A))
    state, _ = play(state, on.Tick())
    assert (state.phase, state.restarts) == (Phase.SELF_TEST, 1)
    state, actions = crash(state)
    assert state.phase is Phase.REVERTED
    assert on.Start(A) in actions


def test_a_fetch_goes_on_after_a_restart():
    state, _ = play(OLD, on.OrderReceived(order()))
    state, actions = crash(state)
    assert actions == (Persist(), on.Start(A), on.Fetch(order()))
    expired, actions = crash(state, later(20_000))
    assert expired.phase is Phase.CONFIRMED
    assert actions[1] == on.Start(A)


def test_a_request_that_hangs_reverts_at_its_deadline():
    state, actions = play(on_trial(), on.Tick(oldest_request_s=30.0))
    assert state.phase is Phase.TRIAL
    state, actions = play(state, on.Tick(oldest_request_s=30.1))
    assert (state.phase, state.current) == (Phase.REVERTED, A)
    assert on.Revert(A, B, "a request hung for over 30 s") in actions


def test_a_bundle_that_does_not_load_is_reverted():
    unstarted = replace(on_trial(), counts=Counts())
    state, _ = ticked(unstarted, int(RULES.start_deadline_s))
    assert state.phase is Phase.TRIAL
    state, _ = ticked(state, 1)
    assert state.phase is Phase.REVERTED
    state, _ = play(unstarted, on.StartFailed(B, "no such operator"))
    assert (state.phase, state.current) == (Phase.REVERTED, A)


def test_a_trial_that_went_on_for_long_has_its_whole_time_to_load_again():
    state, _ = ticked(on_trial(), 99, replace(RULES, duration_s=1000))
    state, _ = crash(state, Instant(5.0, NOW.unix_s))  # a reboot: the clock begins anew
    assert state.elapsed_s == 99
    state, _ = ticked(state, int(RULES.start_deadline_s) - 1)
    assert state.phase is Phase.TRIAL
    assert state.elapsed_s == 99


def test_slow_answers_revert_at_the_end_and_sooner_where_it_is_sure():
    state, _ = served(on_trial(), 19)
    state, actions = served(state, 1, 51.0)
    assert actions == []
    good, _ = ticked(state, 100)
    assert good.phase is Phase.CONFIRMED  # 1 of 20 is within a 95th percentile
    state, _ = served(state, 1, 51.0)
    assert state.phase is Phase.TRIAL
    state, _ = ticked(state, 100)
    assert state.phase is Phase.REVERTED
    assert "2 of 21 answers took over 50 ms" in state.reason
    state, actions = served(on_trial(), 9, 51.0)
    assert actions == []
    state, actions = served(state, 1, 51.0)
    assert (state.phase, kinds(actions)) == (Phase.REVERTED, ["Persist", "Revert", "Report"])


def test_without_a_limit_in_the_contract_no_answer_is_slow():
    state, _ = served(on_trial(limit_ms=None), 20, 1e9)
    assert state.counts.slow == 0


def test_a_latency_that_is_no_number_is_slow():
    state, _ = served(on_trial(), 1, float("nan"))
    assert state.counts.slow == 1


def test_errors_revert():
    state, _ = served(on_trial(), 10, error=True)
    assert state.phase is Phase.REVERTED
    assert "10 of 10 requests failed" in state.reason


def test_too_few_requests_are_filled_with_golden_samples_and_end_at_last():
    state, actions = ticked(on_trial(), 105)
    assert actions.count(on.Probe(B)) == 6
    state, _ = ticked(state, 195)
    assert (state.phase, state.reason) == (
        Phase.REVERTED,
        "only 0 requests in 300 s of trial",
    )


def test_a_clock_that_jumps_ends_no_trial():
    state, _ = served(on_trial(), 10)
    for monotonic_s in (NOW.monotonic_s + 1e9, 0.0):
        after, _ = step(state, on.Tick(), Instant(monotonic_s, 1e12), RULES)
        assert after.phase is Phase.TRIAL
        assert after.elapsed_s <= 60


def test_what_belongs_to_another_bundle_is_ignored():
    state = on_trial()
    for event in (
        on.RequestServed(A, 1e9, error=True),
        on.SelfTestFailed(A, "x"),
        on.VerifyFailed(B, "x"),
        on.SelfTestFailed(B, "late"),
        on.StartFailed(A, "x"),
        on.Started(C),
    ):
        assert play(state, event) == (state, [])


def test_an_operator_may_end_a_trial_either_way():
    state, _ = play(on_trial(), on.OperatorConfirm())
    assert (state.phase, state.current) == (Phase.CONFIRMED, B)
    state, _ = play(on_trial(), on.OperatorReject("not today"))
    assert (state.phase, state.current, state.reason) == (Phase.REVERTED, A, "not today")
    assert play(OLD, on.OperatorConfirm()) == (OLD, [])
    assert play(OLD, on.OperatorReject("x")) == (OLD, [])


def test_a_confirmed_bundle_that_no_longer_loads_gives_way_to_the_previous_one():
    state, actions = play(OLD, on.StartFailed(A, "digest"))
    assert (state.phase, state.current, state.floor_serial) == (Phase.REVERTED, C, 3)
    assert actions[1].sha256 == C
    # With nothing behind it, it stays: the next start of the process tries again.
    last, actions = play(state, on.StartFailed(C, "digest"))
    assert last.current == C
    assert kinds(actions) == ["Report"]


def test_only_so_many_failures_are_remembered():
    state = OLD
    for number in range(MAX_REFUSED + 5):
        sha256 = f"{number:064x}"
        state, _ = play(
            state,
            on.OrderReceived(order(sha256, 4, 60_000.0)),
            on.VerifyFailed(sha256, "\x00" * 999),
        )
    assert len(state.refused) == MAX_REFUSED
    assert parse_state(state.to_json()) == state


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "edgekit.slot/2"},
        {"phase": "asleep"},
        {"phase": "trial"},
        {"order": None},
        {"restarts": -1},
        {"elapsed_s": -1.0},
        {"surprise": 1},
        {"counts": {"started": False, "requests": 1, "errors": 2, "slow": 0, "loading_s": 0.0}},
    ],
)
def test_a_state_in_another_form_is_refused(change):
    parse_state(OLD.to_json())
    with pytest.raises(TrustError):
        parse_state({**OLD.to_json(), **change})


class Slot(RuleBasedStateMachine):
    """A device that does what it is told, among orders, failures and crashes in any order."""

    def __init__(self):
        super().__init__()
        self.state = State()
        self.disk = State()
        self.rules = TrialRules(duration_s=5, min_requests=3, max_duration_s=20, early_requests=3)
        self.clock_s = 0.0
        self.serves = None
        self.tested = set()  # passed since they were last accepted
        self.entered = 0
        self.crashes = 0
        self.ever_confirmed = False

    def apply(self, event):
        before, self.clock_s = self.state, self.clock_s + 1
        state, actions = step(before, event, Instant(self.clock_s, self.clock_s), self.rules)
        assert Persist() not in actions[1:]
        durable = ("phase", "confirmed", "previous", "order", "refused", "floor_serial")
        if any(getattr(state, name) != getattr(before, name) for name in durable):
            assert actions[0] == Persist()
        if state.phase is not before.phase:
            self.entered += 1
        for action in actions:
            self.act(before, state, action)
        self.state = state

    def act(self, before, state, action):
        match action:
            case Persist():
                self.disk = parse_state(json.loads(canonical_json(state.to_json())))
            case on.Fetch(ordered):
                assert ordered == state.order
            case on.RunSelfTest(sha256):
                assert state.next == sha256
            case on.Start(sha256) | on.Swap(sha256):
                assert sha256 == state.current
                self.serves = sha256
            case on.Revert(sha256, failed):
                assert sha256 == (state.confirmed.sha256 if state.confirmed else None)
                assert failed == before.current
                if before.phase is Phase.TRIAL:
                    assert state.confirmed == before.confirmed
                self.serves = sha256
            case Report("accepted", sha256):
                self.tested.discard(sha256)
                self.entered, self.crashes = 0, 0

    @initialize()
    def boot(self):
        self.apply(on.ProcessStarted())

    @rule(
        sha256=st.sampled_from([A, B, C, "d" * 64]),
        serial=st.integers(0, 5),
        expires_in_s=st.integers(-5, 60),
    )
    def order(self, sha256, serial, expires_in_s):
        expires_s = max(0.0, self.clock_s + expires_in_s)
        self.apply(on.OrderReceived(order(sha256, serial, expires_s)))

    @rule(sha256=st.sampled_from([A, B, C, "d" * 64]), steps=st.integers(1, 7))
    def a_good_bundle(self, sha256, steps):
        """Go most of the way at once: chance alone rarely gets there."""
        expires_s = max(self.clock_s + 60.0, self.state.newest_expires_s + 1.0)
        self.apply(on.OrderReceived(order(sha256, self.state.floor_serial, expires_s)))
        for _ in range(steps):
            if self.state.order is not None:
                self.go_on(good=True, full=False)
        if steps == 7:
            self.wait(n=6, hangs=None)

    def under_way(self):
        return self.state.order is not None

    @precondition(under_way)
    @rule(good=st.sampled_from([True, True, True, False]), full=st.booleans())
    def go_on(self, good, full):
        """Answer what was asked for last."""
        ordered, phase = self.state.order, self.state.phase
        sha256 = ordered.sha256
        if phase is Phase.FETCHING and good:
            self.apply(on.Fetched(sha256))
            self.apply(on.Verified(sha256, ordered.serial, 50.0))
        elif phase is Phase.FETCHING:
            self.apply(on.FetchFailed(sha256, "x", full) if full else on.VerifyFailed(sha256, "x"))
        elif phase is Phase.STAGED:
            self.apply(on.Tick())
        elif phase is Phase.SELF_TEST:
            if good:
                self.tested.add(sha256)
            self.apply(on.SelfTestPassed(sha256) if good else on.SelfTestFailed(sha256, "x"))
        elif not self.state.counts.started:
            self.apply(on.Started(sha256) if good else on.StartFailed(sha256, "x"))
        else:
            for _ in range(3):
                self.apply(on.RequestServed(sha256, 1.0 if good else 99.0, not good and full))

    @rule(n=st.integers(1, 10), hangs=st.sampled_from([None, None, 1.0, 31.0]))
    def wait(self, n, hangs):
        for _ in range(n):
            self.apply(on.Tick(oldest_request_s=hangs))

    @rule(
        sha256=st.sampled_from([A, B, C, "d" * 64]) | st.none(),
        event=st.sampled_from(
            [
                on.Fetched,
                on.Started,
                lambda sha256: on.Verified(sha256, 2, None),
                lambda sha256: on.StartFailed(sha256, "x"),
                lambda sha256: on.SelfTestFailed(sha256, "x"),
                lambda sha256: on.RequestServed(sha256, 1.0, True),
            ]
        ),
    )
    def anything_at_any_time(self, sha256, event):
        under_way = self.state.order.sha256 if self.state.order else self.state.current
        self.apply(event(sha256 or under_way or A))

    @rule(clean=st.booleans())
    def restart(self, clean):
        if clean:
            self.apply(on.Stopping())
            # Whoever stops the agent in a self-test has it run once more: no loop of the machine's.
            self.entered -= 2 * (self.state.phase is Phase.SELF_TEST)
        elif self.state.phase in (Phase.SELF_TEST, Phase.TRIAL):
            self.crashes += 1
        self.state, self.serves = self.disk, None
        self.apply(on.ProcessStarted())
        assert self.serves == self.state.current

    @precondition(lambda self: self.state.phase is Phase.TRIAL)
    @rule()
    def crash_in_every_start(self):
        for _ in range(self.rules.max_restarts + 1):
            self.restart(clean=False)
        assert self.state.phase in RESTING

    @rule()
    def operator(self):
        self.apply(on.OperatorConfirm())

    @invariant()
    def something_runs_once_something_was_confirmed(self):
        self.ever_confirmed = self.ever_confirmed or self.state.confirmed is not None
        if self.ever_confirmed:
            assert self.state.confirmed is not None
            assert self.state.current is not None
            assert self.serves == self.state.current

    @invariant()
    def no_trial_without_self_test(self):
        if self.state.phase is Phase.TRIAL:
            assert self.state.order.sha256 in self.tested

    @invariant()
    def one_order_goes_only_so_far(self):
        # fetching, staged, self-test, trial, rest; and once more for each forgiven crash
        assert self.entered <= 5 + 2 * self.rules.max_restarts
        if self.crashes > 2 * self.rules.max_restarts + 1:
            assert self.state.phase in RESTING

    @invariant()
    def what_is_named_is_held(self):
        named = {self.state.current, self.state.fallback, self.state.next} - {None}
        assert named <= self.state.held

    @invariant()
    def what_is_confirmed_is_not_below_the_floor(self):
        if self.state.phase is Phase.CONFIRMED and not self.state.reason:
            assert self.state.confirmed.serial <= self.state.floor_serial


TestSlot = Slot.TestCase
TestSlot.settings = settings(
    max_examples=60,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
