"""The agent's real life cycle of a bundle, with hands that only pretend to work.

:class:`edgekit.agent.lifecycle.Lifecycle` and :func:`edgekit.runtime.trial.step` decide; there is
no disk, no bundle and no model: what they would say comes as an event some seconds later.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from edgekit.agent.lifecycle import Lifecycle
from edgekit.agent.slots import Slots
from edgekit.runtime import trial_events as on
from edgekit.runtime.trial_rules import TrialRules
from edgekit.runtime.trial_state import RESTING, Order, Phase, Release, State
from edgekit.sim.faults import Fault
from edgekit.sim.samples import ERROR_SHARE, Board, latency_ms

BYTES_PER_S = 2e6
# A contract leaves some room above the usual latency; a slow device has none.
_LIMIT = 2.0
_HOT_S = 60.0
SIM_RULES = TrialRules(duration_s=60.0)
ReportTo = Callable[[str, on.Report], None]


@dataclass
class _Disk:
    """Slots that lie nowhere."""

    states: dict[str, State]

    def commit(self, model: str, state: State) -> None:
        self.states[model] = state

    def path(self, sha256: str) -> Path:
        return Path(sha256)

    def collect(self) -> None:
        pass


@dataclass
class SimSlots:
    """The one model slot of a device.

    Args:
        board: Names the model.
        faults: What is wrong with the device.
        generator: Its randomness.
        release: What serves at first.
        report_to: Is told what becomes of orders.
        rules: Of trials.
    """

    board: Board
    faults: AbstractSet[Fault]
    generator: random.Random
    release: Release
    report_to: ReportTo
    rules: TrialRules = SIM_RULES
    _now_s: float = 0.0
    _due: list[tuple[float, int, on.Event]] = field(default_factory=list)
    _count: int = 0

    def __post_init__(self) -> None:
        first = State(
            phase=Phase.CONFIRMED, confirmed=self.release, floor_serial=self.release.serial
        )
        disk = _Disk({self.board.model: first})
        self._life = Lifecycle(
            cast("Slots", disk), self, lambda: on.Instant(self._now_s, self._now_s), self.rules
        )

    @property
    def state(self) -> State:
        """Of the slot."""
        return self._life.states[self.board.model]

    @property
    def is_busy(self) -> bool:
        """Whether an order is under way: only then does time matter."""
        return bool(self._due) or self.state.phase not in RESTING

    @property
    def serves(self) -> Release | None:
        """What serves now."""
        state = self.state
        if state.phase is Phase.TRIAL and state.order is not None:
            return Release(state.order.sha256, state.order.serial)
        return state.confirmed

    def order(self, model: str, order: Order, now_s: float) -> None:
        """Take an order whose signature holds."""
        self._now_s = now_s
        if model != self.board.model:
            why = f"no slot is named {model}"
            self.report_to(model, on.Report("refused", order.sha256, why))
            return
        self._life.handle(model, on.OrderReceived(order))

    def tick(self, now_s: float) -> None:
        """Let time pass; about once a second while :attr:`is_busy`."""
        self._now_s = now_s
        while self._due and self._due[0][0] <= now_s:
            self._life.handle(self.board.model, heapq.heappop(self._due)[2])
        serving = self.state
        if serving.phase is Phase.TRIAL and serving.counts.started and serving.order:
            for _ in range(self.board.requests_per_s):
                self._life.handle(self.board.model, self._answer(serving.order.sha256))
        ready = Fault.HOT not in self.faults or int(now_s / _HOT_S) % 2 == 1
        self._life.tick({self.board.model: on.Tick(ready=ready)})

    def fetch(self, model: str, order: Order) -> None:  # noqa: ARG002
        """Pretend to download."""
        speed = BYTES_PER_S * self.generator.uniform(0.5, 2)
        if Fault.SLOW in self.faults:
            speed /= 4
        self._later(order.size_bytes / speed, on.Fetched(order.sha256))

    def verify(self, model: str, sha256: str) -> None:
        """Find it good."""
        order = self.state.order
        serial = order.serial if order is not None and order.sha256 == sha256 else 0
        limit_ms = self.board.latency_ms * _LIMIT
        self._life.handle(model, on.Verified(sha256, serial, limit_ms))

    def self_test(self, model: str, sha256: str, path: Path) -> None:  # noqa: ARG002
        """Pretend to test: a bad model fails half of the time here, else on trial."""
        seconds = self.generator.uniform(2, 6)
        if Fault.BAD_MODEL in self.faults and self.generator.random() < 0.5:  # noqa: PLR2004
            self._later(seconds, on.SelfTestFailed(sha256, "3 of 16 golden samples differ"))
        else:
            self._later(seconds, on.SelfTestPassed(sha256))

    def cancel(self, model: str, sha256: str) -> None:  # noqa: ARG002
        """Nothing comes of it any more."""
        self._due = [d for d in self._due if getattr(d[2], "sha256", None) != sha256]
        heapq.heapify(self._due)

    def serve(self, model: str, sha256: str | None) -> None:  # noqa: ARG002
        """Pretend to load."""
        if sha256 is not None:
            self._later(self.generator.uniform(0.5, 2), on.Started(sha256))

    def probe(self, model: str, sha256: str) -> None:  # noqa: ARG002
        """Answer one golden sample."""
        self._later(0.0, self._answer(sha256))

    def report(self, model: str, report: on.Report) -> None:
        """Pass a report on."""
        self.report_to(model, report)

    def _answer(self, sha256: str) -> on.RequestServed:
        failed = Fault.BAD_MODEL in self.faults and self.generator.random() < ERROR_SHARE
        took_ms = latency_ms(self.board, Fault.SLOW in self.faults, self.generator)
        return on.RequestServed(sha256, took_ms, error=failed)

    def _later(self, seconds: float, event: on.Event) -> None:
        self._count += 1
        heapq.heappush(self._due, (self._now_s + seconds, self._count, event))
