"""SmoothQuant: the same function, evener channels, and no node where a norm takes the scales."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper, numpy_helper

from edgekit.runtime.session import open_session, runner
from edgekit.toolchain.graph import Graph
from edgekit.toolchain.quantize.noise import noise_db
from edgekit.toolchain.quantize.smooth import (
    ALPHAS,
    _best_scales,
    channel_scales,
    dynamic_error,
    smoothed,
)
from edgekit.toolchain.quantize.write import write_dynamic
from edgekit.toolchain.target import Quantization

WIDTH, TOKENS = 16, 6
SCHEME = Quantization("uint8", "int8", True, False, (), (), ("MatMul",))
NORM = helper.make_node("LayerNormalization", ["x", "gamma", "beta"], ["n"], "norm", axis=-1)
PRODUCTS = [
    helper.make_node("MatMul", ["n", "w1"], ["a"], "first"),
    helper.make_node("MatMul", ["n", "w2"], ["b"], "second"),
]
ENDS = {
    "alone": [*PRODUCTS, helper.make_node("Add", ["a", "b"], ["y"], "sum")],
    "shape": [
        *PRODUCTS,
        helper.make_node("Shape", ["n"], ["s"], "shape"),
        helper.make_node("Add", ["a", "b"], ["c"], "sum"),
        helper.make_node("Reshape", ["c", "s"], ["y"], "reshape"),
    ],
    "residual": [
        *PRODUCTS,
        helper.make_node("Add", ["a", "b"], ["c"], "sum"),
        helper.make_node("Add", ["c", "n"], ["y"], "residual"),
    ],
    "gemm": [
        helper.make_node("Squeeze", ["n", "axis"], ["m"], "squeeze"),
        helper.make_node("Gemm", ["m", "w1", "bias"], ["y"], "gemm"),
    ],
}


def graph_of(nodes: list[onnx.NodeProto], seed: int = 3) -> Graph:
    """A transformer's piece in which three channels are as large as outliers are."""
    random = np.random.default_rng(seed)
    rank = 2 if nodes[-1].op_type == "Gemm" else 3
    gamma = random.normal(1, 0.2, WIDTH)
    gamma[[2, 5, 11]] *= 60
    values = {
        "gamma": gamma,
        "beta": random.normal(size=WIDTH),
        "bias": random.normal(size=WIDTH),
        **{name: random.normal(size=(WIDTH, WIDTH)) / 4 for name in ("w1", "w2")},
    }
    made = helper.make_graph(
        [NORM, *nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, TOKENS, WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)],
        [numpy_helper.from_array(np.asarray(v, np.float32), n) for n, v in values.items()]
        + [numpy_helper.from_array(np.array([0]), "axis")],
    )
    opsets = [helper.make_opsetid("", 17)]
    return Graph.of(helper.make_model(made, opset_imports=opsets, ir_version=9))


def feeds_of(seed: int = 1) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    return [{"x": random.normal(size=(1, TOKENS, WIDTH)).astype(np.float32)} for _ in range(6)]


def outputs(graph: Graph, feeds: Any) -> list[dict[str, Any]]:
    run = runner(open_session(graph.to_bytes()))
    return [run(feed) for feed in feeds]


@pytest.mark.parametrize(("end", "products"), [(e, m) for e in ENDS for m in (True, False)])
def test_the_function_stays_the_same(end, products):
    graph, feeds = graph_of(ENDS[end]), feeds_of()
    again = smoothed(graph, feeds, worth=0.7 if products else 0.0)
    onnx.checker.check_model(again.proto)
    for old, new in zip(outputs(graph, feeds), outputs(again, feeds), strict=True):
        np.testing.assert_allclose(new["y"], old["y"], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("end", "more"), [("alone", 0), ("shape", 0), ("residual", 1), ("gemm", 1)]
)
def test_a_norm_that_feeds_products_alone_takes_the_scales(end, more):
    graph, feeds = graph_of(ENDS[end]), feeds_of()
    before, after = (
        Counter(n.op_type for n in g.proto.graph.node) for g in (graph, smoothed(graph, feeds))
    )
    assert after - before == Counter({"Mul": more} if more else {})
    untouched = smoothed(graph, feeds, worth=0.0)
    assert (list(untouched.proto.graph.node) == list(graph.proto.graph.node)) is bool(more)


def test_a_norm_that_is_an_output_is_no_product_of_ours():
    graph = graph_of(ENDS["alone"])
    proto = graph.copy()
    proto.graph.output.append(helper.make_tensor_value_info("n", TensorProto.FLOAT, [None] * 3))
    graph, feeds = Graph.of(proto), feeds_of()
    for old, new in zip(outputs(graph, feeds), outputs(smoothed(graph, feeds), feeds), strict=True):
        np.testing.assert_allclose(new["n"], old["n"], atol=1e-6)


@pytest.mark.parametrize("end", ["alone", "residual"])
def test_outliers_cost_dynamic_int8_less(end):
    graph, feeds = graph_of(ENDS[end]), feeds_of()
    wanted = outputs(graph, feeds)
    plain, smooth = (
        noise_db(
            runner(open_session(write_dynamic(g, SCHEME, ("MatMul",)).to_bytes())), wanted, feeds
        )
        for g in (graph, smoothed(graph, feeds))
    )
    assert smooth < plain - 6


@settings(deadline=None)
@given(
    arrays(np.float32, 8, elements=st.floats(0, 1e6, width=32)),
    arrays(np.float32, 8, elements=st.floats(0, 1e6, width=32)),
    st.floats(0, 1),
)
def test_scales_are_positive_and_even_out_what_is_uneven(activation, weight, alpha):
    scales = channel_scales(activation, weight, alpha)
    assert scales.dtype == np.float32
    assert np.all(np.isfinite(scales))
    assert np.all(scales > 0)
    dead = (activation == 0) | (weight == 0)
    assert np.all(scales[dead] == 1)
    live = ~dead & (activation > 1e-4 * activation.max()) & (weight > 1e-4 * weight.max())
    if alpha == 0.5 and live.sum() > 1:
        # Both sides of the product are then as large: sqrt(max|X| max|W|) each, up to a factor.
        ratio = (activation[live] / scales[live]) / (weight[live] * scales[live])
        assert ratio.max() / ratio.min() < 1.01


def test_a_graph_without_products_is_given_back():
    graph = graph_of([helper.make_node("Relu", ["n"], ["y"], "relu")])
    assert smoothed(graph, feeds_of()) is graph


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.floats(0, 1e3), st.sampled_from([0.3, 0.7, 1.0]))
def test_scales_are_taken_only_where_they_leave_less_of_the_error(seed, outlier, worth):
    random = np.random.default_rng(seed)
    values = [random.normal(size=(5, 8)).astype(np.float32) for _ in range(3)]
    for value in values:
        value[:, 2] *= outlier
    weights = [random.normal(size=(8, 6)).astype(np.float32)]
    found = _best_scales(values, weights, ALPHAS, worth)
    plain = dynamic_error(values, weights, np.ones(8, np.float32))
    if found is not None:
        assert dynamic_error(values, weights, found) < worth * plain
    else:
        assert outlier < 100 or worth < 1
