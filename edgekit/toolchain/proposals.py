"""What the search tries: candidates in order, the one that is most int8 first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgekit.toolchain.calibration import (
    Calibration,
    dynamic_choices,
    dynamic_effects,
    static_effects,
)
from edgekit.toolchain.graph import Graph
from edgekit.toolchain.quantize.calibrate import RangeRule
from edgekit.toolchain.quantize.candidates import (
    FP16_WEIGHTS,
    INT8_WEIGHTS,
    SMALLER,
    Candidate,
    check_candidate,
    dynamic_candidate,
    is_convolutional,
    smaller,
    static_candidate,
    weights_candidate,
    with_corrected_biases,
)
from edgekit.toolchain.quantize.layers import find_layers
from edgekit.toolchain.quantize.static import StaticPlan
from edgekit.wire.errors import BuildError

if TYPE_CHECKING:
    from edgekit.toolchain.stages import Workbench


# Two rules within these points of accuracy may change places once some layers are float32.
CLOSE = 0.02
# What is known of a candidate that was tried: its accuracy, None of others.
Known = Callable[[str], float | None]
# Why a candidate's time rules it out before anything else is known of it; empty if it does not.
TooSlow = Callable[[Candidate], str]


@dataclass(frozen=True)
class Proposal:
    """A plan that may give a candidate.

    Attributes:
        name: The candidate's.
        make: Writes the candidate; None where the graph has nothing that the plan takes.
        finish: Makes it more accurate and no slower, at a price that one too slow is not worth.
    """

    name: str
    make: Callable[[], Candidate | None]
    finish: Callable[[Candidate], Candidate] = lambda candidate: candidate


def candidates(
    bench: Workbench,
    refused: dict[str, str],
    known: Known = lambda _name: None,
    only: str | None = None,
    too_slow: TooSlow = lambda _candidate: "",
) -> Iterator[Candidate]:
    """Yield candidates that load, run and are what they say; the most int8 first.

    Args:
        bench: The model on its target.
        refused: Gets the reason, by plan, why one was not evaluated.
        known: What came of candidates that were yielded before: a quick search goes on with the
            range rule that was better.
        only: Name of the one candidate that is wanted; None for all. Smaller forms of candidates
            come only so: :func:`smaller` makes them of those that meet the contract.
        too_slow: Says so before a candidate is finished and tried.
    """
    graph = bench.canonical.graph
    feeds = bench.feeds  # data that cannot stand for anything fails the build, not a candidate
    base = _base_name(only)
    seen: set[str] = set()
    made: set[str] = set()
    for proposal in _proposals(bench, known):
        # Two shares of few layers may come to the same number of them.
        if proposal.name in seen or base not in (None, proposal.name):
            continue
        seen.add(proposal.name)
        try:
            candidate = proposal.make()
            # Two plans may come to the same graph.
            if candidate is None or candidate.graph.sha256 in made:
                continue
            made.add(candidate.graph.sha256)
            if why := too_slow(candidate):
                refused[proposal.name] = f"{proposal.name}: {why}"
                continue
            candidate = proposal.finish(candidate)
            if only != base:
                candidate = smaller(candidate)
            if candidate is None:
                continue
            check_candidate(candidate, feeds)
        except BuildError as error:
            refused[proposal.name] = f"{proposal.name}: {error.message}"
            continue
        if candidate.graph.size_bytes >= graph.size_bytes:
            refused[proposal.name] = f"{proposal.name}: the file would not be smaller"
            continue
        yield candidate


def with_smaller_weights(bench: Workbench, candidate: Candidate) -> Candidate | None:
    """Return the smaller form of a candidate; None where there is none that runs."""
    made = smaller(candidate)
    if made is not None:
        try:
            check_candidate(made, bench.feeds)
        except BuildError:
            return None
    return made


def _base_name(name: str | None) -> str | None:
    """Return the candidate that a smaller form is made of."""
    return FP16_WEIGHTS if name == INT8_WEIGHTS else name and name.removesuffix(SMALLER)


def _proposals(bench: Workbench, known: Known) -> Iterator[Proposal]:
    graph, scheme = bench.canonical.graph, bench.resolved.target.quantization
    is_full = bench.plan.step("quantize").values()["search"] == "full"
    if is_convolutional(graph):
        plans = _static_plans(bench.calibration, is_full=is_full)
        yield from _static(bench, plans, None if is_full else known)
        yield Proposal("dynamic int8", lambda: dynamic_candidate(graph, scheme))
    else:
        yield from _dynamic(bench, bench.smoothed, "dynamic int8")
        if is_full and bench.smoothed is not graph:
            yield from _dynamic(bench, graph, "dynamic int8, not smoothed")
    yield Proposal(FP16_WEIGHTS, lambda: weights_candidate(graph))


def _static_plans(calibration: Calibration, *, is_full: bool) -> dict[str, StaticPlan]:
    """Return the plans that each share of float32 layers is tried with, by their names."""
    best, *others = calibration.plans
    if not is_full:
        others = [plan for plan in others if plan.rule == RangeRule.MIN_MAX]
    named = {"static int8": best}
    named |= {f"static int8, {plan.rule} ranges": plan for plan in others}
    if is_full:
        # Slower and quieter: fewer layers may have to stay float32.
        named |= {
            f"{name}, float between": replace(plan, between=False)
            for name, plan in named.items()
            if plan.between
        }
    return named


def _static(
    bench: Workbench, plans: Mapping[str, StaticPlan], known: Known | None
) -> Iterator[Proposal]:
    graph, scheme = bench.canonical.graph, bench.resolved.target.quantization
    calibration, base = bench.calibration, bench.static_base
    precision = "int8 static" if base.sha256 == graph.sha256 else "int8 static+dynamic"
    left = dict(plans)

    def finish(made: Candidate) -> Candidate:
        return with_corrected_biases(made, base, calibration.layers, bench.feeds)

    for share in bench.plan.step("quantize").values()["float_shares"]:
        for kind, plan in tuple(left.items()):
            name = _named(kind, share, len(calibration.layers))

            def make(name: str = name, plan: StaticPlan = plan, share: float = share) -> Candidate:
                kept = _loudest(bench, base, static_effects, share)
                made = static_candidate(base, scheme, plan, calibration.layers, kept)
                return replace(made, name=name, precision=precision)

            yield Proposal(name, make, finish)
        if known is not None and not share:
            left = _closer(left, known)


def _closer(plans: Mapping[str, StaticPlan], known: Known) -> dict[str, StaticPlan]:
    """Return the plans that came close with every layer in int8; all where that is not known."""
    found = {kind: known(kind) for kind in plans}
    values = [value for value in found.values() if value is not None]
    if len(values) < len(plans):
        return dict(plans)
    least = max(values) - CLOSE
    return {kind: plan for kind, plan in plans.items() if (found[kind] or 0.0) >= least}


def _dynamic(bench: Workbench, graph: Graph, kind: str) -> Iterator[Proposal]:
    scheme = bench.resolved.target.quantization
    layers = dynamic_choices(graph, scheme)

    def effects(bench: Workbench) -> dict[str, float]:
        return dynamic_effects(bench, graph)

    for share in bench.plan.step("quantize").values()["float_shares"]:
        name = _named(kind, share, len(layers))

        def make(name: str = name, share: float = share) -> Candidate | None:
            made = dynamic_candidate(graph, scheme, _loudest(bench, graph, effects, share))
            return made and replace(made, name=name)

        yield Proposal(name, make)


def _named(kind: str, share: float, layers: int) -> str:
    return f"{kind}, {math.ceil(share * layers)} of {layers} layers fp32" if share else kind


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
