"""What is collected from a graph, against all values of its tensors."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgekit.toolchain.graph import Graph
from edgekit.toolchain.quantize import calibrate
from edgekit.toolchain.quantize.calibrate import (
    RangeRule,
    choose_range,
    collect,
    extremes,
    session_with_outputs,
)
from edgekit.toolchain.quantize.histogram import BINS
from edgekit.wire.errors import BuildError


def graph_of(nodes, elem_type=TensorProto.FLOAT, shape=(1, 8, "h", "w"), output="y"):
    out = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", elem_type, shape)], [out]
    )
    return Graph.of(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    )


@pytest.fixture(scope="module")
def graph():
    return graph_of(
        [
            helper.make_node("Sigmoid", ["x"], ["s"], "n0"),
            helper.make_node("Mul", ["x", "s"], ["m"], "n1"),
            helper.make_node("GlobalAveragePool", ["m"], ["p"], "n2"),
            helper.make_node("Add", ["m", "p"], ["y"], "n3"),
        ]
    )


@pytest.fixture(scope="module")
def feeds():
    rng = np.random.default_rng(0)
    scale = np.linspace(1, 3, 40, dtype=np.float32)  # columns differ: a step must meet them all
    return [
        {"x": rng.normal(size=(1, 8, 48, 40)).astype(np.float32) * scale * (1 + 0.1 * i)}
        for i in range(8)
    ]


NAMES = ["x", "s", "m", "p", "y"]


def all_values(graph, feeds):
    session = session_with_outputs(graph, NAMES)
    names = NAMES[1:]
    runs = [{**feed, **dict(zip(names, session.run(names, feed), strict=True))} for feed in feeds]
    return {name: np.concatenate([run[name].ravel() for run in runs]) for name in NAMES}


def test_extremes_are_exact_and_every_value_of_small_tensors_counts(graph, feeds):
    values, stats = all_values(graph, feeds), collect(graph, NAMES, feeds)

    assert list(stats) == NAMES
    seen = extremes(graph, NAMES, iter(feeds))
    for name in NAMES:
        low, high = float(values[name].min()), float(values[name].max())
        assert (stats[name].low, stats[name].high) == (low, high) == seen[name]
        assert stats[name].histogram.sum() == values[name].size
        wide = values[name].astype(np.float64)
        true = np.histogram(wide, bins=BINS, range=(low, high))[0]
        assert np.abs(np.cumsum(true - stats[name].histogram)).sum() < 0.7 * wide.size


def test_some_values_of_large_tensors_stand_for_all(graph, feeds, monkeypatch):
    monkeypatch.setattr(calibrate, "_MOST_VALUES", 2000)
    values, stats = all_values(graph, feeds), collect(graph, NAMES, feeds)

    for name in ("x", "m", "y"):
        counted = stats[name].histogram.sum()
        assert 8 * 1000 < counted <= 8 * 2000
        assert stats[name].high == values[name].max()
        width = (stats[name].high - stats[name].low) / BINS
        centres = stats[name].low + (np.arange(BINS) + 0.5) * width
        mean = (centres * stats[name].histogram).sum() / counted
        spread = np.sqrt((stats[name].histogram * (centres - mean) ** 2).sum() / counted)
        assert spread == pytest.approx(values[name].std(), rel=0.03)
    assert stats["p"].histogram.sum() == values["p"].size


def test_places_move_on_with_every_feed_until_all_were_met(graph, feeds, monkeypatch):
    monkeypatch.setattr(calibrate, "_MOST_VALUES", 2300)  # of 15 360: a step of 7

    every_seventh = collect(graph, ["m"], feeds[:1] * 7)["m"]

    monkeypatch.setattr(calibrate, "_MOST_VALUES", 1 << 20)
    assert (every_seventh.histogram == collect(graph, ["m"], feeds[:1])["m"].histogram).all()


def test_feeds_of_several_sizes_count_by_their_size(graph, monkeypatch):
    monkeypatch.setattr(calibrate, "_MOST_VALUES", 100)
    small, large = np.zeros((1, 8, 16, 16), np.float32), np.ones((1, 8, 64, 64), np.float32)

    histogram = collect(graph, ["x"], [{"x": small}, {"x": large}])["x"].histogram

    assert histogram[-1] == pytest.approx(16 * histogram[0], rel=0.02)


def test_runs_once_a_feed_and_reports_each(graph, feeds):
    done: list[int] = []

    collect(graph, NAMES, feeds, done.append)

    assert done == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_float16_input_is_calibrated_as_float32():
    graph = graph_of([helper.make_node("Cast", ["x"], ["y"], "n", to=1)], TensorProto.FLOAT16)
    value = np.linspace(-2, 6, 64, dtype=np.float16).reshape(1, 8, 2, 4)

    stats = collect(graph, ["x", "y"], [{"x": value}])

    assert (stats["x"].low, stats["x"].high) == (-2.0, 6.0)
    assert (stats["x"].histogram == stats["y"].histogram).all()


@pytest.mark.parametrize("place", [0, 5, 8 * 50 * 50 - 1])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_is_found_wherever_it_is(place, bad):
    graph = graph_of([helper.make_node("Neg", ["x"], ["y"], "n")])
    good = np.random.default_rng(0).normal(size=(1, 8, 50, 50)).astype(np.float32)
    poisoned = good.copy()
    poisoned.flat[place] = bad

    for watch in (collect, extremes):
        with pytest.raises(BuildError, match=r'"y" is NaN or infinite on calibration sample 1'):
            watch(graph, ["y"], [{"x": good}, {"x": poisoned}])


def test_no_feeds_is_an_error_and_no_tensors_is_not(graph, feeds):
    with pytest.raises(BuildError, match="no calibration samples"):
        collect(graph, NAMES, [])
    assert collect(graph, [], feeds) == {}
    assert extremes(graph, [], feeds) == {}


def test_a_tensor_that_never_changes_has_a_range_around_zero(graph):
    feed = {"x": np.full((1, 8, 4, 4), 2.5, dtype=np.float32)}

    stats = collect(graph, ["x"], [feed, feed])["x"]

    for rule in RangeRule:
        assert choose_range(stats, rule) == (0.0, 2.5)
