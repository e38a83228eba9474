"""Whatever the graph: its int8 candidates load, run and are int8, or the reason is named.

The graphs are drawn by ``generated_graphs``. Each goes the way of a build: canonicalise, calibrate,
choose ranges, rank layers, write, check.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from hypothesis import HealthCheck, event, given, settings

from edgekit.runtime.session import Run, open_session, runner
from edgekit.toolchain.compare import compare_outputs
from edgekit.toolchain.graph import Graph
from edgekit.toolchain.passes import CanonicalOptions, canonicalise, optimize
from edgekit.toolchain.quantize.calibrate import RangeRule, choose_range, collect
from edgekit.toolchain.quantize.candidates import (
    MIN_INT8_SHARE,
    Candidate,
    check_candidate,
    dynamic_candidate,
    recurrent_graph,
    static_candidate,
    with_corrected_biases,
)
from edgekit.toolchain.quantize.layers import find_layers
from edgekit.toolchain.quantize.noise import noise_db
from edgekit.toolchain.quantize.sensitivity import layer_sqnr_db
from edgekit.toolchain.quantize.smooth import smoothed
from edgekit.toolchain.quantize.static import RULES, StaticPlan, choose_plans, tensors_to_calibrate
from edgekit.toolchain.stages import MAX_CANONICAL_ERROR
from edgekit.toolchain.target import Quantization
from edgekit.wire.errors import BuildError

from .generated_graphs import Case, graphs
from .graph_steps import STEPS

SCHEME = Quantization(
    "uint8",
    "int8",
    per_channel=True,
    reduce_range=False,
    static_ops=("Conv", "MatMul", "Gemm"),
    between_ops=(
        "Add",
        "AveragePool",
        "Concat",
        "DepthToSpace",
        "Flatten",
        "GlobalAveragePool",
        "HardSigmoid",
        "LeakyRelu",
        "MaxPool",
        "Mul",
        "Reshape",
        "Resize",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    ),
    dynamic_ops=("MatMul", "Gemm", "Attention", "LSTM", "Gather", "EmbedLayerNormalization"),
)
# The only ones for which such a graph may stay float32.
REASONS = ("of its weights became int8", "no layer is left to quantize")
# Smaller constants count as scales and the like.
SMALL = 16
# A wrong scale, zero point or axis gives next to nothing; 16 was the least of 10,000 good graphs.
LEAST_DB = 12.0


def layers_with_constants(proto: Any) -> list[Any]:
    """Nodes that multiply data with a constant matrix, wherever the constant comes from."""
    made = {o for node in proto.graph.node for o in node.output}
    varies = {i.name for i in proto.graph.input} - {i.name for i in proto.graph.initializer}
    for node in proto.graph.node:
        inner = any(a.type == onnx.AttributeProto.GRAPH for a in node.attribute)
        if inner or varies.intersection(node.input):
            varies.update(node.output)
    assert varies <= made | {i.name for i in proto.graph.input}
    return [
        node
        for node in proto.graph.node
        if node.op_type in ("Conv", "MatMul", "Gemm")
        and node.input[0] in varies
        and node.input[1] not in varies
    ]


def integer_layers(proto: Any) -> set[str]:
    """Names of the layers both of whose factors come out of a DequantizeLinear."""
    dequantized = {
        n.output[0]: n.input[0] for n in proto.graph.node if n.op_type == "DequantizeLinear"
    }
    stored = {i.name for i in proto.graph.initializer if i.data_type == onnx.TensorProto.INT8}
    return {
        n.name
        for n in proto.graph.node
        if n.op_type in ("Conv", "MatMul", "Gemm")
        and n.input[0] in dequantized
        and dequantized.get(n.input[1]) in stored
    }


def share(proto: Any, names: set[str]) -> float:
    """The share of weights that these nodes hold: what int8 could reach with them."""
    large = {
        i.name: math.prod(i.dims)
        for i in proto.graph.initializer
        if i.data_type == onnx.TensorProto.FLOAT and math.prod(i.dims) >= SMALL
    }
    # Gather's table is its first input; LSTM has a second matrix behind the first.
    held = {
        n.input[0] if n.op_type == "Gather" else name
        for n in proto.graph.node
        if n.name in names
        for name in list(n.input)[1 : 3 if n.op_type == "LSTM" else 2]
    }
    return sum(large.get(name, 0) for name in held) / max(1, sum(large.values()))


def candidates(graph: Graph, feeds: Any) -> Iterator[Candidate | BuildError]:
    """What a build tries, and a static plan also where a build would not try one."""
    base = recurrent_graph(graph, SCHEME) or graph
    layers = find_layers(base.proto)
    names = [layer.name for layer in layers]
    assert len(set(names)) == len(names)
    if layers:
        stats = collect(base, tensors_to_calibrate(base, layers, SCHEME), feeds)
        ranges = {name: choose_range(s, RangeRule.MIN_MAX) for name, s in stats.items()}
        assert list(layer_sqnr_db(base, layers, ranges, feeds, SCHEME)) == names
        try:
            chosen = choose_plans(base, SCHEME, stats, layers, feeds)
            assert len(chosen[0].noise_db) == 2 * len(RULES)
            for between in (False, True):
                plan = StaticPlan("min-max", ranges, between, {})
                made = static_candidate(base, SCHEME, plan, layers, ())
                made = with_corrected_biases(made, base, layers, feeds)
                assert integer_layers(made.graph.proto) == set(names)
                yield made
                if len(layers) > 1:
                    half = names[: len(names) // 2]
                    mixed = static_candidate(base, SCHEME, plan, layers, half)
                    yield with_corrected_biases(mixed, base, layers, feeds)
        except BuildError as error:
            yield error
    try:
        dynamic = dynamic_candidate(smoothed(graph, feeds), SCHEME)
        if dynamic is not None:
            yield dynamic
    except BuildError as error:
        yield error


def refused(candidate: Candidate | BuildError, feeds: Any) -> BuildError | None:
    """Why a build would not take a candidate."""
    if isinstance(candidate, BuildError):
        return candidate
    try:
        check_candidate(candidate, feeds)
    except BuildError as error:
        return error
    return None


def reference(source: Graph, feeds: Sequence[Mapping[str, Any]]) -> Run | None:
    """The graph as it comes; None where onnxruntime's optimizer makes another of it.

    It joins a Pad with a MaxPool that does not take it, and turns a matrix before a vector.
    """
    run = runner(open_session(source.to_bytes(), level="ORT_DISABLE_ALL"))
    try:
        optimized = runner(open_session(source.to_bytes()))
    except BuildError:
        return None
    differences = compare_outputs(run, optimized, feeds)
    return run if all(d.relative_l2 <= MAX_CANONICAL_ERROR for d in differences) else None


def check(case: Case, folder: Path) -> None:
    """Take a graph the whole way."""
    path = folder / "model.onnx"
    path.write_bytes(case.proto.SerializeToString())
    source = Graph.load(path)
    run = reference(source, case.feeds)
    if run is None:
        event("onnxruntime's own optimizer breaks it")
        return
    wanted = [run(feed) for feed in case.feeds]
    assert all(np.isfinite(v).all() for answer in wanted for v in answer.values())

    graph, _ = canonicalise(source, CanonicalOptions(opset_max=26))
    graph, _ = optimize(graph)
    float_run = runner(open_session(graph.to_bytes()))
    for difference in compare_outputs(run, float_run, case.feeds):
        assert difference.relative_l2 <= MAX_CANONICAL_ERROR, difference
    expected = {node.name for node in layers_with_constants(graph.proto)}
    found = {layer.name for layer in find_layers(graph.proto)}
    assert found == expected
    event(f"layers: {min(len(found), 4)}")
    # Vectors and batches of matrices stay float32 in a dynamic plan.
    tables = {i.name for i in graph.proto.graph.initializer if len(i.dims) == 2}
    found_dynamic = {
        n.name
        for n in graph.proto.graph.node
        if n.op_type in ("LSTM", "Gather")
        or (n.name in found and n.op_type != "Conv" and n.input[1] in tables)
    }

    for candidate in candidates(graph, case.feeds):
        refusal = refused(candidate, case.feeds)
        if refusal is not None:
            event(f"refused: {refusal.message[:60]}")
            assert any(reason in refusal.message for reason in REASONS), refusal
        if isinstance(candidate, BuildError):
            continue
        if refusal is not None:
            able = found_dynamic if candidate.precision == "int8 dynamic" else found
            # Half of the layers may hold next to nothing.
            assert candidate.kept_float or share(graph.proto, able) < 1.1 * MIN_INT8_SHARE, refusal
            continue
        event(candidate.name[:12])
        assert candidate.int8_share > 0
        quantized = runner(open_session(candidate.graph.to_bytes()))
        for feed in case.feeds:
            assert all(np.isfinite(v).all() for v in quantized(feed).values()), candidate.name
        if case.well_conditioned:
            decibel = -noise_db(quantized, wanted, case.feeds)
            assert decibel > LEAST_DB, (candidate.name, decibel)


@settings(
    max_examples=500,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(case=graphs(STEPS))
def test_every_candidate_is_int8_or_says_why_not(case: Case | None) -> None:
    if case is not None:
        with tempfile.TemporaryDirectory() as folder:
            check(case, Path(folder))
