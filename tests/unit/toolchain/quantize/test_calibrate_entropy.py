"""The entropy rule, against its definition written out in loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.toolchain.quantize.calibrate import Gate, RangeRule, choose_range
from edgekit.toolchain.quantize.entropy import divergences, least_divergence
from edgekit.toolchain.quantize.histogram import BINS, TensorStats


def stats_of(values):
    values = np.asarray(values, dtype=np.float64)
    counts, _ = np.histogram(values, bins=BINS, range=(values.min(), values.max()))
    return TensorStats(float(values.min()), float(values.max()), counts)


def by_definition(counts, edges):
    """Return the divergence of one candidate: level by level, bin by bin."""
    first, last = edges[0], edges[-1]
    reference = [float(c) for c in counts[first:last]]
    reference[0] += sum(counts[:first])
    reference[-1] += sum(counts[last:])
    candidate = [0.0] * len(reference)
    for start, end in itertools.pairwise(edges):
        used = [i for i in range(start, end) if reference[i - first] > 0]
        for i in used:
            candidate[i - first] = max(sum(counts[start:end]), 1e-4) / len(used)
    total, kept = sum(reference), sum(counts[first:last])
    return sum(
        p / total * math.log((p / total) / (q / kept))
        for p, q in zip(reference, candidate, strict=True)
        if p > 0
    )


@given(seed=st.integers(0, 999), empty=st.floats(0, 0.9), first=st.integers(0, 500))
@settings(max_examples=40, deadline=None)
def test_the_divergence_is_that_of_the_definition(seed, empty, first):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 1000, BINS) * (rng.random(BINS) > empty)
    counts[first] = 5  # never nothing at all
    ends = rng.integers(first + 300, BINS + 1, 3)
    edges = np.array([np.rint(np.linspace(first, end, 256)) for end in ends], dtype=np.int64)

    found = divergences(counts.astype(np.float64), edges)

    assert found == pytest.approx([by_definition(counts, row) for row in edges], abs=1e-9)


@given(
    low=st.floats(-1e30, 1e30),
    span=st.floats(0, 1e30),
    seed=st.integers(0, 99),
    share=st.floats(0, 1),
)
def test_ranges_hold_zero_and_end_within_what_was_seen(low, span, seed, share):
    rng = np.random.default_rng(seed)
    stats = TensorStats(low, low + span, rng.integers(0, 99, BINS) * (rng.random(BINS) < share))

    lower, upper = choose_range(stats, RangeRule.ENTROPY)

    assert min(stats.low, 0.0) <= lower <= 0.0 <= upper <= max(stats.high, 0.0)


def test_a_lone_outlier_is_cut_and_an_even_distribution_is_not():
    rng = np.random.default_rng(0)
    values = rng.normal(size=100_000)

    assert least_divergence(stats_of(np.append(values, 60.0)))[1] < 20
    even = stats_of(rng.uniform(-1, 3, 400_000))
    assert least_divergence(even) == pytest.approx((even.low, even.high), rel=0.05)


def test_zeros_of_a_relu_do_not_decide():
    values = np.abs(np.random.default_rng(0).normal(size=100_000))
    zeros = np.append(values, np.zeros(5_000_000))

    assert least_divergence(stats_of(zeros)) == pytest.approx(
        least_divergence(stats_of(np.append(values, 0.0))), rel=0.02
    )


@pytest.mark.parametrize("values", [[3.0], [0.0], [-2.0, -2.0], [5.0, 6.0], [-7.0, -6.5]])
def test_few_values_and_values_far_from_zero_give_their_own_range(values):
    lower, upper = choose_range(stats_of_few(values), RangeRule.ENTROPY)

    assert lower == pytest.approx(min(*values, 0.0), rel=0.2)
    assert upper == pytest.approx(max(*values, 0.0), rel=0.2)


def stats_of_few(values):
    if len(set(values)) > 1:
        return stats_of(values)
    return TensorStats(values[0], values[0], np.zeros(BINS, dtype=np.int64))


def test_a_gate_narrows_an_entropy_range_from_below_only():
    values = np.random.default_rng(0).normal(0, 20, size=100_000)
    stats = stats_of(values)

    plain = choose_range(stats, RangeRule.ENTROPY)
    gated = choose_range(stats, RangeRule.ENTROPY, Gate.SILU)

    assert gated[1] == plain[1]
    assert gated[0] > plain[0]
