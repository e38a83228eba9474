"""Static plans: which ranges, which layers, and what runs on integers between them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.runtime.session import open_session, runner
from edgekit.toolchain.graph import Graph
from edgekit.toolchain.quantize.calibrate import Feeds, Gate, RangeRule, choose_range
from edgekit.toolchain.quantize.histogram import TensorStats
from edgekit.toolchain.quantize.layers import Layer
from edgekit.toolchain.quantize.noise import noise_db
from edgekit.toolchain.quantize.qdq import write_qdq
from edgekit.toolchain.quantize.regions import data_inputs, followers, gates, integer_between
from edgekit.toolchain.quantize.steps import Ranges, plan_steps
from edgekit.toolchain.target import Quantization
from edgekit.wire.errors import BuildError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_RULE_FEEDS = 16
_EFFECT_FEEDS = 3
# What a build tries: entropy was the noisiest on every model measured.
RULES = (RangeRule.MIN_MAX, RangeRule.PERCENTILE, RangeRule.MSE)
# Noise that integers between layers may add for the time they save.
BETWEEN_DB = 2.0

Way = tuple[RangeRule, bool]  # the rule, and integers between layers


@dataclass(frozen=True)
class StaticPlan:
    """How a graph is quantized statically: the same for every share of layers that stays float32.

    Attributes:
        rule: Name of the range rule.
        ranges: Range of every tensor that passes through 8 bits.
        between: Nodes between int8 layers run on integers, too, where the target has them.
        noise_db: What each way adds to the outputs on calibration feeds, in dB: lower is better.
    """

    rule: str
    ranges: Ranges
    between: bool
    noise_db: Mapping[str, float]


def tensors_to_calibrate(graph: Graph, layers: Sequence[Layer], scheme: Quantization) -> list[str]:
    """Return the tensors whose ranges a static plan may need."""
    nodes = {node.name: node for node in graph.proto.graph.node}
    integer = {layer.name for layer in layers}
    integer |= integer_between(graph.proto, integer, scheme.between_ops)
    behind = followers(graph.proto)
    names: set[str] = set()
    for name in integer:
        node = nodes[name]
        names.update(data_inputs(node))
        for output in (o for o in node.output if o):
            names.add(output)
            if output in behind:
                names.add(behind[output].output[0])
    return sorted(names - {i.name for i in graph.proto.graph.initializer})


def choose_plans(
    graph: Graph,
    scheme: Quantization,
    stats: Mapping[str, TensorStats],
    layers: Sequence[Layer],
    feeds: Sequence[Feeds],
    rules: Sequence[RangeRule] = RULES,
) -> tuple[StaticPlan, ...]:
    """Make a plan of each range rule, the best one first.

    The outputs of each way are compared with fp32's on calibration feeds. Integers between layers
    are faster, so they are taken unless they add :data:`BETWEEN_DB` more noise than the quietest
    way. Noise does not tell all: what clips a few far values is quiet, and a detector reads its
    boxes from just those. So min-max, which clips none, comes second.

    Args:
        graph: The float32 graph.
        scheme: The target's.
        stats: Of all tensors to calibrate.
        layers: All layers.
        feeds: Calibration feeds; a few are used.
        rules: The rules to try.

    Raises:
        BuildError: onnxruntime runs none of them.
    """
    reads, fed = gates(graph.proto), set(graph.input_names)
    ranges: dict[RangeRule, Ranges] = {
        rule: {
            # An input's values are the caller's: a picture's 256 are exact as they are.
            name: choose_range(
                s, RangeRule.MIN_MAX if name in fed else rule, reads.get(name, Gate.NONE)
            )
            for name, s in stats.items()
        }
        for rule in rules
    }
    noise = _noise_of_ways(graph, scheme, ranges, layers, _few(feeds, _RULE_FEEDS))
    least = min(noise.values())
    best = _quietest(noise, least)
    others = [
        _quietest(own, min(own.values()))
        for rule in rules
        if rule is not best[0] and (own := {way: n for way, n in noise.items() if way[0] is rule})
    ]
    others.sort(key=lambda way: (way[0] is not RangeRule.MIN_MAX, noise[way]))
    shown = {_name_of(way): round(value, 2) for way, value in noise.items()}
    return tuple(StaticPlan(way[0].value, ranges[way[0]], way[1], shown) for way in (best, *others))


def _noise_of_ways(
    graph: Graph,
    scheme: Quantization,
    ranges: Mapping[RangeRule, Ranges],
    layers: Sequence[Layer],
    feeds: Sequence[Feeds],
) -> dict[Way, float]:
    wanted = _answers(graph, feeds)
    noise: dict[Way, float] = {}
    failure: BuildError | None = None
    for rule in ranges:
        for between in (False, True):
            try:
                made = quantized(graph, scheme, ranges[rule], layers, between=between)
                run = runner(open_session(made.to_bytes()))
                noise[rule, between] = noise_db(run, wanted, feeds)
            except BuildError as error:
                # What the runtime lacks for one way it may have for the other.
                failure = error
    if failure is not None and not noise:
        raise failure
    return noise


def _quietest(noise: Mapping[Way, float], least: float) -> Way:
    """Return the quietest way with integers between layers if one is quiet enough, else of all."""
    return min(
        noise, key=lambda way: (not (way[1] and noise[way] <= least + BETWEEN_DB), noise[way])
    )


def _name_of(way: Way) -> str:
    return f"{way[0].value}{', integers between' if way[1] else ''}"


def quantized(
    graph: Graph,
    scheme: Quantization,
    ranges: Ranges,
    layers: Sequence[Layer],
    *,
    between: bool,
) -> Graph:
    """Write a graph with some layers in int8.

    Raises:
        BuildError: No layer is left to quantize.
    """
    if not layers:
        raise BuildError("no layer is left to quantize")
    names = [layer.name for layer in layers]
    light = integer_between(graph.proto, names, scheme.between_ops) if between else frozenset()
    return write_qdq(graph, scheme, plan_steps(graph, scheme, ranges, layers, light), light)


def effect_meter(graph: Graph, feeds: Sequence[Feeds]) -> Callable[[Graph], float]:
    """Return what measures a layer's effect: what it adds to the outputs when it alone is int8.

    What a layer loses by itself says little of that: later layers hide some errors and multiply
    others.

    Args:
        graph: The float32 graph.
        feeds: Calibration feeds (never evaluation's); a few are used.

    Returns:
        A function from the graph with one layer in int8 to its outputs' noise in dB, ≤ 0.
    """
    few = _few(feeds, _EFFECT_FEEDS)
    wanted = functools.cache(lambda: _answers(graph, few))

    def effect_db(alone: Graph) -> float:
        return noise_db(runner(open_session(alone.to_bytes())), wanted(), few)

    return effect_db


def _few(feeds: Sequence[Feeds], limit: int) -> list[Feeds]:
    count = min(limit, len(feeds))
    return [feeds[i * len(feeds) // count] for i in range(count)]


def _answers(graph: Graph, feeds: Sequence[Feeds]) -> list[dict[str, Array]]:
    run = runner(open_session(graph.to_bytes()))
    return [run(feed) for feed in feeds]
