"""The slots of a device at work: events in, decisions by ``runtime.trial``, work by other hands.

One thread calls it, the one that the watchdog watches. It commits before it acts, collects itself,
and leaves what takes long (fetching, verifying, self-tests, loading) to :class:`Hands`, whose
results come back as events.
"""

from __future__ import annotations

import contextlib
import logging
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from edgekit.agent.slots import Slots
from edgekit.runtime import trial_events as on
from edgekit.runtime.trial import step
from edgekit.runtime.trial_events import Action, Event, Instant
from edgekit.runtime.trial_rules import DEFAULT_RULES, TrialRules
from edgekit.runtime.trial_state import RESTING, Order, Phase, State
from edgekit.wire.errors import DeviceError, EdgekitError
from edgekit.wire.manifest import Manifest

log = logging.getLogger(__name__)


class Hands(Protocol):
    """Who does the work. Every call returns at once; what comes of it is handed in as an event."""

    def fetch(self, model: str, order: Order) -> None:
        """Call :meth:`Slots.receive`; then ``Fetched`` or ``FetchFailed``."""
        ...

    def verify(self, model: str, sha256: str) -> None:
        """Call :meth:`Slots.accept`; then ``Verified``, ``VerifyFailed`` or ``FetchFailed``."""
        ...

    def self_test(self, model: str, sha256: str, path: Path) -> None:
        """Run the self-test; then ``SelfTestPassed`` or ``SelfTestFailed``."""
        ...

    def cancel(self, model: str, sha256: str) -> None:
        """Stop fetching, verifying or testing a bundle; nothing is to come back."""
        ...

    def serve(self, model: str, sha256: str | None) -> None:
        """Let this bundle serve in place of any other; then ``Started`` or ``StartFailed``.

        None: nothing serves this model any more. What the old one still computes may end first.
        """
        ...

    def probe(self, model: str, sha256: str) -> None:
        """Send one golden sample through the serving bundle; then ``RequestServed``."""
        ...

    def report(self, model: str, report: on.Report) -> None:
        """Tell the fleet."""
        ...


class Lifecycle:
    """The slots of all models of a device.

    Args:
        slots: Where bundles lie.
        hands: Who does the work.
        clock: Returns now, by both clocks.
        rules: Of trials.
    """

    def __init__(
        self,
        slots: Slots,
        hands: Hands,
        clock: Callable[[], Instant],
        rules: TrialRules = DEFAULT_RULES,
    ) -> None:
        self._slots = slots
        self._hands = hands
        self._clock = clock
        self._rules = rules
        self._states: dict[str, State] = dict(slots.states)
        # Events that the disk has not taken yet, oldest first.
        self._waiting: dict[str, deque[Event]] = defaultdict(deque)
        # The last order of the fleet for a model that came before the clock was set.
        self._early: dict[str, on.OrderReceived] = {}
        # Models whose last commit failed.
        self._unsaved: set[str] = set()

    @property
    def states(self) -> Mapping[str, State]:
        """The slots by the model's name, up to the last request."""
        return dict(self._states)

    def is_on_trial(self, model: str) -> bool:
        """Tell whether requests of a model decide anything now; from any thread."""
        state = self._states.get(model)
        return state is not None and state.phase is Phase.TRIAL

    def start(self) -> None:
        """Take up every slot where the last process left it; what is confirmed serves."""
        for model in self._states:
            self.handle(model, on.ProcessStarted())

    def stop(self) -> None:
        """Note that the process ends because it was told to."""
        for model in self._states:
            self.handle(model, on.Stopping())

    def tick(self, ticks: Mapping[str, on.Tick]) -> None:
        """Let time pass; about once a second.

        Args:
            ticks: By model, what the tick knows of it; models without one get a plain tick.
        """
        if self._early and self._clock().unix_s is not None:
            early, self._early = self._early, {}
            for model, event in early.items():
                self.handle(model, event)
        for model in sorted({*self._states, *self._waiting}):
            if model in self._unsaved and model in self._states:
                self._save(model, self._states[model])
            waiting = self._waiting[model]
            while waiting and self._handle(model, waiting[0], again=True):
                waiting.popleft()
            self.handle(model, ticks.get(model, on.Tick()))

    def handle(self, model: str, event: Event) -> None:
        """Let an event have its effect.

        A change that the disk does not take has no effect, and is tried again at every tick. Only a
        revert goes ahead: a bundle that fails must not serve on because the disk is full.

        Args:
            model: The slot.
            event: What happened.
        """
        if isinstance(event, on.OrderReceived) and self._is_too_early(event):
            log.info("%s: an order waits until the clock is set", model)
            self._early[model] = event
            return
        waiting, passing = self._waiting[model], isinstance(event, on.Tick | on.RequestServed)
        taken = (passing or not waiting) and self._handle(model, event)
        # The next tick says what this one has said; a retained order comes at each connection.
        if not taken and not passing and event not in waiting:
            waiting.append(event)

    def _is_too_early(self, event: on.OrderReceived) -> bool:
        """Tell whether nobody can say yet if an order has expired; the fleet says it only once."""
        return not event.order.is_local and self._clock().unix_s is None

    def _handle(self, model: str, event: Event, *, again: bool = False) -> bool:
        """Let an event have its effect; False where the disk did not take it."""
        old = self._states.get(model, State())
        state, actions = step(old, event, self._clock(), self._rules)
        saved = on.Persist() not in actions or self._save(model, state)
        if not saved and not any(isinstance(action, on.Revert) for action in actions):
            if isinstance(event, on.ProcessStarted) and not again:
                # What is on trial may not start uncounted.
                on_trial = old.phase is Phase.TRIAL
                self._hands.serve(model, old.fallback if on_trial else old.current)
            return False
        self._states[model] = state
        for action in actions:
            self._do(model, action)
        if saved and on.Persist() in actions and state.phase in RESTING:
            with contextlib.suppress(DeviceError):
                self._slots.collect()
        return True

    def _save(self, model: str, state: State) -> bool:
        try:
            self._slots.commit(model, state)
        except DeviceError as error:
            log.warning("%s: %s", model, error)
            self._unsaved.add(model)
            return False
        self._unsaved.discard(model)
        return True

    def _do(self, model: str, action: Action) -> None:
        hands = self._hands
        match action:
            case on.Fetch(order):
                hands.fetch(model, order)
            case on.Verify(sha256):
                hands.verify(model, sha256)
            case on.RunSelfTest(sha256):
                hands.self_test(model, sha256, self._slots.path(sha256))
            case on.Cancel(sha256):
                hands.cancel(model, sha256)
            case on.Start(sha256) | on.Swap(sha256):
                hands.serve(model, sha256)
            case on.Revert(sha256):
                hands.serve(model, sha256)
            case on.Probe(sha256):
                hands.probe(model, sha256)
            case on.Report():
                hands.report(model, action)
            case on.Persist():
                pass


def verified(slots: Slots, model: str, sha256: str) -> Event:
    """Verify a fetched bundle and put it among the whole ones.

    Args:
        slots: Where it has been fetched to.
        model: The slot that it is for.
        sha256: Its digest.

    Returns:
        ``Verified``, ``VerifyFailed``, or ``FetchFailed`` where it could not be read.
    """
    try:
        manifest = slots.accept(model, sha256)
    except DeviceError as error:
        return on.FetchFailed(sha256, str(error))
    except EdgekitError as error:
        return on.VerifyFailed(sha256, str(error))
    except OSError as error:
        return on.FetchFailed(sha256, f"the bundle cannot be read: {error.strerror}")
    return on.Verified(sha256, manifest.serial, latency_p95_max_ms(manifest))


def latency_p95_max_ms(manifest: Manifest) -> float | None:
    """Return the contract's limit of the 95th percentile of the latency, where it has one."""
    limits = [
        requirement.maximum
        for requirement in manifest.contract
        if requirement.metric == "latency_p95_ms" and requirement.vs == "absolute"
    ]
    return min((limit for limit in limits if limit is not None), default=None)
