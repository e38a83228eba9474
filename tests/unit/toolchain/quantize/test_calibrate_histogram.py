"""Histograms whose range is learnt on the way, against numpy's over the range known beforehand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgekit.toolchain.quantize.histogram import BINS, GrowingHistogram
from edgekit.toolchain.quantize.probe import step_of

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
WHOLE = st.integers(-128, 255).map(float)
NEAR = st.integers(0, 40).map(lambda i: float(np.float32(1000) + i * np.spacing(np.float32(1000))))
TINY = st.integers(-40, 40).map(lambda i: i * 2.0**-149)
CHUNKS = st.sampled_from((FLOATS, WHOLE, NEAR, TINY)).flatmap(
    lambda kind: st.lists(
        arrays(np.float32, st.integers(1, 40), elements=kind), min_size=1, max_size=6
    )
)


def counted(chunks):
    histogram = GrowingHistogram()
    for chunk in chunks:
        histogram.add(float(chunk.min()), float(chunk.max()), chunk)
    return histogram.stats()


@given(chunks=CHUNKS)
@settings(max_examples=300, deadline=None)
def test_no_value_is_counted_more_than_a_bin_away_from_where_it_lies(chunks):
    stats = counted(chunks)
    values = np.sort(np.concatenate(chunks).astype(np.float64))

    assert stats.low == values[0]
    assert stats.high == values[-1]
    assert stats.histogram.min() >= 0
    assert stats.histogram.sum() == values.size
    width = (stats.high - stats.low) / BINS
    edges = stats.low + np.arange(1, BINS) * width
    below = np.cumsum(stats.histogram)[:-1]
    slack = 1.01 * width + abs(edges) * 1e-12
    assert (below >= np.searchsorted(values, edges - slack)).all()
    assert (below <= np.searchsorted(values, edges + slack)).all()


@pytest.mark.parametrize("name", ["normal", "relu", "pixels", "narrow", "huge", "half"])
def test_counts_are_those_of_numpy_where_the_first_values_span_the_range(name):
    rng = np.random.default_rng(0)
    values = {
        "normal": rng.normal(size=200_000),
        "relu": np.maximum(rng.normal(size=200_000), 0),
        "pixels": rng.integers(0, 256, 200_000),
        "narrow": 1000 + rng.integers(0, 90, 200_000) * np.spacing(np.float32(1000)),
        "huge": rng.uniform(-3.4e38, 3.4e38, 200_000),
        "half": rng.normal(size=200_000).astype(np.float16),
    }[name].astype(np.float32)
    wide = values.astype(np.float64)

    stats = counted([values, values[:1000]])

    true = np.histogram(wide, bins=BINS, range=(wide.min(), wide.max()))[0]
    true += np.histogram(wide[:1000], bins=BINS, range=(wide.min(), wide.max()))[0]
    moved = np.abs(np.cumsum(true - stats.histogram)).sum()
    assert moved <= 1e-4 * values.size


def test_a_range_that_grows_late_keeps_its_early_counts_in_place():
    rng = np.random.default_rng(1)
    early, late = (rng.normal(size=50_000).astype(np.float32) for _ in range(2))
    late[:2] = -70.0, 900.0

    stats = counted([early, late])

    values = np.concatenate([early, late]).astype(np.float64)
    true = np.histogram(values, bins=BINS, range=(values.min(), values.max()))[0]
    assert stats.histogram[-1] == 1
    assert stats.histogram[0] == 1
    moved_bins = np.abs(np.cumsum(true - stats.histogram)).sum() / values.size
    assert moved_bins < 1


@pytest.mark.parametrize("value", [0.0, -3.5, 2.0**-149, 3.4e38])
def test_a_constant_stays_one_and_what_follows_widens_it(value):
    constant = np.full(10, value, dtype=np.float32)
    other = np.array([value + 1.0], dtype=np.float32) * np.float32(0.5)

    alone, wider = counted([constant, constant]), counted([constant, other])

    assert alone.low == alone.high == np.float32(value)
    assert alone.histogram.sum() == 20
    ends = sorted((wider.histogram[0], wider.histogram[-1]))
    assert ends == [1, 10]
    assert wider.histogram.sum() == 11


def test_extremes_count_that_are_not_among_the_values():
    histogram = GrowingHistogram()
    histogram.add(-8.0, 8.0, np.array([0.5], dtype=np.float32))

    stats = histogram.stats()

    assert (stats.low, stats.high) == (-8.0, 8.0)
    assert np.flatnonzero(stats.histogram).tolist() == [BINS // 2 + BINS // 32]


@given(shape=st.lists(st.integers(1, 24), min_size=1, max_size=4), most=st.integers(1, 5000))
@settings(deadline=None)
def test_steps_keep_to_the_limit_and_meet_no_period_of_the_shape(shape, most):
    size = math.prod(shape)

    step = step_of(size, most)

    assert len(range(0, size, step)) <= most
    assert step == 1 or size > most
    for axis in range(len(shape)):
        period = math.prod(shape[axis:])
        places = np.arange(0, step * period, step) % period
        assert np.bincount(places).all(), "some place of a row is never looked at"
