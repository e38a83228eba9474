"""Facts: multiply-adds by hand, int8 placement, shapes, bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgekit.toolchain.facts import graph_facts
from edgekit.toolchain.graph import Graph
from edgekit.toolchain.placement import Place
from edgekit.toolchain.shapes import infer_tensors
from edgekit.wire.errors import BuildError

node = helper.make_node
small = st.integers(1, 6)


def graph_of(
    nodes: Sequence[NodeProto],
    inputs: dict[str, Sequence[int | str | None]],
    outputs: Sequence[str],
    constants: dict[str, np.ndarray[Any, Any]] | None = None,
    opset: int = 17,
    dtype: int = TensorProto.FLOAT,
) -> Graph:
    """Wrap nodes as a model with float inputs."""
    made = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(n, dtype, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [numpy_helper.from_array(v, n) for n, v in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return Graph.of(helper.make_model(made, opset_imports=opsets, ir_version=10))


def weights(*shape: int, dtype: type = np.float32) -> np.ndarray[Any, Any]:
    """Return ones of a shape: only shapes and types matter here."""
    return np.ones(shape, dtype=dtype)


def qdq_conv(*, quantize_output: bool, relu: bool = False) -> Graph:
    """x → Q → DQ → Conv → [Relu] → [Q → DQ] → y, the weights int8."""
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        node("DequantizeLinear", ["w", "s", "zw"], ["wd"]),
        node("Conv", ["xd", "wd"], ["c"], name="conv"),
    ]
    last = "c"
    if relu:
        nodes.append(node("Relu", ["c"], ["r"], name="relu"))
        last = "r"
    if quantize_output:
        nodes += [
            node("QuantizeLinear", [last, "s", "z"], ["yq"]),
            node("DequantizeLinear", ["yq", "s", "z"], ["y"]),
        ]
    else:
        nodes[-1].output[0] = "y"
    constants = {
        "w": weights(8, 3, 3, 3, dtype=np.int8),
        "s": np.array(0.1, dtype=np.float32),
        "z": np.array(0, dtype=np.uint8),
        "zw": np.array(0, dtype=np.int8),
    }
    return graph_of(nodes, {"x": [1, 3, 10, 10]}, ["y"], constants)


@settings(max_examples=40, deadline=None)
@given(small, small, small, st.integers(1, 3), st.integers(3, 9), st.integers(1, 2), small)
def test_convolution_macs(batch, groups, per_group, kernel, side, stride, filters):
    channels, out_channels = groups * per_group, groups * filters
    graph = graph_of(
        [node("Conv", ["x", "w"], ["y"], group=groups, strides=[stride, stride])],
        {"x": [batch, channels, side, side]},
        ["y"],
        {"w": weights(out_channels, per_group, kernel, kernel)},
    )
    out_side = (side - kernel) // stride + 1
    expected = batch * out_channels * out_side**2 * per_group * kernel**2
    assert graph_facts(graph).macs == expected


@settings(max_examples=40, deadline=None)
@given(st.lists(small, max_size=2), small, small, small)
def test_matmul_macs(batch, rows, inner, columns):
    graph = graph_of(
        [node("MatMul", ["a", "b"], ["y"])],
        {"a": [*batch, rows, inner], "b": [inner, columns]},
        ["y"],
    )
    expected = int(np.prod(batch, initial=1)) * rows * inner * columns
    assert graph_facts(graph).macs == expected


@settings(max_examples=30, deadline=None)
@given(small, small, small, st.booleans(), st.booleans())
def test_gemm_macs(rows, inner, columns, trans_a, trans_b):
    graph = graph_of(
        [node("Gemm", ["a", "b"], ["y"], transA=int(trans_a), transB=int(trans_b))],
        {"a": [inner, rows] if trans_a else [rows, inner]},
        ["y"],
        {"b": weights(columns, inner) if trans_b else weights(inner, columns)},
    )
    assert graph_facts(graph).macs == rows * inner * columns


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([("LSTM", 4), ("GRU", 3), ("RNN", 1)]), small, small, small, small)
def test_recurrent_macs(kind, steps, batch, width, hidden):
    op, gates = kind
    graph = graph_of(
        [node(op, ["x", "w", "r"], ["y"], hidden_size=hidden)],
        {"x": [steps, batch, width]},
        ["y"],
        {"w": weights(1, gates * hidden, width), "r": weights(1, gates * hidden, hidden)},
    )
    assert graph_facts(graph).macs == steps * batch * gates * hidden * (width + hidden)


def test_transposed_convolution_macs():
    graph = graph_of(
        [node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])],
        {"x": [1, 4, 5, 5]},
        ["y"],
        {"w": weights(4, 6, 2, 2)},
    )
    assert graph_facts(graph).macs == 4 * 25 * 6 * 4


def test_dynamic_matrix_product_is_int8():
    graph = graph_of(
        [
            node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
            node("MatMulInteger", ["q", "w", "z"], ["i"]),
            node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
            node("Mul", ["f", "s"], ["y"]),
        ],
        {"x": [2, 16]},
        ["y"],
        {"w": weights(16, 8, dtype=np.int8)},
    )
    facts = graph_facts(graph)
    assert facts.macs == facts.int8_macs == 2 * 16 * 8
    assert facts.int8_share == 1.0


def test_conv_between_qdq_is_int8_and_its_neighbours_vanish():
    facts = graph_facts(qdq_conv(quantize_output=True))
    conv = next(row for row in facts.nodes if row.op == "Conv")
    assert conv.place is Place.INT8
    assert facts.macs == facts.int8_macs == 8 * 8 * 8 * 27
    assert conv.param_bytes == 8 * 27  # int8, one byte an element
    assert (conv.in_bytes, conv.out_bytes) == (300, 8 * 64)  # uint8 in, uint8 out
    running = [row.op for row in facts.nodes if row.place is not Place.FREE]
    assert running == ["QuantizeLinear", "Conv", "DequantizeLinear"]


def test_conv_without_a_quantized_output_is_float():
    facts = graph_facts(qdq_conv(quantize_output=False))
    conv = next(row for row in facts.nodes if row.op == "Conv")
    assert conv.place is Place.FLOAT
    assert facts.int8_macs == 0
    assert conv.param_bytes == 8 * 27 * 4  # dequantized once, kept as float
    assert (conv.in_bytes, conv.out_bytes) == (1200, 8 * 64 * 4)
    running = [row.op for row in facts.nodes if row.place is not Place.FREE]
    assert running == ["QuantizeLinear", "DequantizeLinear", "Conv"]


@pytest.mark.parametrize("quantize_output", [True, False])
def test_relu_joins_the_convolution(quantize_output):
    facts = graph_facts(qdq_conv(quantize_output=quantize_output, relu=True))
    assert next(row for row in facts.nodes if row.op == "Relu").place is Place.FREE
    assert facts.int8_share == (1.0 if quantize_output else 0.0)


def test_depthwise_is_told_from_grouped():
    for group, expected in ((4, True), (2, False), (1, False)):
        graph = graph_of(
            [node("Conv", ["x", "w"], ["y"], group=group)],
            {"x": [1, 4, 5, 5]},
            ["y"],
            {"w": weights(4, 4 // group, 3, 3)},
        )
        assert graph_facts(graph).nodes[0].depthwise is expected


def test_dynamic_dimensions_are_taken_or_assumed():
    graph = graph_of(
        [node("MatMul", ["x", "w"], ["y"])],
        {"x": ["batch", "sequence", 8]},
        ["y"],
        {"w": weights(8, 4)},
    )
    given_both = graph_facts(graph, dims={"batch": 2, "x[1]": 10})
    assert given_both.macs == 2 * 10 * 8 * 4
    assert not given_both.assumed
    guessed = graph_facts(graph)
    assert guessed.dynamic == {"batch": 1, "sequence": 128}
    assert guessed.assumed == {"batch", "sequence"}
    assert guessed.macs == 128 * 8 * 4


def test_a_reshape_that_computes_its_shape_is_followed():
    graph = graph_of(
        [
            node("Shape", ["x"], ["shape"]),
            node("Gather", ["shape", "zero"], ["batch"]),
            node("Concat", ["batch", "rest"], ["target"], axis=0),
            node("Reshape", ["x", "target"], ["flat"]),
            node("MatMul", ["flat", "w"], ["y"]),
        ],
        {"x": ["batch", 4, 5]},
        ["y"],
        {
            "zero": np.array([0], dtype=np.int64),
            "rest": np.array([-1], dtype=np.int64),
            "w": weights(20, 3),
        },
    )
    facts = graph_facts(graph, dims={"batch": 7})
    assert facts.macs == 7 * 20 * 3
    assert facts.unknown_tensors == 0


def branch(name: str, columns: int) -> helper.GraphProto:
    weight = helper.make_tensor(f"w{name}", TensorProto.FLOAT, [8, columns], [0.0] * 8 * columns)
    out = helper.make_tensor_value_info(f"o{name}", TensorProto.FLOAT, None)
    matmul = node("MatMul", ["x", f"w{name}"], [f"o{name}"])
    return helper.make_graph([matmul], name, [], [out], [weight])


@pytest.mark.parametrize(("rows", "columns"), [(1, 3), (2, 5)])
def test_an_if_on_a_known_shape_counts_the_branch_it_takes(rows, columns):
    graph = graph_of(
        [
            node("Shape", ["x"], ["shape"], end=1),
            node("Equal", ["shape", "one"], ["is_one"]),
            node("Squeeze", ["is_one"], ["cond"]),
            node("If", ["cond"], ["y"], then_branch=branch("t", 3), else_branch=branch("e", 5)),
        ],
        {"x": [rows, 8]},
        ["y"],
        {"one": np.array([1], dtype=np.int64)},
    )
    facts = graph_facts(graph)
    assert facts.macs == rows * 8 * columns
    assert facts.ops["MatMul"] == 2  # both branches are in the file
    assert facts.parameters >= 8 * 8


def test_an_if_on_data_counts_its_heavier_branch():
    graph = graph_of(
        [
            node("ReduceMax", ["x"], ["m"], keepdims=0),
            node("Cast", ["m"], ["cond"], to=TensorProto.BOOL),
            node("If", ["cond"], ["y"], then_branch=branch("t", 3), else_branch=branch("e", 5)),
        ],
        {"x": [2, 8]},
        ["y"],
    )
    assert graph_facts(graph).macs == 2 * 8 * 5


def test_the_peak_is_what_lives_at_once():
    """x (400 B) and a (400 B); then a and b; then a, b and y: three tensors at most."""
    graph = graph_of(
        [
            node("Exp", ["x"], ["a"]),
            node("Log", ["a"], ["b"]),
            node("Add", ["a", "b"], ["y"]),
        ],
        {"x": [100]},
        ["y"],
    )
    assert graph_facts(graph).peak_activation_bytes == 3 * 400


def test_operators_of_other_domains_carry_their_domain():
    graph = graph_of([node("Gelu", ["x"], ["y"], domain="com.microsoft")], {"x": [4]}, ["y"])
    facts = graph_facts(graph)
    assert facts.ops == {"com.microsoft.Gelu": 1}
    assert facts.unknown_tensors == 0


def test_an_unknown_shape_is_counted_as_unknown_not_as_nothing():
    graph = graph_of(
        [node("Odd", ["x"], ["a"], domain="com.acme"), node("MatMul", ["a", "w"], ["y"])],
        {"x": [4]},
        ["y"],
        {"w": weights(4, 4)},
    )
    facts = graph_facts(graph)
    assert facts.unknown_tensors == 2
    assert next(row for row in facts.nodes if row.op == "MatMul").macs is None


_OPS = [
    "Add", "Cast", "Clip", "Constant", "Conv", "ConvTranspose", "DequantizeLinear", "Erf",
    "DynamicQuantizeLSTM", "Gather", "Gemm", "Identity", "If", "LSTM", "Loop", "MatMul", "Mul",
    "QuantizeLinear", "Relu", "Reshape", "Shape", "Sigmoid", "Size", "Slice", "Softmax",
]  # fmt: skip
_NAMES = st.sampled_from(["x", "w", "a", "b", "c", "d", "y", ""])
_NODES = st.lists(
    st.tuples(st.sampled_from(_OPS), st.lists(_NAMES, max_size=4), st.lists(_NAMES, max_size=2)),
    max_size=8,
)


@settings(max_examples=150, deadline=None)
@given(_NODES)
def test_no_malformed_graph_breaks_the_facts(parts):
    """Circles, tensors made twice, missing parts: facts come out, or the graph is refused."""
    nodes = [node(op, inputs, outputs) for op, inputs, outputs in parts]
    graph = graph_of(nodes, {"x": [2, 3]}, ["y"], {"w": weights(3, 3)})
    with contextlib.suppress(BuildError):
        facts = graph_facts(graph)
        assert len(facts.nodes) == len(nodes)
        assert facts.macs >= facts.int8_macs >= 0


def test_shapes_are_known_behind_dozens_of_gates_that_onnx_does_not_know():
    count = 60
    nodes = [
        helper.make_node("QuickGelu", [f"t{i}"], [f"t{i + 1}"], f"g{i}", domain="com.microsoft")
        for i in range(count)
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("t0", TensorProto.FLOAT, [1, 3, 8])],
        [helper.make_tensor_value_info(f"t{count}", TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    tensors = infer_tensors(helper.make_model(graph, opset_imports=opsets))
    assert tensors.shapes[f"t{count}"] == (1, 3, 8)
