"""Bias correction: channels' means come back, whatever the graph; nothing else changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgekit.runtime.session import open_session, runner
from edgekit.toolchain.graph import Graph
from edgekit.toolchain.quantize.bias import _mean_error, _Slopes, corrected
from edgekit.toolchain.quantize.calibrate import RangeRule, choose_range, collect
from edgekit.toolchain.quantize.layers import find_layers
from edgekit.toolchain.quantize.static import quantized, tensors_to_calibrate
from edgekit.toolchain.target import Quantization
from edgekit.wire.errors import BuildError

SCHEME = Quantization(
    "uint8", "int8", True, False, ("Conv", "Gemm", "MatMul"), ("Add", "Concat", "Mul"), ()
)


def conv(number: int, source: str, result: str, *, bias: bool = True) -> onnx.NodeProto:
    inputs = [source, f"w{number}", *([f"b{number}"] if bias else [])]
    return helper.make_node("Conv", inputs, [result], f"conv{number}", pads=[1] * 4)


def graph_of(nodes: list[onnx.NodeProto], seed: int, *, opset: int = 17) -> Graph:
    random = np.random.default_rng(seed)
    rank = 2 if nodes[-1].op_type == "Gemm" else 4
    values: dict[str, Any] = {}
    for node in nodes:
        if node.op_type == "Conv":
            # Weights that are mostly positive: rounding shifts sums, not only scatters them.
            values[node.input[1]] = random.normal(0.3, 1, size=(4, 4, 3, 3)) / 6
            if len(node.input) > 2:
                values[node.input[2]] = random.normal(size=4) / 4
        if node.op_type == "Gemm":
            values |= {"wg": random.normal(size=(4, 5)), "bg": random.normal(size=5)}
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)],
        [numpy_helper.from_array(np.asarray(v, np.float32), n) for n, v in values.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    return Graph.of(helper.make_model(made, opset_imports=opsets, ir_version=9))


def feeds_of(seed: int, count: int = 8) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    return [{"x": random.normal(0.5, 1, (1, 4, 8, 8)).astype(np.float32)} for _ in range(count)]


def written(graph: Graph, feeds: Any, kept: tuple[str, ...] = ()) -> Graph:
    """Quantize with ranges that clip a good part of the values, so that every mean is off."""
    layers = find_layers(graph.proto)
    stats = collect(graph, tensors_to_calibrate(graph, layers, SCHEME), feeds)
    ranges = {
        name: tuple(0.4 * end for end in choose_range(s, RangeRule.MIN_MAX))
        for name, s in stats.items()
    }
    chosen = [layer for layer in layers if layer.name not in kept]
    return quantized(graph, SCHEME, ranges, chosen, between=True)


def mean_errors(graph: Graph, made: Graph, feeds: Any) -> Any:
    """Return what the means of the output's channels are off: float64[O]."""
    means = []
    for each in (graph, made):
        run = runner(open_session(each.to_bytes()))
        found = [run(feed)["y"] for feed in feeds]
        means.append(np.mean([v.mean(axis=(0, *range(2, v.ndim))) for v in found], axis=0))
    return np.abs(means[1] - means[0])


# The last layer's own result leaves as float32: nothing clips it behind the correction.
CHAIN = [
    conv(1, "x", "a"),
    helper.make_node("Relu", ["a"], ["r"], "relu"),
    conv(2, "r", "b", bias=False),
    helper.make_node("Add", ["b", "r"], ["s"], "sum"),
    conv(3, "s", "c"),
    helper.make_node("GlobalAveragePool", ["c"], ["p"], "pool"),
    helper.make_node("Flatten", ["p"], ["f"], "flat"),
    helper.make_node("Gemm", ["f", "wg", "bg"], ["y"], "gemm"),
]


@pytest.mark.parametrize("kept", [(), ("conv2",), ("conv1", "conv3"), ("gemm",)])
@pytest.mark.parametrize("opset", [17, 19])
def test_means_of_the_output_come_back(kept, opset):
    graph, feeds = graph_of(CHAIN, 5, opset=opset), feeds_of(1)
    made = written(graph, feeds, kept)
    again = corrected(graph, made, find_layers(graph.proto), feeds)
    onnx.checker.check_model(again.proto)
    before, after = (mean_errors(graph, g, feeds) for g in (made, again))
    assert before.max() > 0.05
    assert after.max() < 0.02 * before.max()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), last_only=st.booleans())
def test_each_layer_answers_for_the_ones_before_it(seed, last_only):
    graph, feeds = graph_of([*CHAIN[:4], conv(3, "s", "y")], seed), feeds_of(seed + 1)
    made = written(graph, feeds, ("conv3",))
    layers = find_layers(graph.proto)[-1 if last_only else 0 :]
    again = corrected(graph, made, layers, feeds)
    before, after = (mean_errors(graph, g, feeds) for g in (made, again))
    assert after.max() <= 0.02 * before.max() + 1e-5


def test_only_biases_change_and_stay_int32():
    graph, feeds = graph_of(CHAIN, 5), feeds_of(1)
    made = written(graph, feeds)
    again = corrected(graph, made, find_layers(graph.proto), feeds)
    assert [n.op_type for n in again.proto.graph.node if n.op_type != "DequantizeLinear"] == [
        n.op_type for n in made.proto.graph.node if n.op_type != "DequantizeLinear"
    ]
    old, new = (
        {i.name: numpy_helper.to_array(i) for i in g.proto.graph.initializer} for g in (made, again)
    )
    for name in set(old) & set(new):
        assert np.array_equal(old[name], new[name])
    assert all("bias" in name for name in set(old) ^ set(new))
    nodes = {n.name: n for n in again.proto.graph.node}
    makers = {o: n for n in again.proto.graph.node for o in n.output}
    for name in ("conv1", "conv2", "conv3", "gemm"):
        steps = new[makers[nodes[name].input[2]].input[0]]
        assert steps.dtype == np.int32


def test_an_int8_layer_without_a_bias_stays_an_integer_product(tmp_path):
    graph, feeds = graph_of([conv(1, "x", "a", bias=False), conv(2, "a", "y")], 3), feeds_of(2)
    again = corrected(graph, written(graph, feeds), find_layers(graph.proto), feeds)
    open_session(again.to_bytes(), save_to=tmp_path / "optimized.onnx")
    ops = [n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert ops.count("QLinearConv") == 2
    assert "Conv" not in ops


def test_a_graph_without_rounding_noise_is_left_as_it_is():
    graph, feeds = graph_of(CHAIN, 5), feeds_of(1)
    again = corrected(graph, graph, find_layers(graph.proto), feeds)
    run, same = (runner(open_session(g.to_bytes())) for g in (graph, again))
    for feed in feeds:
        np.testing.assert_allclose(same(feed)["y"], run(feed)["y"], atol=1e-4)


def test_what_a_subgraph_reads_is_kept_for_it():
    branches = [
        helper.make_graph(
            [helper.make_node(op, ["a"], [f"{op}_o"])],
            op,
            [],
            [helper.make_tensor_value_info(f"{op}_o", TensorProto.FLOAT, [None] * 4)],
        )
        for op in ("Relu", "Neg")
    ]
    nodes = [
        conv(1, "x", "a"),
        helper.make_node("ReduceSum", ["x"], ["total"], "total", keepdims=0),
        helper.make_node("Cast", ["total"], ["flag"], "flag", to=TensorProto.BOOL),
        helper.make_node(
            "If", ["flag"], ["i"], "if", then_branch=branches[0], else_branch=branches[1]
        ),
        conv(2, "i", "y"),
    ]
    graph, feeds = graph_of(nodes, 4), feeds_of(6)
    made = written(graph, feeds, ("conv2",))
    again = corrected(graph, made, find_layers(graph.proto), feeds)
    before, after = (mean_errors(graph, g, feeds) for g in (made, again))
    assert after.max() < 0.02 * before.max()


def test_without_feeds_it_says_so():
    graph = graph_of(CHAIN, 5)
    with pytest.raises(BuildError, match="no calibration samples"):
        corrected(graph, graph, find_layers(graph.proto), [])


@pytest.mark.parametrize(
    ("behind", "flat", "steep"),
    [
        ([("Relu", "a", "y")], (-9.0, -0.1), (0.1, 50.0)),
        ([("Clip", "a", "y")], (-9.0, 7.0), (0.1, 5.9)),
        ([("Sigmoid", "a", "g"), ("Mul", "a g", "y")], (-30.0, -15.0), (5.0, 50.0)),
        ([("HardSigmoid", "a", "g"), ("Mul", "a g", "y")], (-9.0, -3.1), (3.1, 50.0)),
    ],
)
def test_what_is_let_through_as_zero_moves_no_bias(behind, flat, steep):
    nodes = [conv(1, "x", "a")]
    for op, inputs, output in behind:
        bounds = ["low", "high"] if op == "Clip" else []
        attributes = {"alpha": 1 / 6, "beta": 0.5} if op == "HardSigmoid" else {}
        nodes.append(helper.make_node(op, [*inputs.split(), *bounds], [output], op, **attributes))
    proto = graph_of(nodes, 1).copy()
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.array(v, np.float32), n) for n, v in (("low", 0), ("high", 6))
    )
    wanted = np.array([[[*flat, *steep]]], np.float32)
    found = wanted + np.array([-3, 0, 0.05, 0.05], np.float32)  # the flat end clips at will
    change = _mean_error([wanted], [found], _Slopes(proto).of("a"))
    assert change.shape == (1,)
    assert change[0] == pytest.approx(-0.05, abs=1e-3)
