"""Weights stored in 8 bits: they fold at load, move by half a step, and nothing else changes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from edgekit.runtime.session import open_session, runner
from edgekit.toolchain.graph import Graph
from edgekit.toolchain.quantize.layers import find_layers
from edgekit.toolchain.quantize.weights import restore_weights, store_weights

RANDOM = np.random.default_rng(7)


def graph_of(nodes, constants, inputs, outputs, opset=17):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, t, s) for n, t, s in inputs],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [numpy_helper.from_array(v, n) for n, v in constants.items()],
    )
    return Graph.of(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    )


def one_layer(op, weight, shape, position=1, **attributes):
    inputs = ["x", "w"] if position == 1 else ["w", "x"]
    kind = TensorProto.INT64 if op == "Gather" else TensorProto.FLOAT
    return graph_of(
        [helper.make_node(op, inputs, ["y"], "layer", **attributes)],
        {"w": weight},
        [("x", kind, shape)],
        ["y"],
    )


def normal(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


LAYERS = {
    "Conv": (one_layer("Conv", normal(32, 16, 3, 3), [1, 16, 8, 8]), normal(1, 16, 8, 8)),
    "depthwise": (
        one_layer("Conv", normal(128, 1, 3, 3), [1, 128, 8, 8], group=128),
        normal(1, 128, 8, 8),
    ),
    "ConvTranspose": (
        one_layer("ConvTranspose", normal(16, 32, 2, 2), [1, 16, 4, 4]),
        normal(1, 16, 4, 4),
    ),
    "Gemm": (one_layer("Gemm", normal(64, 48), [3, 64]), normal(3, 64)),
    "Gemm transB": (one_layer("Gemm", normal(48, 64), [3, 64], transB=1), normal(3, 64)),
    "MatMul": (one_layer("MatMul", normal(4, 32, 24), [4, 5, 32]), normal(4, 5, 32)),
    "Gather": (one_layer("Gather", normal(100, 16), [5], 0), np.arange(5, dtype=np.int64)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_answers_stay_and_the_file_is_a_quarter(name):
    graph, x = LAYERS[name]
    stored = store_weights(graph)
    assert stored.size_bytes < 0.45 * graph.size_bytes
    before, after = (runner(open_session(g.to_bytes()))({"x": x})["y"] for g in (graph, stored))
    noise = np.square(before - after).sum() / np.square(before).sum()
    assert 0 < noise < 10**-3.5


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "Gather"])
def test_the_runtime_folds_what_was_stored(name, tmp_path):
    graph, _ = LAYERS[name]
    optimized = []
    for index, made in enumerate((graph, store_weights(graph))):
        path = tmp_path / f"{index}.onnx"
        open_session(made.to_bytes(), save_to=path)
        optimized.append([node.op_type for node in onnx.load(path).graph.node])
    assert optimized[0] == optimized[1]


@pytest.mark.parametrize("name", LAYERS)
def test_restored_is_what_the_runtime_computes_with(name):
    graph, x = LAYERS[name]
    stored = store_weights(graph)
    restored = restore_weights(stored)
    assert [n.op_type for n in restored.proto.graph.node] == [
        n.op_type for n in graph.proto.graph.node
    ]
    answers = [runner(open_session(g.to_bytes()))({"x": x})["y"] for g in (stored, restored)]
    np.testing.assert_array_equal(*answers)


@given(
    hnp.arrays(
        np.float32,
        (16, 64),
        elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=True),
    )
)
def test_no_weight_moves_by_more_than_half_a_step(weight):
    graph = one_layer("Gemm", weight, [1, 64], transB=1)
    restored = restore_weights(store_weights(graph))
    (found,) = (numpy_helper.to_array(i) for i in restored.proto.graph.initializer)
    limit = np.abs(weight).max(axis=1, keepdims=True).astype(np.float64) / 254
    error = np.abs(found.astype(np.float64) - weight)
    # A scale in float32 is rounded itself, and is never below the smallest normal number.
    assert (error <= limit * (1 + 1e-5) + np.finfo(np.float32).tiny).all()


def test_small_and_shared_and_fed_weights_stay():
    small = one_layer("Gemm", normal(8, 16), [1, 8])
    assert store_weights(small) is small
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "layer"),
        helper.make_node("Add", ["h", "w"], ["y"], "use"),
    ]
    both = graph_of(nodes, {"w": normal(64, 64)}, [("x", TensorProto.FLOAT, [64, 64])], ["y"])
    assert store_weights(both) is both
    fed = one_layer("MatMul", normal(64, 64), [1, 64])
    proto = fed.copy()
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [64, 64]))
    fed = Graph.of(proto)
    assert store_weights(fed) is fed


def test_layers_are_found_behind_stored_weights():
    graph, _ = LAYERS["Conv"]
    before, after = (find_layers(g.proto) for g in (graph, store_weights(graph)))
    assert before == after


def test_storing_twice_changes_nothing():
    graph, _ = LAYERS["Conv"]
    stored = store_weights(graph)
    assert store_weights(stored) is stored
