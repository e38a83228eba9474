"""Runs of numbers hold what a set holds."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from edgekit.fleet.ingest.ranges import Ranges

numbers = st.lists(st.integers(0, 60), max_size=120)


@given(numbers)
def test_it_is_a_set(given_):
    ranges, plain = Ranges(), set()
    for number in given_:
        assert ranges.add(number) == (number not in plain)
        plain.add(number)
    assert {n for n in range(70) if n in ranges} == plain
    assert ranges.count == len(plain)
    assert ranges.top == max(plain, default=-1)
    assert [n for first, last in ranges for n in range(first, last + 1)] == sorted(plain)


@given(numbers)
def test_runs_never_touch(given_):
    ranges = Ranges()
    for number in given_:
        ranges.add(number)
    runs = list(ranges)
    assert len(runs) == len(ranges)
    assert all(first <= last for first, last in runs)
    assert all(before[1] + 1 < after[0] for before, after in pairwise(runs))


@given(numbers)
def test_a_set_comes_back_from_its_runs(given_):
    ranges = Ranges()
    for number in given_:
        ranges.add(number)
    again = Ranges(list(ranges))
    assert list(again) == list(ranges)
    copy = ranges.copy()
    copy.add(1000)
    assert 1000 not in ranges
