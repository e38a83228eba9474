"""Which graph ships: the fastest candidate that meets the contract, else float32, else none."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from edgekit.runtime.host import host_kind
from edgekit.runtime.tasks import Prediction
from edgekit.toolchain.calibration import dynamic_effects, static_effects
from edgekit.toolchain.compare import OutputDifference
from edgekit.toolchain.events import Event
from edgekit.toolchain.graph import Graph
from edgekit.toolchain.plan import make_plan
from edgekit.toolchain.quantize.candidates import (
    Candidate,
    check_candidate,
    dynamic_candidate,
    is_convolutional,
    static_candidate,
)
from edgekit.toolchain.quantize.layers import find_layers
from edgekit.toolchain.stages import Workbench
from edgekit.toolchain.timing import HostTiming
from edgekit.toolchain.verify import accuracy_measurements, size_measurement
from edgekit.wire.errors import BuildError
from edgekit.wire.measurement import Measurement, Requirement, Verdict, judge

# An int8 model that is slower than this against fp32 is not worth its loss.
MAX_MEASURED_RATIO = 1.0
MAX_PREDICTED_RATIO = 1.0


@dataclass(frozen=True)
class Judged:
    """A candidate with what was measured of it and what the contract says.

    Attributes:
        candidate: The graph.
        measurements: Accuracy, size, predicted latency and memory.
        verdicts: One a requirement.
        latency_ratio: Against fp32: measured on this host or predicted for the target.
        ratio_kind: ``measured`` or ``predicted``.
        timing: Paired timing on this host, where it was taken.
        outputs: How far each output is from fp32's, by itself, on calibration samples.
        reason: Why it does not ship; empty for the one that does.
    """

    candidate: Candidate
    measurements: tuple[Measurement, ...]
    verdicts: tuple[Verdict, ...]
    latency_ratio: float
    ratio_kind: str
    timing: HostTiming | None = None
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
        refused: Plans that gave no usable graph, by name, with the reason.
        reason: Why the winner ships, for people.
    """

    shipped: Judged | None
    judged: list[Judged] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    reason: str = ""

    @property
    def winner(self) -> Judged:
        """What ships.

        Raises:
            ValueError: Nothing does.
        """
        if self.shipped is None:
            raise ValueError("nothing ships")
        return self.shipped


def decide(bench: Workbench) -> Decision:
    """Try candidates, fastest plan first, until one meets the contract.

    Args:
        bench: The model on its target.

    Returns:
        The decision; ``shipped`` is None where neither an int8 plan nor fp32 meets the contract.
    """
    fp32 = _judge_fp32(bench)
    decision = Decision(shipped=None, judged=[fp32.judged])
    locked = bench.plan.step("quantize").values().get("decision")
    for candidate in () if locked == "fp32" else _candidates(bench, decision):
        if locked is not None and candidate.name != locked:
            continue
        judged = _judge(bench, candidate, fp32)
        if locked is not None and judged.meets_contract:
            # A timing decided this before; it is repeated, not taken again.
            judged = replace(judged, reason="")
        decision.judged.append(judged)
        if not judged.reason:
            decision.shipped = judged
            decision.reason = _why(judged)
            return decision
    if locked not in (None, "fp32") and not decision.judged[1:]:
        # This edgekit makes no candidate of that name any more: decide anew.
        return decide(bench.with_plan(make_plan(bench.recipe, bench.resolved)))
    if fp32.judged.meets_contract:
        decision.shipped = replace(fp32.judged, reason="")
        decision.reason = f"fp32 is kept: {_why_fp32(decision, locked)}"
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


def _judge(bench: Workbench, candidate: Candidate, fp32: _Reference) -> Judged:
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
    if not reason and decides_by_timing(bench):
        timing = bench.timing(candidate.graph)
        ratio, kind = timing.ratio, "measured"
    limit = MAX_MEASURED_RATIO if kind == "measured" else MAX_PREDICTED_RATIO
    if not reason and ratio > limit:
        reason = f"it takes {ratio:.2f} x the time of fp32 ({kind})"
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


def _why_fp32(decision: Decision, locked: object) -> str:
    if locked == "fp32":
        return "edgekit.lock holds an earlier timing that decided so"
    # The candidate that came closest is the one to name.
    tried = [j for j in decision.judged[1:] if j.reason]
    if tried:
        closest = max(tried, key=lambda j: sum(v.met for v in j.verdicts))
        return f"with {closest.candidate.name}, {closest.reason}"
    return "; ".join(decision.refused.values()) or "nothing to quantize"


def _why(judged: Judged) -> str:
    return (
        f"{judged.candidate.name} meets the contract at {judged.latency_ratio:.2f} x the time of "
        f"fp32 ({judged.ratio_kind})"
    )


def decides_by_timing(bench: Workbench) -> bool:
    """Tell whether this host is the target's kind and no earlier decision is locked."""
    locked = bench.plan.step("quantize").values().get("decision")
    return bench.resolved.target.family == host_kind() and locked is None


def _candidates(bench: Workbench, decision: Decision) -> Iterator[Candidate]:
    """Yield int8 candidates that load, run and are really quantized; the most int8 first."""
    graph = bench.canonical.graph
    feeds = bench.feeds  # data that cannot stand for anything fails the build, not a candidate
    seen: set[str] = set()
    for name, make in _makers(bench):
        try:
            candidate = make()
            if candidate is None:
                continue
            check_candidate(candidate, feeds)
        except BuildError as error:
            decision.refused[name] = f"{name}: {error.message}"
            continue
        if candidate.name in seen:
            # Two shares of few layers may come to the same number of them.
            continue
        seen.add(candidate.name)
        if candidate.graph.size_bytes >= graph.size_bytes:
            decision.refused[name] = f"{name}: the file would not be smaller"
            continue
        yield candidate


def _makers(bench: Workbench) -> Iterator[tuple[str, Callable[[], Candidate | None]]]:
    graph, scheme = bench.canonical.graph, bench.resolved.target.quantization
    shares = bench.plan.step("quantize").values()["float_shares"]
    if not is_convolutional(graph):
        for share in shares:

            def dynamic(share: float = share) -> Candidate | None:
                kept = _loudest(bench, graph, dynamic_effects, share)
                return dynamic_candidate(graph, scheme, kept)

            yield _named("dynamic int8", share), dynamic
        return
    base = bench.static_base
    precision = "int8 static" if base.sha256 == graph.sha256 else "int8 static+dynamic"
    for share in shares:

        def static(share: float = share) -> Candidate:
            calibration = bench.calibration
            kept = _loudest(bench, base, static_effects, share)
            made = static_candidate(base, scheme, calibration.plan, calibration.layers, kept)
            return replace(made, precision=precision)

        yield _named("static int8", share), static
    yield "dynamic int8", lambda: dynamic_candidate(graph, scheme)


def _named(kind: str, share: float) -> str:
    return f"{kind}, {share:.0%} of the layers fp32" if share else kind


def _loudest(
    bench: Workbench,
    graph: Graph,
    effects: Callable[[Workbench], dict[str, float]],
    share: float,
) -> tuple[str, ...]:
    """Return the layers that stay float32, the first the best worth it.

    What a layer adds to the outputs' noise counts against the root of its size: by noise alone a
    few large layers fill the file, by noise for each weight small ones that hardly matter come
    first.
    """
    if not share:
        return ()  # nothing is ranked before a plan falls short
    found = effects(bench)
    sizes = {x.name: x.parameters for x in find_layers(graph.proto)}

    def worth(name: str) -> tuple[float, str]:
        return -(10 ** (found[name] / 10)) / math.sqrt(sizes[name]), name

    return tuple(sorted(found, key=worth)[: math.ceil(share * len(found))])


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
