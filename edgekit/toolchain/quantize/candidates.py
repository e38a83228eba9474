"""The graphs that could ship: fp32, and int8 plans from all layers down to the safest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.runtime.session import Run, open_session, runner
from edgekit.toolchain.graph import Graph
from edgekit.toolchain.quantize.calibrate import (
    Feeds,
    RangeRule,
    TensorStats,
    choose_range,
)
from edgekit.toolchain.quantize.layers import Layer, find_layers
from edgekit.toolchain.quantize.sensitivity import MAX_SQNR_DB
from edgekit.toolchain.quantize.write import int8_share, write_dynamic, write_static
from edgekit.toolchain.target import Quantization
from edgekit.wire.errors import BuildError

if TYPE_CHECKING:
    import numpy as np

# A plan whose weights stay float after all is not an int8 plan, and never ships as one.
MIN_INT8_SHARE = 0.1
_RULE_FEEDS = 16


@dataclass(frozen=True)
class Candidate:
    """A graph that could ship.

    Attributes:
        name: ``fp32``, ``static int8``, ``static int8, 3 layers fp32``, ``dynamic int8``, …
        precision: ``fp32``, ``int8 static``, ``int8 static+dynamic`` or ``int8 dynamic``.
        graph: The model.
        kept_float: Names of the layers that stay float32, worst first.
        int8_share: Share of weights in 8 bits, 0..1.
    """

    name: str
    precision: str
    graph: Graph
    kept_float: tuple[str, ...] = ()
    int8_share: float = 0.0


def tensors_to_calibrate(graph: Graph, layers: Sequence[Layer]) -> list[str]:
    """Return the tensors whose ranges a static plan needs: inputs and outputs of all layers."""
    names = {layer.activation for layer in layers} | {layer.output for layer in layers}
    wanted = {layer.name for layer in layers}
    names.update(n.output[0] for n in graph.proto.graph.node if n.name in wanted)
    return sorted(names)


def choose_rule(
    graph: Graph,
    scheme: Quantization,
    stats: Mapping[str, TensorStats],
    layers: Sequence[Layer],
    feeds: Sequence[Feeds],
) -> tuple[RangeRule, dict[str, tuple[float, float]], dict[str, float]]:
    """Choose the range rule that keeps the outputs closest to fp32 on calibration feeds.

    Args:
        graph: The float32 graph.
        scheme: The target's.
        stats: Of all tensors to calibrate.
        layers: All layers.
        feeds: Calibration feeds; the first few are used.

    Returns:
        The rule, the ranges it gives, and the SQNR of every rule in dB (the worst output's).
    """
    reference = runner(open_session(graph.to_bytes()))
    count = min(_RULE_FEEDS, len(feeds))
    few = [feeds[i * len(feeds) // count] for i in range(count)]
    wanted = [reference(feed) for feed in few]
    sqnr: dict[str, float] = {}
    ranges: dict[str, dict[str, tuple[float, float]]] = {}
    for rule in RangeRule:
        ranges[rule] = {name: choose_range(s, rule) for name, s in stats.items()}
        quantized = write_static(graph, scheme, ranges[rule], [layer.name for layer in layers])
        sqnr[rule] = worst_output_sqnr_db(runner(open_session(quantized.to_bytes())), wanted, few)
    best = max(RangeRule, key=lambda rule: sqnr[rule])
    return best, ranges[best], {rule.value: round(sqnr[rule], 2) for rule in RangeRule}


def worst_output_sqnr_db(
    run: Run, wanted: Sequence[Mapping[str, np.ndarray[Any, Any]]], feeds: Sequence[Feeds]
) -> float:
    """Return the lowest signal-to-noise ratio of any output, in dB; each output by itself.

    The mean over feeds of each feed's own ratio: sums over all of them hear the loud ones alone.
    """
    import numpy as np

    ratios: dict[str, list[float]] = {}
    for feed, reference in zip(feeds, wanted, strict=True):
        answer = run(feed)
        for name, value in reference.items():
            a, b = value.astype(np.float64), answer[name].astype(np.float64)
            signal, noise = float((a * a).sum()), float(((a - b) ** 2).sum())
            decibel = 10 * math.log10(max(signal, 1e-30) / max(noise, 1e-30))
            ratios.setdefault(name, []).append(min(decibel, MAX_SQNR_DB))
    return min(math.fsum(found) / len(found) for found in ratios.values())


def static_candidate(
    graph: Graph,
    scheme: Quantization,
    ranges: Mapping[str, tuple[float, float]],
    sqnr_db: Mapping[str, float],
    float_share: float,
) -> Candidate:
    """Quantize all layers but the worst share of them.

    Args:
        graph: The float32 graph; recurrent layers may already be dynamic.
        scheme: The target's.
        ranges: Of all layers' tensors.
        sqnr_db: Of each layer by itself.
        float_share: Share of the layers that stays float32, 0..1.

    Raises:
        BuildError: The writer refuses the graph.
    """
    worst_first = sorted(sqnr_db, key=lambda name: (sqnr_db[name], name))
    kept = tuple(worst_first[: math.ceil(float_share * len(worst_first))])
    quantized = write_static(
        graph, scheme, ranges, [name for name in sqnr_db if name not in set(kept)]
    )
    suffix = f", {len(kept)} of {len(sqnr_db)} layers fp32" if kept else ""
    return Candidate(f"static int8{suffix}", "int8 static", quantized, kept, int8_share(quantized))


def dynamic_ops_of(graph: Graph, scheme: Quantization) -> tuple[str, ...]:
    """Return the target's dynamic operators that occur in a graph."""
    present = {node.op_type for node in graph.proto.graph.node}
    return tuple(op for op in scheme.dynamic_ops if op in present)


def dynamic_candidate(graph: Graph, scheme: Quantization) -> Candidate | None:
    """Quantize weights, activations as they come; None where no operator takes that."""
    ops = dynamic_ops_of(graph, scheme)
    if not ops:
        return None
    quantized = write_dynamic(graph, scheme, ops)
    return Candidate("dynamic int8", "int8 dynamic", quantized, (), int8_share(quantized))


def recurrent_graph(graph: Graph, scheme: Quantization) -> Graph | None:
    """Return the graph with its LSTMs quantized dynamically, as no static form of them exists."""
    if "LSTM" not in dynamic_ops_of(graph, scheme):
        return None
    return write_dynamic(graph, scheme, ("LSTM",))


def is_convolutional(graph: Graph) -> bool:
    """Tell whether a graph is quantized statically: its layers are mostly convolutions.

    Transformers lose too much with static ranges; convolutions are slow with dynamic ones.
    """
    layers = find_layers(graph.proto)
    convolutions = [layer for layer in layers if layer.op == "Conv"]
    return len(convolutions) * 2 >= len(layers) and bool(convolutions)


def check_candidate(candidate: Candidate, feeds: Sequence[Feeds]) -> None:
    """Refuse a candidate that does not load, does not run, or is not quantized.

    Raises:
        BuildError: Says which of them.
    """
    if candidate.int8_share < MIN_INT8_SHARE:
        raise BuildError(f"only {candidate.int8_share:.0%} of its weights became int8")
    import numpy as np
    import onnx

    try:
        onnx.checker.check_model(candidate.graph.proto)
    except onnx.checker.ValidationError as error:
        raise BuildError(f"it is not valid ONNX: {str(error).strip().splitlines()[0]}") from error
    outputs = runner(open_session(candidate.graph.to_bytes()))(feeds[0])
    for name, value in outputs.items():
        if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
            raise BuildError(f'its output "{name}" is NaN or infinite')
