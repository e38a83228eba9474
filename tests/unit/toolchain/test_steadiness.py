"""Twins that are a last bit off: what moves with them, what does not, and what that allows."""

from __future__ import annotations

import io
import math

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgekit.runtime.session import open_session, runner
from edgekit.runtime.tasks import create_task
from edgekit.toolchain import steadiness
from edgekit.toolchain.graph import Graph
from edgekit.toolchain.placement import Place
from edgekit.toolchain.readers import Sample
from edgekit.toolchain.steadiness import choose_steady, nudged

TASK = create_task("tensors", {"inputs": ["x"]}, {})


def graph_of(nodes: list[onnx.NodeProto], constants: dict[str, object]) -> Graph:
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        [
            numpy_helper.from_array(np.asarray(v, np.uint8 if n == "zero" else np.float32), n)
            for n, v in constants.items()
        ],
    )
    return Graph.of(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    )


def rounding(weight: float = 1.0) -> Graph:
    """x * weight, rounded to whole numbers and back."""
    return graph_of(
        [
            helper.make_node("Mul", ["x", "w"], ["m"], name="mul"),
            helper.make_node("QuantizeLinear", ["m", "one", "zero"], ["q"], name="round"),
            helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["y"], name="back"),
        ],
        {"w": [weight], "one": 1.0, "zero": 128},
    )


def sample(name: str, values: list[float]) -> Sample:
    buffer = io.BytesIO()
    np.save(buffer, np.array(values, np.float32))
    return Sample(name, buffer.getvalue(), ".npy")


def constants(graph: Graph) -> dict[str, np.ndarray]:
    return {i.name: numpy_helper.to_array(i) for i in graph.proto.graph.initializer}


@pytest.mark.parametrize("seed", [0, 1])
def test_every_weight_moves_by_one_unit_in_the_last_place(seed):
    weights = np.random.default_rng(5).normal(size=4).astype(np.float32)
    weights[1] = 0
    graph = graph_of([helper.make_node("Add", ["x", "w"], ["y"], name="add")], {"w": weights})

    moved = nudged(graph, {"add": Place.FLOAT}, seed)

    (name,) = (n for n in moved.proto.graph.node[0].input if n != "x")
    found = constants(moved)[name]
    up, down = np.nextafter(weights, np.float32(np.inf)), np.nextafter(weights, np.float32(-np.inf))
    assert all(
        (f in (u, d)) != (w == 0) for f, u, d, w in zip(found, up, down, weights, strict=True)
    )
    assert found[1] == 0


def test_integer_nodes_and_bounds_stay_as_they_are():
    graph = rounding()
    places = dict.fromkeys(("mul", "round", "back"), Place.INT8)
    assert nudged(graph, places, 0).sha256 == graph.sha256

    clip = graph_of(
        [helper.make_node("Clip", ["x", "low"], ["y"], name="clip")], {"low": np.float32(0.5)}
    )
    assert nudged(clip, {}, 0).sha256 == clip.sha256


def test_the_scale_of_a_float_rounding_moves_and_its_way_back_does_not():
    moved = nudged(rounding(), {"mul": Place.INT8, "round": Place.FLOAT, "back": Place.FREE}, 0)
    _, quantize, back = moved.proto.graph.node
    assert constants(moved)[quantize.input[1]] != 1.0
    assert constants(moved)[back.input[1]] == 1.0


def test_a_sample_on_the_edge_of_a_rounding_is_not_golden_where_others_are_to_be_had():
    edge, steady = [0.5, 1.5, 2.5, 3.5], [0.2, 1.2, 2.2, 3.2]
    samples = [sample("edge", edge), *(sample(f"s{i}", steady) for i in range(3))]
    flips = [
        not np.array_equal(
            runner(open_session(nudged(rounding(), {}, seed).to_bytes()))(
                {"x": np.array(edge, np.float32)}
            )["y"],
            runner(open_session(rounding().to_bytes()))({"x": np.array(edge, np.float32)})["y"],
        )
        for seed in range(steadiness.TWINS)
    ]
    assert any(flips), "no twin falls on the other side: the test shows nothing"

    chosen = choose_steady(TASK, rounding(), {}, samples, 3)
    assert [s.name for s in chosen.samples] == ["s0", "s1", "s2"]
    assert chosen.tolerance.agreement_min == 1.0
    assert chosen.tolerance.absolute == steadiness.FLOAT_ABSOLUTE

    alone = choose_steady(TASK, rounding(), {}, samples[:1], 1)
    assert [s.name for s in alone.samples] == ["edge"]
    assert alone.tolerance.absolute > steadiness.FLOAT_ABSOLUTE


@given(st.floats(1e-8, 1e6))
def test_limits_are_rounded_up_to_one_digit(value):
    rounded = steadiness._up(value)
    assert value <= rounded * (1 + 1e-6)
    assert rounded <= value + 10.0 ** math.floor(math.log10(value)) * (1 + 1e-6)
