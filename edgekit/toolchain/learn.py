"""Learn a target's facts from benchmarks of bundles on a device of its kind.

The roofline (:mod:`edgekit.toolchain.predict`) says what a model should take; a benchmark says what
it took. Three facts of the target are moved until the two agree, by least squares of the logarithm
of measured over predicted: ``cpu.fp32_gflops``, ``cpu.int8_gops`` and ``memory.bandwidth_mib_s``
(Levenberg-Marquardt; Marquardt, SIAM J. Appl. Math. 11(2), 1963). They then are what the device
reaches under the roofline's assumptions, no longer published peaks. What the runtime spends around
each node is fitted along, lest small models bend the facts, and only reported: it is an assumption
of the roofline, not a fact of a target.

A fact is only moved where the models tell it: one that changes no latency, or whose standard error
stays wide, keeps its value, and the result says so.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.toolchain.facts import GraphFacts
from edgekit.toolchain.predict import ASSUMED, cost_nodes
from edgekit.toolchain.target import Target
from edgekit.wire.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vector = npt.NDArray[np.float64]

LEARNED = ("cpu.fp32_gflops", "cpu.int8_gops", "memory.bandwidth_mib_s")
OVERHEAD = "overhead_cycles"
MIN_MODELS = 3
# Exponent with which some model's latency must follow a fact, for the models to tell it.
MIN_SENSITIVITY = 0.1
# Widest standard error of a fact's logarithm: a quarter up or down.
MAX_ERROR = 0.25
# Timings are no better than this, however well they happen to fit.
MIN_NOISE = 0.02
# Share of what stands in the target that a device can plausibly reach.
PLAUSIBLE = (0.05, 4.0)
# Median of measured over predicted after the fit; beyond, the roofline does not describe it.
MAX_SPREAD = 3.0
MAX_LATENCY_MS = 3_600_000.0
_STEP = 1e-3
_RIDGE = 1e-6
_ROUNDS = 100
_STARTS = (1.0, 0.5, 0.25)


@dataclass(frozen=True)
class Observation:
    """One model as it was measured.

    Attributes:
        name: Of the model.
        bundle_sha256: Of its bundle; two observations of one are one model.
        facts: Of its graph, for the shapes that were fed.
        threads: Intra-op threads.
        latency_ms: Median of a call of the model.
    """

    name: str
    bundle_sha256: str
    facts: GraphFacts
    threads: int
    latency_ms: float


@dataclass(frozen=True)
class Learned:
    """One fact.

    Attributes:
        key: ``cpu.fp32_gflops``; or ``overhead_cycles``, which no target has.
        before: As it stands in the target.
        after: As the models say; None where they do not tell.
        error: Standard error as a share of the value; None where no latency follows the fact.
    """

    key: str
    before: float
    after: float | None
    error: float | None


@dataclass(frozen=True)
class Row:
    """A model before and after.

    Attributes:
        name: Of the model.
        measured_ms: As it was measured.
        before_ms: Predicted from the target's facts.
        after_ms: Predicted from the learned ones.
    """

    name: str
    measured_ms: float
    before_ms: float
    after_ms: float


@dataclass(frozen=True)
class Fit:
    """What was learned.

    Attributes:
        facts: One each of :data:`LEARNED`, and the overhead.
        rows: One each model; predictions are with the target's facts alone.
    """

    facts: tuple[Learned, ...]
    rows: tuple[Row, ...]

    @property
    def changed(self) -> dict[str, float]:
        """The facts that are to change, by key."""
        return {
            f.key: f.after
            for f in self.facts
            if f.key in LEARNED and f.after is not None and f.after != f.before
        }

    def off(self, *, after: bool) -> float:
        """Return by what factor predictions are off, the geometric mean over the models, ≥ 1."""
        ratios = [row.measured_ms / (row.after_ms if after else row.before_ms) for row in self.rows]
        return math.exp(math.fsum(abs(math.log(ratio)) for ratio in ratios) / len(ratios))


def fit(observations: Sequence[Observation], target: Target) -> Fit:
    """Learn the facts of a target.

    Args:
        observations: Of at least three models; of several of one, the median counts.
        target: As it stands.

    Raises:
        ConfigError: Too few models, or latencies or results that cannot be.
    """
    models = _by_model(observations)
    if len(models) < MIN_MODELS:
        raise ConfigError(
            f"{len(models)} model{'s are' if len(models) != 1 else ' is'} too few to learn from",
            hint=f"bench at least {MIN_MODELS} different bundles on the device",
        )
    problem = _Problem(models, target)
    best, errors, wide = problem.fit()
    after = {key: _three_digits(_value(target, key) * math.exp(best[key])) for key in best}
    _check(after, target)
    off = math.exp(math.fsum(abs(float(r)) for r in problem.residuals(best)) / len(models))
    if off > MAX_SPREAD:
        raise ConfigError(
            f"no facts describe these latencies: they still are off by a factor of {off:.1f}",
            hint="was the device busy, throttled, or of another kind?",
        )
    known = wide | errors
    facts = tuple(
        Learned(key, _value(target, key), after.get(key), known.get(key))
        for key in (*LEARNED, OVERHEAD)
    )
    moved = with_facts(target, {key: after[key] for key in LEARNED if key in after})
    rows = tuple(
        Row(o.name, o.latency_ms, predict_ms(o, target), predict_ms(o, moved)) for o in models
    )
    return Fit(facts, rows)


def predict_ms(
    observation: Observation, target: Target, overhead_cycles: float = ASSUMED.overhead_cycles
) -> float:
    """Predict a model's latency on a target, with as many threads as it was measured with."""
    runtime = dataclasses.replace(target.runtime, threads=observation.threads)
    placed = dataclasses.replace(target, runtime=runtime)
    assumed = dataclasses.replace(ASSUMED, overhead_cycles=overhead_cycles)
    return math.fsum(node.total_ms for node in cost_nodes(observation.facts, placed, assumed))


def with_facts(target: Target, values: Mapping[str, float]) -> Target:
    """Return a target with other facts.

    Args:
        target: The target.
        values: By key, as in :data:`LEARNED`.
    """
    for key, value in values.items():
        section, name = key.split(".")
        part = dataclasses.replace(getattr(target, section), **{name: value})
        target = dataclasses.replace(target, **{section: part})
    return target


def _value(target: Target, key: str) -> float:
    if key == OVERHEAD:
        return ASSUMED.overhead_cycles
    section, name = key.split(".")
    return float(getattr(getattr(target, section), name))


def _by_model(observations: Sequence[Observation]) -> list[Observation]:
    """Check latencies, and make one observation a bundle and number of threads."""
    groups: dict[tuple[str, int], list[Observation]] = {}
    for observation in observations:
        latency_ms = observation.latency_ms
        if not 0 < latency_ms <= MAX_LATENCY_MS:
            raise ConfigError(f"{observation.name}: {latency_ms:g} ms is no latency")
        if not 1 <= observation.threads <= 1024:  # noqa: PLR2004 - as a manifest bounds them
            raise ConfigError(f"{observation.name}: {observation.threads} threads")
        if not observation.facts.nodes:
            raise ConfigError(f"{observation.name} has no nodes")
        groups.setdefault((observation.bundle_sha256, observation.threads), []).append(observation)
    found: dict[str, Observation] = {}
    for (sha256, _), group in sorted(groups.items(), key=lambda item: item[0]):
        middle = statistics.median(o.latency_ms for o in group)
        # One model with several thread counts is still one model: the fewest threads say most.
        found.setdefault(sha256, dataclasses.replace(group[0], latency_ms=middle))
    return list(found.values())


class _Problem:
    """The logarithm of predicted over measured of each model, by how far facts have moved."""

    def __init__(self, models: Sequence[Observation], target: Target) -> None:
        self._models = models
        self._target = target

    @functools.cached_property
    def _logs(self) -> Vector:
        import numpy as np

        return np.array([math.log(o.latency_ms) for o in self._models])

    def fit(self) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
        """Fit what the models tell.

        Returns:
            By key: how far each fact has moved and its standard error, both as logarithms; and
            the errors of those that are told too vaguely to be moved.
        """
        free = self.told([*LEARNED, OVERHEAD], {})
        wide: dict[str, float] = {}
        while free:
            best = self.solve(free)
            errors = self.errors(free, best)
            told = self.told(free, best)
            worst = max(free, key=lambda key: (key not in told, errors[key]))
            # As many unknowns as models fit anything.
            if worst in told and errors[worst] <= MAX_ERROR and len(free) < len(self._models):
                return best, errors, wide
            free.remove(worst)
            if worst in told:
                wide[worst] = errors[worst]
        return {}, {}, wide

    def residuals(self, moves: Mapping[str, float]) -> Vector:
        """Return the logarithm of predicted over measured, a model each."""
        import numpy as np

        values = {key: _value(self._target, key) * math.exp(move) for key, move in moves.items()}
        cycles = values.pop(OVERHEAD, ASSUMED.overhead_cycles)
        moved = with_facts(self._target, values)
        return np.array([math.log(predict_ms(o, moved, cycles)) for o in self._models]) - self._logs

    def _off(self, free: Sequence[str], moves: Vector) -> Vector:
        return self.residuals(dict(zip(free, map(float, moves), strict=True)))

    def jacobian(self, free: Sequence[str], moves: Vector) -> Vector:
        import numpy as np

        columns = []
        for place in range(len(free)):
            up, down = moves.copy(), moves.copy()
            up[place] += _STEP
            down[place] -= _STEP
            difference = self._off(free, up) - self._off(free, down)
            columns.append(difference / (2 * _STEP))
        return np.stack(columns, axis=1)

    def told(self, free: Sequence[str], at: Mapping[str, float]) -> list[str]:
        """Return the facts that some model's latency follows.

        Where nothing is known yet, a fact counts if it would matter anywhere it can plausibly be.
        """
        import numpy as np

        spots = [np.array([at[key] for key in free])] if at else self._spots(len(free))
        follows = np.max([np.abs(self.jacobian(free, spot)).max(axis=0) for spot in spots], axis=0)
        return [key for key, most in zip(free, follows, strict=True) if most >= MIN_SENSITIVITY]

    @staticmethod
    def _spots(count: int) -> list[Vector]:
        """Return where to begin: all facts as they stand or lower, and one lower by itself."""
        import numpy as np

        together = [np.full(count, math.log(start)) for start in _STARTS]
        return [*together, *(np.eye(count) * math.log(_STARTS[-1]))]

    def solve(self, free: Sequence[str]) -> dict[str, float]:
        """Minimise the squares, from a few starts: a roofline has corners."""
        found: list[tuple[float, tuple[float, ...]]] = []
        for start in self._spots(len(free)):
            moves = self._descend(free, start)
            cost = float((self._off(free, moves) ** 2).sum())
            found.append((cost, tuple(float(move) for move in moves)))
        return dict(zip(free, min(found)[1], strict=True))

    def _descend(self, free: Sequence[str], moves: Vector) -> Vector:
        import numpy as np

        damping = 1e-2
        off = self._off(free, moves)
        for _ in range(_ROUNDS):
            slope = self.jacobian(free, moves)
            curve = slope.T @ slope
            step = -np.linalg.solve(
                curve + damping * (np.diag(np.diag(curve)) + 1e-9 * np.eye(len(free))),
                slope.T @ off,
            )
            trial = np.clip(moves + step, math.log(PLAUSIBLE[0] / 10), math.log(PLAUSIBLE[1] * 10))
            trial_off = self._off(free, trial)
            if (trial_off**2).sum() < (off**2).sum():
                small = float(np.abs(trial - moves).max()) < 1e-7  # noqa: PLR2004 - converged
                moves, off, damping = trial, trial_off, damping / 3
                if small:
                    break
            else:
                damping *= 4
                if damping > 1e8:  # noqa: PLR2004 - no step helps: a minimum, or a corner
                    break
        return moves

    def errors(self, free: Sequence[str], at: Mapping[str, float]) -> dict[str, float]:
        """Return the standard error of each fact's logarithm."""
        import numpy as np

        moves = np.array([at[key] for key in free])
        slope, off = self.jacobian(free, moves), self._off(free, moves)
        spare = max(1, len(self._models) - len(free))
        noise = max(MIN_NOISE, math.sqrt(float((off**2).sum()) / spare))
        # The ridge makes directions that nothing holds wide, where an inverse would not exist.
        spread = noise**2 * np.linalg.inv(slope.T @ slope + _RIDGE * np.eye(len(free)))
        return {key: math.sqrt(float(spread[i, i])) for i, key in enumerate(free)}


def _check(after: Mapping[str, float], target: Target) -> None:
    for key, value in after.items():
        if key == OVERHEAD:
            continue
        share = value / _value(target, key)
        if not PLAUSIBLE[0] <= share <= PLAUSIBLE[1]:
            raise ConfigError(
                f"{key} comes out at {value:g}, {share:.3g} times what stands there: absurd",
                hint="is it the target's kind of device, idle, cool and at its full clock?",
            )


def _three_digits(value: float) -> float:
    return float(f"{value:.3g}")
