"""Which graph ships: the fastest candidate that meets the contract, else fp32, else none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from edgekit.runtime.host import host_kind
from edgekit.runtime.tasks import Prediction
from edgekit.toolchain.compare import OutputDifference
from edgekit.toolchain.events import Event
from edgekit.toolchain.plan import make_plan
from edgekit.toolchain.proposals import candidates, with_smaller_weights
from edgekit.toolchain.quantize.candidates import FLOAT, Candidate
from edgekit.toolchain.refusals import summed_up
from edgekit.toolchain.stages import Workbench
from edgekit.toolchain.timing import PairTiming
from edgekit.toolchain.verify import accuracy_measurements, size_measurement
from edgekit.wire.measurement import Measurement, Requirement, Verdict, judge

# An int8 model that is slower than this against fp32 is not worth its loss.
MAX_MEASURED_RATIO = 1.0
MAX_PREDICTED_RATIO = 1.0
# What onnxruntime runs is the float32 graph: a pair of timings differs by its own noise.
MAX_WEIGHTS_RATIO = 1.05


@dataclass(frozen=True)
class Judged:
    """A candidate with what was measured of it and what the contract says.

    Attributes:
        candidate: The graph.
        measurements: Accuracy, size, predicted latency and memory.
        verdicts: One a requirement.
        latency_ratio: Against fp32: measured on this host or predicted for the target.
        ratio_kind: ``measured`` (on this host), ``measured on rpi5-lab-3`` or ``predicted``.
        timing: Paired timing, where it was taken.
        outputs: How far each output is from fp32's, by itself, on calibration samples.
        reason: Why it does not ship; empty for the one that does.
    """

    candidate: Candidate
    measurements: tuple[Measurement, ...]
    verdicts: tuple[Verdict, ...]
    latency_ratio: float
    ratio_kind: str
    timing: PairTiming | None = None
    outputs: tuple[OutputDifference, ...] = ()
    reason: str = ""

    @property
    def meets_contract(self) -> bool:
        """True if no requirement fails."""
        return all(v.met for v in self.verdicts)


@dataclass
class Decision:
    """What was decided.

    Attributes:
        shipped: The winner, or None where nothing meets the contract.
        judged: Everything that was tried, fp32 first.
        refused: Plans that were not evaluated, by name, with the reason.
        reason: Why the winner ships, for people.
        stopped: What ended the search before all was tried; empty if nothing did.
    """

    shipped: Judged | None
    judged: list[Judged] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    reason: str = ""
    stopped: str = ""

    @property
    def winner(self) -> Judged:
        """What ships.

        Raises:
            ValueError: Nothing does.
        """
        if self.shipped is None:
            raise ValueError("nothing ships")
        return self.shipped


@dataclass(frozen=True)
class TimeLimit:
    """When a search ends with what it has found.

    Attributes:
        minutes: How long it may go on; None for as long as it takes.
        clock: Seconds since any moment.
        started: What the clock said at the start.
    """

    minutes: float | None
    clock: Callable[[], float]
    started: float

    @classmethod
    def of(cls, minutes: float | None, clock: Callable[[], float]) -> TimeLimit:
        """Start a limit now."""
        return cls(minutes, clock, clock())

    @property
    def is_over(self) -> bool:
        """True once the time is up."""
        return self.minutes is not None and self.clock() - self.started >= 60 * self.minutes


NO_LIMIT = TimeLimit(None, lambda: 0.0, 0.0)


def decide(
    bench: Workbench, limit: TimeLimit = NO_LIMIT, *, judge_slower: bool = False
) -> Decision:
    """Search for the fastest candidate that meets the contract.

    A quick search takes the plans as they come, the most int8 first, and stops at the first that
    meets the contract. A full one tries all, and takes the fastest; of equally fast ones the
    smallest. There is no chance in either.

    Args:
        bench: The model on its target.
        limit: When to stop; what was found until then counts.
        judge_slower: Find the accuracy of candidates that are too slow, too.

    Returns:
        The decision; ``shipped`` is None where neither an int8 plan nor fp32 meets the contract.
    """
    fp32 = _judge_fp32(bench)
    decision = Decision(shipped=None, judged=[fp32.judged])
    values = bench.plan.step("quantize").values()
    locked = values.get("decision")

    def known(name: str) -> float | None:
        return next((_first(j) for j in decision.judged if j.candidate.name == name), None)

    def too_slow(candidate: Candidate) -> str:
        # The first is judged all the same: people ask what int8 would lose here.
        if judge_slower or len(decision.judged) == 1:
            return ""
        return _too_slow(bench, candidate, fp32)

    tried = candidates(bench, decision.refused, known, locked, too_slow)
    for candidate in () if locked == "fp32" else tried:
        judged = _judge(bench, candidate, fp32)
        if locked is not None and judged.meets_contract:
            # What was decided before is repeated, not decided again.
            judged = replace(judged, reason="")
        decision.judged.append(judged)
        if not judged.reason:
            if locked is None:
                decision.judged += _judge_smaller(bench, judged, fp32)
            if locked is not None or values["search"] == "quick":
                break
        if limit.is_over:
            decision.stopped = f"the search ended after its {limit.minutes:g} min"
            break
    if locked not in (None, "fp32") and not decision.judged[1:]:
        # This edgekit makes no candidate of that name any more: decide anew.
        search = bench.plan.step("quantize").params["search"]
        anew = make_plan(bench.recipe, bench.resolved, search=search)
        return decide(bench.with_plan(anew), limit, judge_slower=judge_slower)
    return _choose(decision, locked)


def _first(judged: Judged) -> float:
    """Return a candidate's accuracy: more is better."""
    return judged.measurements[0].value


def _choose(decision: Decision, locked: object) -> Decision:
    """Let the fastest of what meets the contract ship, else fp32, else nothing."""
    fp32, *tried = decision.judged
    good = [judged for judged in tried if not judged.reason]
    if good:
        shipped = min(good, key=lambda j: (round(j.latency_ratio, 2), j.candidate.graph.size_bytes))
        decision.shipped, decision.reason = shipped, _why(shipped)
        name = shipped.candidate.name
        decision.judged = [
            replace(j, reason=f"{name} is faster, or as fast and smaller")
            if j in good and j is not shipped
            else j
            for j in decision.judged
        ]
    elif fp32.meets_contract:
        decision.shipped = replace(fp32, reason="")
        decision.reason = f"fp32 is kept: {_why_fp32(decision, locked)}"
    if decision.stopped:
        decision.reason += f"; {decision.stopped}"
    return decision


@dataclass(frozen=True)
class _Reference:
    judged: Judged
    predictions: list[Prediction]
    latency_ms: float


def _judge_fp32(bench: Workbench) -> _Reference:
    graph = bench.canonical.graph
    predictions = bench.predictions(graph, "fp32")
    predicted = bench.predict(graph)
    measurements = (
        *_accuracy(bench, predictions, predictions),
        size_measurement(graph.size_bytes),
        *predicted.measurements,
    )
    contract = bench.recipe.contract_for(bench.plan.target)
    judged = Judged(
        Candidate("fp32", "fp32", graph),
        measurements,
        judge(contract, measurements, measurements),
        1.0,
        "predicted",
        reason=_shortfall(judge(contract, measurements, measurements)),
    )
    return _Reference(judged, predictions, _latency(predicted.measurements))


def _judge(
    bench: Workbench, candidate: Candidate, fp32: _Reference, like: Judged | None = None
) -> Judged:
    """Judge a candidate; one that runs `like` another takes that one's time."""
    predicted = bench.predict(candidate.graph)
    predictions = bench.predictions(candidate.graph, candidate.name)
    measurements = (
        *_accuracy(bench, fp32.predictions, predictions),
        size_measurement(candidate.graph.size_bytes),
        *predicted.measurements,
    )
    contract = bench.recipe.contract_for(bench.plan.target)
    verdicts = judge(contract, measurements, fp32.judged.measurements)
    ratio, kind, timing = _latency(predicted.measurements) / fp32.latency_ms, "predicted", None
    reason = _shortfall(verdicts)
    if like is not None:
        ratio, kind, timing = like.latency_ratio, like.ratio_kind, like.timing
    elif not reason and decides_by_timing(bench):
        timing = bench.timing(candidate.graph)
        ratio = timing.ratio
        kind = f"measured on {bench.timed_on}" if bench.device else "measured"
    limit = MAX_MEASURED_RATIO if timing else MAX_PREDICTED_RATIO
    if candidate.precision in FLOAT:
        limit = MAX_WEIGHTS_RATIO
    if not reason and ratio > limit:
        reason = _slower(ratio, kind)
    bench.on_event(
        Event(
            bench.recipe.name,
            "candidate",
            1,
            1,
            detail=f"{candidate.name}: {reason or 'meets the contract'}",
        )
    )
    outputs = tuple(bench.differences(candidate.graph))
    return Judged(candidate, measurements, verdicts, ratio, kind, timing, outputs, reason)


def _too_slow(bench: Workbench, candidate: Candidate, fp32: _Reference) -> str:
    """Say why a candidate's predicted time rules it out; empty if it does not, or is not asked."""
    locked = bench.plan.step("quantize").values().get("decision")
    if candidate.precision in FLOAT or locked is not None or decides_by_timing(bench):
        return ""
    ratio = _latency(bench.predict(candidate.graph).measurements) / fp32.latency_ms
    return _slower(ratio, "predicted") if ratio > MAX_PREDICTED_RATIO else ""


def _slower(ratio: float, kind: str) -> str:
    return f"it takes {ratio:.2f} x the time of fp32 ({kind})"


def _judge_smaller(bench: Workbench, judged: Judged, fp32: _Reference) -> list[Judged]:
    """Judge the form of a good candidate whose float32 weights take half the bytes."""
    candidate = with_smaller_weights(bench, judged.candidate)
    if candidate is None:
        return []
    return [_judge(bench, candidate, fp32, like=judged)]


def _why_fp32(decision: Decision, locked: object) -> str:
    if locked == "fp32":
        return "edgekit.lock holds an earlier decision"
    # The candidate that came closest is the one to name.
    tried = [j for j in decision.judged[1:] if j.reason]
    if tried:
        closest = max(tried, key=lambda j: sum(v.met for v in j.verdicts))
        return f"with {closest.candidate.name}, {closest.reason}"
    return "; ".join(summed_up(decision.refused)) or "nothing to quantize"


def _why(judged: Judged) -> str:
    return (
        f"{judged.candidate.name} meets the contract at {judged.latency_ratio:.2f} x the time of "
        f"fp32 ({judged.ratio_kind})"
    )


def decides_by_timing(bench: Workbench) -> bool:
    """Tell whether a device or a host of the target's kind times, and no decision is locked."""
    locked = bench.plan.step("quantize").values().get("decision")
    is_there = bench.device is not None or bench.resolved.target.family == host_kind()
    return is_there and locked is None


def _accuracy(
    bench: Workbench, reference: list[Prediction], predictions: list[Prediction]
) -> list[Measurement]:
    return accuracy_measurements(
        bench.task,
        bench.recipe.metric,
        bench.evaluation_set,
        reference,
        predictions,
        f"{host_kind()} host",
    )


def _latency(measurements: tuple[Measurement, ...]) -> float:
    return next(m.value for m in measurements if m.metric == "latency_p50_ms")


def _shortfall(verdicts: tuple[Verdict, ...]) -> str:
    return "; ".join(describe_shortfall(v) for v in verdicts if not v.met)


def describe_shortfall(verdict: Verdict) -> str:
    """Say what a failed requirement asked for and what was found."""
    requirement = verdict.requirement
    if verdict.measurement is None:
        return f"{requirement.metric} is required and could not be evaluated"
    shown = _short_of(verdict.measurement.value, requirement)
    return f"{requirement.metric} is {shown}, required {describe_limit(requirement)}"


def _short_of(value: float, requirement: Requirement) -> str:
    """Write a value with three digits, or as many as it takes to stay on its side of the limit."""
    for digits in range(3, 10):
        shown = f"{value:.{digits}g}"
        if requirement.vs == "fp32":
            return shown
        if requirement.minimum is not None and float(shown) < requirement.minimum:
            return shown
        if requirement.maximum is not None and float(shown) > requirement.maximum:
            return shown
    return f"{value:g}"


def describe_limit(requirement: Requirement) -> str:
    """Write a requirement's limit: ``≥ 0.95``, ``≥ fp32 - 0.02``."""
    sign, limit = (
        ("≥", requirement.minimum) if requirement.maximum is None else ("≤", requirement.maximum)
    )
    if requirement.vs == "fp32":
        return f"{sign} fp32 {'-' if (limit or 0) < 0 else '+'} {abs(limit or 0):g}"
    return f"{sign} {limit:g}"
