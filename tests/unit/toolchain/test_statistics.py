"""Intervals: against published values and against what an interval is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.toolchain.statistics import mean_interval, wilson_interval


def test_wilson_matches_the_published_example():
    # Newcombe (1998), Statistics in Medicine 17, table I: 81 of 263, method 3.
    low, high = wilson_interval(81, 263)

    assert (low, high) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@given(n=st.integers(1, 5000), share=st.floats(0, 1))
def test_wilson_holds_the_proportion_and_stays_within_0_and_1(n, share):
    successes = round(share * n)
    low, high = wilson_interval(successes, n)

    assert 0 <= low <= successes / n + 1e-12
    assert successes / n - 1e-12 <= high <= 1


@given(st.lists(st.floats(0, 1), min_size=2, max_size=50), st.integers(0, 9))
def test_the_interval_of_a_mean_is_ordered_and_repeatable(scores, seed):
    interval = mean_interval(scores, seed)

    assert interval[0] <= interval[1]
    assert interval == mean_interval(scores, seed)
