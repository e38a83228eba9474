"""Calibration and writers, on the real digits network and on odd ranges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.runtime.session import open_session, runner
from edgekit.toolchain.graph import Graph
from edgekit.toolchain.passes import CanonicalOptions, canonicalise, optimize
from edgekit.toolchain.quantize.calibrate import BINS, RangeRule, TensorStats, choose_range, collect
from edgekit.toolchain.quantize.candidates import (
    Candidate,
    check_candidate,
    static_candidate,
)
from edgekit.toolchain.quantize.layers import find_layers
from edgekit.toolchain.quantize.noise import noise_db
from edgekit.toolchain.quantize.sensitivity import layer_sqnr_db
from edgekit.toolchain.quantize.static import (
    RULES,
    choose_plans,
    effect_meter,
    quantized,
    tensors_to_calibrate,
)
from edgekit.toolchain.target import Quantization
from edgekit.wire.errors import BuildError

DIGITS = Path(__file__).parents[3] / "models" / "digits-cnn.onnx"
SCHEME = Quantization(
    "uint8", "int8", True, False, ("Conv", "MatMul", "Gemm"), ("Add", "MaxPool"), ()
)


@pytest.fixture(scope="module")
def digits() -> Graph:
    graph, _ = canonicalise(Graph.load(DIGITS), CanonicalOptions())
    return optimize(graph)[0]


@pytest.fixture(scope="module")
def feeds(digits) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    shape = [1, *[d.dim_value for d in digits.proto.graph.input[0].type.tensor_type.shape.dim[1:]]]
    name = digits.input_names[0]
    return [{name: rng.random(shape, dtype=np.float32)} for _ in range(8)]


def test_calibration_sees_the_true_extremes_and_counts_every_value(digits, feeds):
    layers = find_layers(digits.proto)
    names = tensors_to_calibrate(digits, layers, SCHEME)
    stats = collect(digits, names, feeds)

    fed = digits.input_names[0]
    values = np.concatenate([feed[fed].ravel() for feed in feeds])
    assert stats[fed].low == values.min()
    assert stats[fed].high == values.max()
    assert stats[fed].histogram.sum() == values.size
    assert set(stats) == set(names)


@given(
    low=st.floats(-1e3, 1e3),
    span=st.floats(0, 1e3),
    seed=st.integers(0, 99),
    rule=st.sampled_from(RangeRule),
)
@settings(max_examples=60)
def test_every_rule_gives_a_range_around_zero_within_what_was_seen(low, span, seed, rule):
    histogram = np.random.default_rng(seed).integers(0, 1000, BINS)
    stats = TensorStats(low, low + span, histogram)

    chosen = choose_range(stats, rule)

    assert chosen[0] <= 0 <= chosen[1]
    assert chosen[0] >= min(low, 0) - 1e-6
    assert chosen[1] <= max(low + span, 0) + 1e-6


def test_percentile_and_mse_cut_a_lone_outlier_that_min_max_keeps():
    values = np.random.default_rng(0).normal(size=100_000)
    values[0] = 500.0
    histogram, _ = np.histogram(values, bins=BINS, range=(values.min(), 500.0))
    stats = TensorStats(float(values.min()), 500.0, histogram)

    assert choose_range(stats, RangeRule.MIN_MAX)[1] == 500.0
    assert choose_range(stats, RangeRule.PERCENTILE)[1] < 50
    assert choose_range(stats, RangeRule.MSE)[1] < 500


def test_a_static_plan_stores_int8_and_keeps_the_loudest_layer_float(digits, feeds):
    layers = find_layers(digits.proto)
    stats = collect(digits, tensors_to_calibrate(digits, layers, SCHEME), feeds)
    plan = choose_plans(digits, SCHEME, stats, layers, feeds)[0]

    def alone(layer):
        return quantized(digits, SCHEME, plan.ranges, [layer], between=False)

    effect_db = effect_meter(digits, feeds)
    effects = {layer.name: effect_db(alone(layer)) for layer in layers}
    worst = max(effects, key=lambda name: effects[name])

    whole = static_candidate(digits, SCHEME, plan, layers, ())
    mixed = static_candidate(digits, SCHEME, plan, layers, (worst,))

    assert len(plan.noise_db) == 2 * len(RULES)
    assert set(effects) == {layer.name for layer in layers}
    assert whole.int8_share > 0.9
    assert whole.graph.size_bytes < digits.size_bytes
    made_by = {o: n.op_type for n in mixed.graph.proto.graph.node for o in n.output}
    (kept,) = (n for n in mixed.graph.proto.graph.node if n.name == worst)
    assert made_by.get(kept.input[1]) is None, "its weights come out of a dequantizer"
    assert mixed.int8_share < whole.int8_share
    wanted = [runner(open_session(digits.to_bytes()))(feed) for feed in feeds]
    noise = [
        noise_db(runner(open_session(c.graph.to_bytes())), wanted, feeds) for c in (whole, mixed)
    ]
    assert max(noise) < -25


def test_what_a_layer_loses_by_itself_is_ranked_for_every_layer(digits, feeds):
    layers = find_layers(digits.proto)
    stats = collect(digits, tensors_to_calibrate(digits, layers, SCHEME), feeds)
    plan = choose_plans(digits, SCHEME, stats, layers, feeds)[0]

    sqnr = layer_sqnr_db(digits, layers, plan.ranges, feeds, SCHEME)

    assert set(sqnr) == {layer.name for layer in layers}
    assert all(15 < value < 100 for value in sqnr.values())


def test_keeping_all_layers_float_changes_nothing_and_is_refused_as_int8(digits, feeds):
    same = Candidate("x", "int8 static", digits)

    run = runner(open_session(digits.to_bytes()))
    assert noise_db(run, [run(feed) for feed in feeds], feeds) == -100
    with pytest.raises(BuildError, match="of its weights became int8"):
        check_candidate(same, feeds)


def test_a_nan_activation_is_named_with_its_sample(digits, feeds):
    name = digits.input_names[0]
    poisoned = [*feeds[:2], {name: np.full_like(feeds[0][name], np.nan)}]

    with pytest.raises(BuildError, match="calibration sample 2"):
        collect(digits, [name], poisoned)


def test_no_feeds_is_an_error(digits):
    with pytest.raises(BuildError, match="no calibration samples"):
        collect(digits, [digits.input_names[0]], [])


def test_the_same_calibration_gives_the_same_bytes(digits, feeds):
    layers = find_layers(digits.proto)
    made = []
    for _ in range(2):
        stats = collect(digits, tensors_to_calibrate(digits, layers, SCHEME), feeds)
        plan = choose_plans(digits, SCHEME, stats, layers, feeds)[0]
        made.append(static_candidate(digits, SCHEME, plan, layers, ()).graph.sha256)

    assert made[0] == made[1]
    onnx.checker.check_model(digits.proto)
