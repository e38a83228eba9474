"""The graphs that could ship: fp32, int8 plans from all layers down to the safest, int8 weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgekit.runtime.session import open_session, runner
from edgekit.toolchain.graph import Graph
from edgekit.toolchain.quantize.bias import corrected
from edgekit.toolchain.quantize.calibrate import Feeds
from edgekit.toolchain.quantize.layers import Layer, find_layers
from edgekit.toolchain.quantize.static import StaticPlan, quantized
from edgekit.toolchain.quantize.weights import Stored, store_weights
from edgekit.toolchain.quantize.write import int8_share, write_dynamic
from edgekit.toolchain.samples import evenly
from edgekit.toolchain.target import Quantization
from edgekit.wire.errors import BuildError

# A plan whose weights stay float after all is not an int8 plan, and never ships as one.
MIN_INT8_SHARE = 0.1
_CHECK_FEEDS = 8
_BIAS_FEEDS = 16
INT8_WEIGHTS = "int8 weights"
FP16_WEIGHTS = "fp16 weights"
FLOAT = ("fp32", FP16_WEIGHTS, INT8_WEIGHTS)  # precisions that compute in float32
SMALLER = ", float weights in 8 bits"


@dataclass(frozen=True)
class Candidate:
    """A graph that could ship.

    Attributes:
        name: ``fp32``, ``static int8``, ``static int8, 3 layers fp32``, ``dynamic int8``, …
        precision: ``fp32``, ``int8 static``, ``int8 static+dynamic``, ``int8 dynamic``,
            ``int8 weights`` or ``fp16 weights``.
        graph: The model.
        kept_float: Names of the layers that compute in float32, the first the best worth it.
        int8_share: Share of weights that are multiplied in 8 bits, 0..1; others may be stored so.
        plain: The graph before its float32 weights were stored in 16 bits; None if they were not.
    """

    name: str
    precision: str
    graph: Graph
    kept_float: tuple[str, ...] = ()
    int8_share: float = 0.0
    plain: Graph | None = None


def static_candidate(
    graph: Graph,
    scheme: Quantization,
    plan: StaticPlan,
    layers: Sequence[Layer],
    kept: Sequence[str],
) -> Candidate:
    """Quantize all layers but some.

    Args:
        graph: The float32 graph; recurrent layers may already be dynamic.
        scheme: The target's.
        plan: How.
        layers: All layers.
        kept: Names of those that stay float32.

    Raises:
        BuildError: No layer is left.
    """
    chosen = [layer for layer in layers if layer.name not in set(kept)]
    made = quantized(graph, scheme, plan.ranges, chosen, between=plan.between)
    suffix = f", {len(kept)} of {len(layers)} layers fp32" if kept else ""
    return _int8(f"static int8{suffix}", "int8 static", made, kept)


def with_corrected_biases(
    candidate: Candidate, graph: Graph, layers: Sequence[Layer], feeds: Sequence[Feeds]
) -> Candidate:
    """Correct the biases of a static candidate; it runs as fast as before.

    Args:
        candidate: As :func:`static_candidate` makes it.
        graph: The float32 graph that it was made of.
        layers: All layers.
        feeds: Calibration feeds, at least one; a few are used.

    Returns:
        The candidate with other biases, or as it is where its graph cannot be walked in pieces.
    """
    if candidate.plain is None:
        return candidate
    try:
        made = corrected(graph, candidate.plain, layers, evenly(feeds, _BIAS_FEEDS))
    except BuildError:
        return candidate
    return replace(candidate, graph=store_weights(made, Stored.FLOAT16), plain=made)


def dynamic_ops_of(graph: Graph, scheme: Quantization) -> tuple[str, ...]:
    """Return the target's dynamic operators that occur in a graph."""
    present = {node.op_type for node in graph.proto.graph.node}
    return tuple(op for op in scheme.dynamic_ops if op in present)


def dynamic_candidate(
    graph: Graph, scheme: Quantization, kept: Sequence[str] = ()
) -> Candidate | None:
    """Quantize weights, activations as they come; None where no operator takes that.

    Args:
        graph: The float32 graph.
        scheme: The target's.
        kept: Names of the layers that stay float32.
    """
    ops = dynamic_ops_of(graph, scheme)
    if not ops:
        return None
    made = write_dynamic(graph, scheme, ops, kept)
    count = len(dynamic_layers(graph))
    suffix = f", {len(kept)} of {count} layers fp32" if kept else ""
    return _int8(f"dynamic int8{suffix}", "int8 dynamic", made, kept)


def weights_candidate(graph: Graph) -> Candidate | None:
    """Store all large weights in 16 bits and compute in float32; None where none is large."""
    made = store_weights(graph, Stored.FLOAT16)
    return None if made is graph else Candidate(FP16_WEIGHTS, FP16_WEIGHTS, made, plain=graph)


def smaller(candidate: Candidate) -> Candidate | None:
    """Store the weights of what computes in float32 in 8 bits instead of 16; None without any.

    What runs is folded from them at load, so the candidate is as fast as the one given.
    """
    if candidate.plain is None:
        return None
    made = store_weights(candidate.plain, Stored.INT8)
    if made is candidate.plain:
        return None
    if candidate.precision == FP16_WEIGHTS:
        return Candidate(INT8_WEIGHTS, INT8_WEIGHTS, made)
    return replace(candidate, name=candidate.name + SMALLER, graph=made, plain=None)


def _int8(name: str, precision: str, made: Graph, kept: Sequence[str]) -> Candidate:
    stored = store_weights(made, Stored.FLOAT16)
    return Candidate(name, precision, stored, tuple(kept), int8_share(made), plain=made)


def dynamic_layers(graph: Graph) -> list[Layer]:
    """List the layers that a dynamic plan can take: products with one constant matrix."""
    ranks = {i.name: len(i.dims) for i in graph.proto.graph.initializer}
    layers = find_layers(graph.proto, ("Gemm", "MatMul"))
    return [layer for layer in layers if ranks[layer.weight] == 2]  # noqa: PLR2004


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
    if candidate.precision not in FLOAT and candidate.int8_share < MIN_INT8_SHARE:
        raise BuildError(f"only {candidate.int8_share:.0%} of its weights became int8")
    import numpy as np
    import onnx

    try:
        onnx.checker.check_model(candidate.graph.proto)
    except onnx.checker.ValidationError as error:
        raise BuildError(f"it is not valid ONNX: {str(error).strip().splitlines()[0]}") from error
    run = runner(open_session(candidate.graph.to_bytes()))
    for feed in feeds[:_CHECK_FEEDS]:
        for name, value in run(feed).items():
            if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
                raise BuildError(f'its output "{name}" is NaN or infinite')
