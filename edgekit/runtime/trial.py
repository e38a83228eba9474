"""From an order to a confirmed bundle, and back if it fails: one pure function.

The rules, in the order in which they are applied:

1. An order is taken if it has not expired, is not older than one that was taken before, and names a
   bundle that is not below the highest confirmed serial and has not failed here under this order.
   The fleet's orders and those of the device's own settings are older or newer among themselves;
   the fleet's go before what the settings named until then.
2. A bundle is fetched, verified, and tested in a process of its own before it serves. Each of these
   may fail; then nothing has changed.
3. It then serves on trial. It stands the trial when the trial's time is over and enough requests
   were answered in time and without error. It is reverted at once when a request hangs, when the
   process restarts too often, or when errors or slow answers are surely too many.
4. Reverting needs no network: what was confirmed before is still on the disk.

``step`` never waits, reads no clock and draws no random number. Agent and simulator share it.

    state, actions = step(State(), OrderReceived(order), now)     # actions: Persist, Fetch, Report
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

from edgekit.runtime import trial_events as on
from edgekit.runtime.trial_events import Action, Event, Instant, Persist, Report
from edgekit.runtime.trial_rules import DEFAULT_RULES, TrialRules, early_verdict, verdict
from edgekit.runtime.trial_state import (
    MAX_REFUSED,
    Counts,
    Order,
    Phase,
    Refusal,
    Release,
    State,
    check_order,
    plain,
)

# A tick that comes later than this says that the process stood still, not that a trial went on.
_MAX_TICK_S = 60.0

Step: TypeAlias = tuple[State, tuple[Action, ...]]


def step(  # noqa: PLR0911 - a table, one line an event
    state: State, event: Event, now: Instant, rules: TrialRules = DEFAULT_RULES
) -> Step:
    """Decide what an event means.

    Args:
        state: Of the slot.
        event: What happened. One that speaks of a bundle that is no longer under way is ignored.
        now: The moment, by both clocks.
        rules: Of the trial.

    Returns:
        The new state, and what to do, in this order. Where a crash may not forget the change,
        ``Persist`` is the first action: nothing is done that the disk does not know.
    """
    match event:
        case on.ProcessStarted():
            return _process_started(replace(state, ticked_s=now.monotonic_s), now, rules)
        case on.Stopping():
            return replace(state, clean_stop=True), (Persist(),)
        case on.Tick():
            return _tick(_passed(state, now), event, now, rules)
        case on.OrderReceived(order):
            return _order(state, order, now)
        case on.RequestServed():
            return _served(state, event, rules)
        case on.OperatorConfirm():
            return _confirm(state) if state.phase is Phase.TRIAL else (state, ())
        case on.OperatorReject(reason):
            return (state, ()) if state.order is None else _fail(state, reason)
        case _:
            return _bundle_event(state, event)


def _bundle_event(state: State, event: Event) -> Step:  # noqa: PLR0911 - a table
    """Handle what fetching, verifying, testing and loading a bundle came to."""
    order, phase = state.order, state.phase
    if isinstance(event, on.StartFailed) and event.sha256 == state.current:
        return _start_failed(state, event)
    if order is None or getattr(event, "sha256", None) != order.sha256:
        return state, ()
    match phase, event:
        case Phase.FETCHING, on.Fetched():
            return state, (on.Verify(order.sha256),)
        case Phase.FETCHING, on.FetchFailed():
            return _fetch_failed(state, order, event)
        case Phase.FETCHING, on.VerifyFailed(_, reason):
            return _fail(state, reason)
        case Phase.FETCHING, on.Verified():
            return _verified(state, order, event)
        case Phase.SELF_TEST, on.SelfTestFailed(_, reason):
            return _fail(state, f"self-test: {reason}")
        case Phase.SELF_TEST, on.SelfTestPassed():
            on_trial = _enter(state, Phase.TRIAL)
            return on_trial, (Persist(), on.Swap(order.sha256), Report("trial", order.sha256))
        case Phase.TRIAL, on.Started() if not state.counts.started:
            return replace(state, counts=replace(state.counts, started=True)), (Persist(),)
        case _:
            return state, ()


def _order(state: State, order: Order, now: Instant) -> Step:  # noqa: PLR0911 - a line a case
    problem = _refusal(state, order, now)
    if problem is not None:
        return state, (Report("refused", order.sha256, problem),)
    if order.is_local and _is_outdone(state, order):
        return state, ()
    until_s = float(order.expires_s)
    if order.is_local:
        newest = replace(state, newest_local_s=until_s)
    else:
        newest = replace(state, newest_expires_s=until_s)
    if state.order is not None and order.sha256 == state.order.sha256:
        if order == state.order:
            return state, ()
        return replace(newest, order=order), (Persist(),)
    if state.confirmed is not None and order.sha256 == state.confirmed.sha256:
        if state.order is None:
            changed = (Persist(),) if newest != state else ()
            return newest, (*changed, Report("already", order.sha256))
        return _drop(newest, "the order was taken back")
    stopped: tuple[Action, ...] = ()
    if state.order is not None:
        newest, (_, *stopping) = _drop(newest, "another order came")
        stopped = tuple(stopping)
    accepted = _enter(replace(newest, order=order, latency_p95_max_ms=None), Phase.FETCHING)
    return accepted, (Persist(), *stopped, on.Fetch(order), Report("accepted", order.sha256))


def _refusal(  # noqa: PLR0911 - one line a rule
    state: State, order: Order, now: Instant
) -> str | None:
    """Say why an order is not taken; None where it is."""
    malformed = check_order(order)
    if malformed is not None:
        return f"the order is malformed: {malformed}"
    # A board that never hears the time must still serve what its own settings name.
    if now.unix_s is None and not order.is_local:
        return "the clock is not set, so nobody can tell whether the order has expired"
    if now.unix_s is not None and now.unix_s >= order.expires_s:
        return "the order has expired"
    if order.expires_s < (state.newest_local_s if order.is_local else state.newest_expires_s):
        return "a newer order has been taken already"
    if order.serial < state.floor_serial:
        return f"serial {order.serial} is lower than {state.floor_serial}, which was confirmed here"
    failed = state.refusal(order.sha256)
    if failed is not None and order.expires_s <= failed.expires_s:
        return f"it failed here under this order: {failed.reason}"
    return None


def _is_outdone(state: State, order: Order) -> bool:
    """Tell whether the fleet has replaced a bundle that the device's own settings name.

    Settings name the same file at every start; only a file that is newer says that somebody wants
    it again.
    """
    current = state.order or state.confirmed
    return (
        order.expires_s == state.newest_local_s
        and state.newest_expires_s > 0
        and current is not None
        and current.sha256 != order.sha256
    )


def _fetch_failed(state: State, order: Order, event: on.FetchFailed) -> Step:
    if event.disk_full and state.previous is not None:
        # The older of two bundles that both work makes room for the one that is wanted.
        return replace(state, previous=None), (Persist(), on.Fetch(order))
    return _drop(state, event.reason)


def _verified(state: State, order: Order, event: on.Verified) -> Step:
    if event.serial != order.serial:
        return _fail(state, f"serial {event.serial} is not the order's {order.serial}")
    staged = _enter(replace(state, latency_p95_max_ms=event.latency_p95_max_ms), Phase.STAGED)
    return staged, (Persist(), Report("staged", order.sha256))


def _start_failed(state: State, event: on.StartFailed) -> Step:
    if state.phase is Phase.TRIAL:
        return _fail(state, f"it does not start: {event.reason}")
    reason = plain(f"it does not start: {event.reason}")
    if state.previous is None:
        # Nothing else to run: the next start of the process tries again.
        return replace(state, reason=reason), (Report("dropped", event.sha256, reason),)
    older = replace(state, confirmed=state.previous, previous=None, reason=reason)
    if older.order is None:
        older = replace(older, phase=Phase.REVERTED)
    return older, (
        Persist(),
        on.Revert(older.current, event.sha256, reason),
        Report("reverted", event.sha256, reason),
    )


def _process_started(state: State, now: Instant, rules: TrialRules) -> Step:
    # A bundle that only waits has no part in a crash.
    blamed = not state.clean_stop and state.phase is not Phase.STAGED
    state = replace(state, clean_stop=False, restarts=state.restarts + blamed)
    order = state.order
    begin: tuple[Action, ...] = (on.Start(state.current),) if state.current else ()
    if order is None:
        return replace(state, restarts=0), begin
    most = rules.max_fetch_restarts if state.phase is Phase.FETCHING else rules.max_restarts
    if state.restarts > most:
        return _fail(state, f"the process ended {state.restarts} times in {state.phase}", new=True)
    if _expired(state, now):
        return _drop(state, "the order has expired", new=True)
    if state.phase is Phase.TRIAL:
        # The trial goes on from where it was last kept; loading begins anew.
        loading = replace(state.counts, started=False, loading_s=0.0)
        return replace(state, counts=loading), (Persist(), *begin)
    if state.phase is Phase.FETCHING:
        return state, (Persist(), *begin, on.Fetch(order))
    if state.phase is Phase.SELF_TEST:
        state = replace(state, phase=Phase.STAGED)
    return state, (Persist(), *begin)


def _tick(state: State, event: on.Tick, now: Instant, rules: TrialRules) -> Step:
    order = state.order
    if order is None:
        return state, ()
    if _expired(state, now):
        return _drop(state, "the order has expired")
    if state.phase is Phase.STAGED and event.ready:
        # A restart during a self-test comes back here: its count goes on.
        testing = replace(_enter(state, Phase.SELF_TEST), restarts=state.restarts)
        return testing, (Persist(), on.RunSelfTest(order.sha256))
    if state.phase is Phase.SELF_TEST and state.elapsed_s > rules.self_test_deadline_s:
        return _fail(state, "the self-test said nothing until its deadline")
    if state.phase is Phase.TRIAL:
        return _trial_tick(state, order, event, rules)
    return state, ()


def _trial_tick(state: State, order: Order, event: on.Tick, rules: TrialRules) -> Step:
    counts, elapsed_s = state.counts, state.elapsed_s
    oldest_s = event.oldest_request_s
    if oldest_s is not None and oldest_s > rules.request_deadline_s:
        return _fail(state, f"a request hung for over {rules.request_deadline_s:g} s")
    if not counts.started:
        if counts.loading_s > rules.start_deadline_s:
            return _fail(state, f"it did not start within {rules.start_deadline_s:g} s")
        return state, ()
    if elapsed_s >= rules.duration_s and counts.requests >= max(1, rules.min_requests):
        over = verdict(counts, state.latency_p95_max_ms, rules)
        return _confirm(state) if over is None else _fail(state, over)
    if elapsed_s >= rules.max_duration_s:
        return _fail(state, f"only {counts.requests} requests in {elapsed_s:.0f} s of trial")
    actions: list[Action] = []
    if elapsed_s - state.saved_s >= rules.save_every_s:
        state = replace(state, saved_s=elapsed_s)
        actions.append(Persist())
    if elapsed_s >= rules.duration_s:
        actions.append(on.Probe(order.sha256))
    return state, tuple(actions)


def _served(state: State, event: on.RequestServed, rules: TrialRules) -> Step:
    if state.phase is not Phase.TRIAL or event.sha256 != state.current:
        return state, ()
    limit = state.latency_p95_max_ms
    # Written so that a latency that is no number counts as slow.
    slow = limit is not None and not event.error and not event.latency_ms <= limit
    old = state.counts
    counts = replace(
        old,
        requests=old.requests + 1,
        errors=old.errors + event.error,
        slow=old.slow + slow,
    )
    state = replace(state, counts=counts)
    over = early_verdict(counts, limit, rules)
    return (state, ()) if over is None else _fail(state, over)


def _confirm(state: State) -> Step:
    order = state.order
    if order is None:
        return state, ()
    older = state.confirmed
    done = _rest(
        replace(
            state,
            confirmed=Release(order.sha256, order.serial),
            previous=state.previous if older and older.sha256 == order.sha256 else older,
            floor_serial=max(state.floor_serial, order.serial),
            refused=tuple(r for r in state.refused if r.sha256 != order.sha256),
        ),
        Phase.CONFIRMED,
        "",
    )
    return done, (Persist(), Report("confirmed", order.sha256))


def _fail(state: State, reason: str, *, new: bool = False) -> Step:
    """End what is under way because of the bundle: it is not taken again under this order."""
    order = state.order
    if order is None:
        return state, ()
    refusal = Refusal(order.sha256, float(order.expires_s), plain(reason))
    others = tuple(r for r in state.refused if r.sha256 != order.sha256)
    remembered = replace(state, refused=(*others, refusal)[-MAX_REFUSED:])
    return _end(remembered, Phase.REVERTED, plain(reason), "reverted", new=new)


def _drop(state: State, reason: str, *, new: bool = False) -> Step:
    """End what is under way without blame: the same bundle may come again."""
    phase = Phase.CONFIRMED if state.confirmed else Phase.IDLE
    return _end(state, phase, plain(reason), "dropped", new=new)


def _end(state: State, phase: Phase, reason: str, what: str, *, new: bool) -> Step:
    """Leave an order; in a process that is new, nothing serves yet and nothing is to be stopped."""
    order = state.order
    if order is None:
        return state, ()
    rested = _rest(state, phase, reason)
    stop: tuple[Action, ...]
    if state.phase is Phase.TRIAL:
        stop = (on.Revert(rested.current, order.sha256, reason),)
    elif new:
        stop = (on.Start(rested.current),) if rested.current else ()
    else:
        stop = () if state.phase is Phase.STAGED else (on.Cancel(order.sha256),)
    return rested, (Persist(), *stop, Report(what, order.sha256, reason))


def _rest(state: State, phase: Phase, reason: str) -> State:
    return replace(_enter(state, phase), order=None, latency_p95_max_ms=None, reason=reason)


def _enter(state: State, phase: Phase) -> State:
    """Enter a phase: what was counted in the one before is forgotten."""
    return replace(
        state, phase=phase, counts=Counts(), restarts=0, elapsed_s=0.0, saved_s=0.0, reason=""
    )


def _expired(state: State, now: Instant) -> bool:
    """Tell whether the order ran out before its bundle served; a trial runs to its end."""
    if state.order is None or state.phase is Phase.TRIAL or now.unix_s is None:
        return False
    return now.unix_s >= state.order.expires_s


def _passed(state: State, now: Instant) -> State:
    """Add the time since the last tick."""
    since_s = 0.0 if state.ticked_s is None else now.monotonic_s - state.ticked_s
    passed_s = min(max(0.0, since_s), _MAX_TICK_S)
    state = replace(state, ticked_s=now.monotonic_s)
    if state.phase is Phase.TRIAL and not state.counts.started:
        loading_s = state.counts.loading_s + passed_s
        return replace(state, counts=replace(state.counts, loading_s=loading_s))
    return replace(state, elapsed_s=state.elapsed_s + passed_s)
