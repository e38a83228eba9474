"""The QDQ writer: what runs on integers, in which steps, and that the answers stay the same."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgekit.runtime.session import open_session, runner
from edgekit.toolchain.graph import Graph
from edgekit.toolchain.quantize import integers
from edgekit.toolchain.quantize.calibrate import Gate, RangeRule, TensorStats, choose_range, collect
from edgekit.toolchain.quantize.layers import find_layers
from edgekit.toolchain.quantize.noise import noise_db
from edgekit.toolchain.quantize.regions import gates, integer_between
from edgekit.toolchain.quantize.static import quantized, tensors_to_calibrate
from edgekit.toolchain.target import Quantization

BETWEEN = ("Add", "Concat", "HardSigmoid", "MaxPool", "Mul", "Resize", "Reshape")
SCHEME = Quantization("uint8", "int8", True, False, ("Conv", "MatMul", "Gemm"), BETWEEN, ())
CHANNELS = 4


def conv(number: int, source: str, result: str, kernel: int = 3) -> onnx.NodeProto:
    pad = kernel // 2
    return helper.make_node(
        "Conv", [source, f"w{number}", f"b{number}"], [result], f"conv{number}", pads=[pad] * 4
    )


def graph_of(nodes: list[onnx.NodeProto], **constants: Any) -> Graph:
    random = np.random.default_rng(7)
    values: dict[str, Any] = {}
    for node in nodes:
        if node.op_type == "Conv":
            kernel = node.attribute[0].ints[0] * 2 + 1
            shape = (CHANNELS, CHANNELS, kernel, kernel)
            values[node.input[1]] = random.normal(size=shape) / np.sqrt(CHANNELS * kernel**2)
            values[node.input[2]] = random.normal(size=CHANNELS) / 4
    values |= constants
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, CHANNELS, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)],
        [numpy_helper.from_array(np.asarray(v, np.float32), n) for n, v in values.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    return Graph.of(helper.make_model(made, opset_imports=opsets, ir_version=9))


@pytest.fixture(scope="module")
def feeds() -> list[dict[str, Any]]:
    random = np.random.default_rng(3)
    shape = (1, CHANNELS, 8, 8)
    return [{"x": random.normal(size=shape).astype(np.float32) * 2} for _ in range(8)]


def written(graph: Graph, feeds: Any, *, between: bool = True) -> Graph:
    layers = find_layers(graph.proto)
    stats = collect(graph, tensors_to_calibrate(graph, layers, SCHEME), feeds)
    reads = gates(graph.proto)
    ranges = {
        name: choose_range(s, RangeRule.MIN_MAX, reads.get(name, Gate.NONE))
        for name, s in stats.items()
    }
    made = quantized(graph, SCHEME, ranges, layers, between=between)
    onnx.checker.check_model(made.proto)
    return made


def noise(graph: Graph, made: Graph, feeds: Any) -> float:
    run = runner(open_session(graph.to_bytes()))
    return noise_db(runner(open_session(made.to_bytes())), [run(f) for f in feeds], feeds)


def ops(graph: Graph) -> Counter[str]:
    return Counter(node.op_type for node in graph.proto.graph.node)


def optimized_ops(graph: Graph, tmp_path: Any) -> Counter[str]:
    place = tmp_path / "optimized.onnx"
    open_session(graph.to_bytes(), save_to=place)
    return Counter(node.op_type for node in onnx.load(place).graph.node)


HARD_SWISH = [
    conv(1, "x", "a"),
    helper.make_node("HardSigmoid", ["a"], ["g"], "gate", alpha=1 / 6, beta=0.5),
    helper.make_node("Mul", ["a", "g"], ["h"], "product"),
    conv(2, "h", "y"),
]


def test_hard_swish_runs_on_integers_from_end_to_end(feeds, tmp_path):
    graph = graph_of(HARD_SWISH)
    made = written(graph, feeds)
    assert noise(graph, made, feeds) < -30
    found = optimized_ops(made, tmp_path)
    assert (found["QLinearConv"], found["QLinearAdd"], found["QLinearMul"]) == (2, 1, 1)
    assert found["QuantizeLinear"] == found["DequantizeLinear"] == 1


def test_without_integers_between_the_gate_stays_float(feeds):
    made = written(graph_of(HARD_SWISH), feeds, between=False)
    assert ops(made)["HardSigmoid"] == ops(made)["Mul"] == 1


def test_a_number_that_is_added_is_another_zero_point(feeds):
    graph = graph_of(
        [
            conv(1, "x", "a"),
            helper.make_node("Add", ["a", "shift"], ["s"], "shifted"),
            conv(2, "s", "y"),
        ],
        shift=0.34,
    )
    made = written(graph, feeds)
    assert ops(made)["Add"] == 0
    # Padding is a zero of the shifted tensor: a wrong one shows at every border.
    assert noise(graph, made, feeds) < -30


def test_a_gate_with_a_sigmoid_is_one_node_with_one_dequantizer(feeds, tmp_path):
    graph = graph_of(
        [
            conv(1, "x", "a"),
            helper.make_node("Sigmoid", ["a"], ["g"], "gate"),
            helper.make_node("Mul", ["g", "a"], ["h"], "product"),
            conv(2, "h", "y"),
        ]
    )
    made = written(graph, feeds)
    found = optimized_ops(made, tmp_path)
    assert (found["QuickGelu"], found["Sigmoid"], found["DequantizeLinear"]) == (1, 0, 2)
    assert noise(graph, made, feeds) < -30


def test_float_readers_of_a_float_value_read_it_as_it_is(feeds):
    graph = graph_of(
        [
            helper.make_node("Erf", ["x"], ["e"], "erf"),
            conv(1, "e", "a"),
            helper.make_node("Erf", ["e"], ["f"], "erf2"),
            helper.make_node("Sub", ["a", "f"], ["y"], "difference"),
        ]
    )
    made = written(graph, feeds)
    (again,) = (n for n in made.proto.graph.node if n.name == "erf2")
    assert list(again.input) == ["e"]


def test_what_only_a_concat_reads_is_made_in_its_steps(feeds, tmp_path):
    graph = graph_of(
        [
            conv(1, "x", "a"),
            conv(2, "x", "b"),
            helper.make_node("Concat", ["a", "b"], ["c"], "joined", axis=2),
            conv(3, "c", "y"),
        ]
    )
    made = written(graph, feeds)
    constants = {i.name: numpy_helper.to_array(i) for i in made.proto.graph.initializer}
    scales = {n: float(constants[f"{n}__quantize__scale"]) for n in ("a", "b", "c")}
    assert scales["a"] == scales["b"] == scales["c"]
    assert optimized_ops(made, tmp_path)["QLinearConcat"] == 1
    assert noise(graph, made, feeds) < -30


def test_an_output_that_an_int8_layer_reads_too_keeps_its_name(feeds):
    nodes = [conv(1, "x", "y"), conv(2, "y", "z")]
    graph = graph_of(nodes)
    proto = graph.copy()
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [None] * 4))
    graph = Graph.of(proto)
    made = written(graph, feeds)
    assert made.output_names == ["y", "z"]
    assert noise(graph, made, feeds) < -30


def test_the_tail_behind_the_last_layer_stays_float():
    graph = graph_of(
        [
            conv(1, "x", "a"),
            helper.make_node("MaxPool", ["a"], ["p"], "pool", kernel_shape=[2, 2]),
            conv(2, "p", "b"),
            helper.make_node("MaxPool", ["b"], ["y"], "tail", kernel_shape=[2, 2]),
        ]
    )
    assert integer_between(graph.proto, ["conv1", "conv2"], BETWEEN) == {"pool"}
    assert integer_between(graph.proto, ["conv1"], BETWEEN) == frozenset()


@given(
    low=st.floats(-1e4, 0), high=st.floats(0, 1e4), activation=st.sampled_from(["uint8", "int8"])
)
def test_zero_has_a_step_of_its_own_and_the_range_is_covered(low, high, activation):
    scale, zero = integers.affine(low, high, activation)
    first = 0 if activation == "uint8" else -128
    assert first <= zero <= first + 255
    assert (first - zero) * scale <= low + scale
    assert (first + 255 - zero) * scale >= high - scale


@given(st.integers(0, 2**31), st.sampled_from([63, 127]), st.floats(1e-6, 1e3))
def test_weights_come_back_within_half_a_step_and_biases_fit(seed, largest, size):
    random = np.random.default_rng(seed)
    weight = (random.normal(size=(5, 3, 2)) * size).astype(np.float32)
    weight[2] = 0
    bias = (random.normal(size=5) * 1e6).astype(np.float32)
    plain = integers.weight_scale(weight, 0, largest)
    steps = integers.round_weight(weight, plain, 0, largest)
    assert np.abs(steps).max() <= largest
    found = integers.restore(steps, plain, 0)
    assert np.all(np.abs(found - weight) <= plain[:, None, None] * 0.5001)

    fitted = integers.fit_bias(plain, bias, 1e-4)
    rounded = integers.round_bias(bias, (fitted * 1e-4).astype(np.float32))
    assert np.abs(rounded.astype(np.int64)).max() <= 2**30 * 1.001


def test_a_gate_that_lets_nothing_through_needs_no_steps_there():
    values = np.random.default_rng(0).normal(size=100_000) * 8
    histogram, _ = np.histogram(values, bins=2048)
    stats = TensorStats(float(values.min()), float(values.max()), histogram)
    low, high = choose_range(stats, RangeRule.MSE, Gate.HARD_SWISH)
    # x * clip(x / 6 + 1/2, 0, 1) is 0 below -3.
    assert -4 < low <= -2
    assert choose_range(stats, RangeRule.MIN_MAX, Gate.HARD_SWISH)[1] == stats.high
    assert choose_range(stats, RangeRule.MIN_MAX)[0] == stats.low
    assert high > 20


@pytest.mark.parametrize(
    ("alpha", "beta"), [(1 / 6, 0.5), (0.2, 0.5), (0.02, 0.5), (-0.2, 0.5), (0.2, 1.5), (0.3, -0.1)]
)
def test_a_hard_sigmoid_of_any_slope_is_a_saturating_sum(feeds, alpha, beta):
    gate = helper.make_node("HardSigmoid", ["a"], ["g"], "gate", alpha=alpha, beta=beta)
    graph = graph_of([HARD_SWISH[0], gate, *HARD_SWISH[2:]])
    made = written(graph, feeds)
    assert ops(made)["HardSigmoid"] == 0
    assert noise(graph, made, feeds) < -28


def test_a_relu_behind_a_concat_is_part_of_its_range(feeds):
    graph = graph_of(
        [
            conv(1, "x", "a"),
            conv(2, "x", "b"),
            helper.make_node("Concat", ["a", "b"], ["c"], "joined", axis=2),
            helper.make_node("Relu", ["c"], ["r"], "relu"),
            conv(3, "r", "y"),
        ]
    )
    assert noise(graph, written(graph, feeds), feeds) < -30


def test_the_inner_of_two_concats_is_made_in_the_outer_ones_steps(feeds):
    graph = graph_of(
        [
            conv(1, "x", "a"),
            conv(2, "x", "b"),
            conv(3, "x", "c"),
            helper.make_node("Concat", ["a", "b"], ["i"], "inner", axis=2),
            helper.make_node("Concat", ["i", "c"], ["o"], "outer", axis=2),
            conv(4, "o", "y"),
        ]
    )
    made = written(graph, feeds)
    constants = {i.name: numpy_helper.to_array(i) for i in made.proto.graph.initializer}
    assert len({float(constants[f"{n}__quantize__scale"]) for n in "abcio"}) == 1


def test_an_add_behind_a_move_is_no_other_zero_point(feeds):
    graph = graph_of(
        [
            conv(1, "x", "a"),
            helper.make_node("MaxPool", ["a"], ["p"], "pool", kernel_shape=[2, 2]),
            helper.make_node("Add", ["p", "shift"], ["s"], "shifted"),
            conv(2, "s", "y"),
        ],
        shift=-0.337,
    )
    made = written(graph, feeds)
    assert ops(made)["Add"] == 1
    assert noise(graph, made, feeds) < -28


def test_what_a_subgraph_reads_is_not_left_unrounded(feeds):
    then = helper.make_graph(
        [helper.make_node("Identity", ["g"], ["t"])],
        "then",
        [],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, [None] * 4)],
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["g"], ["e"])],
        "else",
        [],
        [helper.make_tensor_value_info("e", TensorProto.FLOAT, [None] * 4)],
    )
    nodes = [
        *HARD_SWISH,
        helper.make_node("ReduceSum", ["x"], ["sum"], "sum", keepdims=0),
        helper.make_node("Less", ["sum", "zero"], ["negative"], "less"),
        helper.make_node("If", ["negative"], ["z"], "if", then_branch=then, else_branch=other),
    ]
    proto = graph_of(nodes, zero=0.0).copy()
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [None] * 4))
    graph = Graph.of(proto)
    assert noise(graph, written(graph, feeds), feeds) < -28


def test_a_number_of_boxes_that_differs_or_is_nan_is_all_noise(feeds):
    wanted = [{"y": np.ones((2, 4), np.float32), "z": np.ones(3, np.float32)}]
    good = {"y": np.ones((2, 4), np.float32), "z": np.ones(3, np.float32)}
    assert noise_db(lambda _: good, wanted, [{}]) == -100
    assert noise_db(lambda _: {**good, "z": np.full(3, np.nan, np.float32)}, wanted, [{}]) == 0
    assert noise_db(lambda _: {**good, "y": np.ones((3, 4), np.float32)}, wanted, [{}]) == 0
