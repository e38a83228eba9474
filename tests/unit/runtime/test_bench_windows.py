"""Percentiles, windows and the plateau, without a clock."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.runtime.bench_windows import (
    MAX_KEPT,
    MIN_WINDOWS,
    TOLERANCE,
    Recorder,
    Reservoir,
    Window,
    plateau_start,
    quantiles,
    summarise,
)

latencies = st.lists(st.floats(0.001, 1e5), min_size=1, max_size=500)


def filled(values: list[float], most: int = MAX_KEPT) -> Reservoir:
    reservoir = Reservoir(random.Random(0), most)  # noqa: S311 - a sample, not a secret
    for value in values:
        reservoir.add(value)
    return reservoir


@given(latencies)
def test_percentiles_are_the_nearest_rank_of_all_values(values: list[float]) -> None:
    found = quantiles([filled(values)])
    ordered = sorted(values)
    for name, share in (("p50_ms", 0.5), ("p90_ms", 0.9), ("p99_ms", 0.99)):
        rank = max(0, math.ceil(share * len(values) - 1e-9) - 1)
        assert found[name] == pytest.approx(ordered[rank], rel=1e-4)
    assert found["n"] == len(values)
    assert found["mean_ms"] == pytest.approx(math.fsum(values) / len(values), rel=1e-4)


@given(latencies, st.integers(1, 499))
def test_windows_together_are_what_one_window_would_be(values: list[float], cut: int) -> None:
    assert quantiles([filled(values[:cut]), filled(values[cut:])]) == quantiles([filled(values)])


def test_a_window_that_kept_a_part_weighs_as_much_as_all_of_it() -> None:
    many, few = filled([1.0] * 9000, most=100), filled([5.0] * 3000, most=3000)
    assert len(many.values) == 100
    found = quantiles([many, few])
    assert (found["n"], found["p50_ms"], found["p90_ms"]) == (12000, 1.0, 5.0)
    assert found["mean_ms"] == 2.0


def test_what_is_kept_is_an_even_sample() -> None:
    reservoir = filled([float(i % 1000) for i in range(50_000)], most=2000)
    assert len(reservoir.values) == 2000
    assert math.fsum(reservoir.values) / 2000 == pytest.approx(499.5, rel=0.05)


def test_nothing_has_no_percentile() -> None:
    assert quantiles([]) == {"n": 0}
    assert quantiles([filled([])]) == {"n": 0}


@pytest.mark.parametrize(
    ("medians", "start"),
    [
        ([5.0] * 10, 0),
        ([1.0, 2.0, 3.0, *[4.0] * 5], 3),
        ([1.0, 2.0, 3.0, *[4.0] * 4], None),
        ([4.0, 4.0, 4.0, 4.0, 4.0, 9.0], None),
        ([9.0, 4.0, 4.07, 4.0, 4.05, 4.01], 1),
        ([9.0, 4.0, 4.09, 4.0, 4.05, 4.01], None),
        ([1.0 + 0.01 * i for i in range(50)], None),
        ([], None),
    ],
)
def test_the_plateau_is_the_longest_tail_of_equal_medians(
    medians: list[float], start: int | None
) -> None:
    assert plateau_start(medians) == start


@given(st.lists(st.floats(1.0, 1.1), max_size=30))
def test_a_plateau_agrees_and_cannot_be_longer(medians: list[float]) -> None:
    start = plateau_start(medians)
    agrees = [max(medians[i:]) <= min(medians[i:]) * (1 + TOLERANCE) for i in range(len(medians))]
    longest = agrees.index(True) if True in agrees else len(medians)
    assert start == (longest if len(medians) - longest >= MIN_WINDOWS else None)


def windows_of(medians: list[float], per_window: int = 10) -> list[Window]:
    recorder = Recorder(1.0)
    for index, median in enumerate(medians):
        for number in range(per_window):
            closed = recorder.add(index + (number + 1) / per_window, median * 2, [median])
        if closed is not None:
            closed.vitals = {"temp_c": 50.0 + index, "throttled": True}
    recorder.close()
    return recorder.windows


def test_requests_fall_into_windows_of_equal_time() -> None:
    windows = windows_of([1.0, 2.0, 3.0])
    assert [(w.start_s, w.end_s, w.calls.count) for w in windows] == [
        (0.0, 1.0, 10),
        (1.0, 2.0, 10),
        (2.0, 3.0, 10),
    ]
    assert windows[1].to_json()["p50_ms"] == 2.0


def test_a_request_longer_than_a_window_is_a_window() -> None:
    recorder = Recorder(1.0)
    closed = [recorder.add(at_s, 3000.0, [2900.0]) for at_s in (3.0, 6.0)]
    assert [(w.start_s, w.end_s) for w in closed if w] == [(0.0, 3.0), (3.0, 6.0)]


@pytest.mark.parametrize(("end_s", "count"), [(2.4, 2), (2.6, 3)])
def test_a_last_window_of_less_than_half_is_left_out(end_s: float, count: int) -> None:
    recorder = Recorder(1.0)
    for at_s in (1.0, 2.0, end_s):
        recorder.add(at_s, 1.0, [1.0])
    recorder.close()
    assert len(recorder.windows) == count


def test_what_little_there_is_counts_where_it_was_interrupted_at_once() -> None:
    recorder = Recorder(60.0)
    recorder.add(0.5, 1.0, [1.0])
    recorder.close()
    assert summary(recorder.windows, sustained=True)["model_call"]["n"] == 1


def summary(windows: list[Window], *, sustained: bool) -> dict[str, Any]:
    found: dict[str, Any] = summarise(windows, sustained=sustained)
    return found


def test_a_sustained_run_counts_its_plateau_and_not_its_start() -> None:
    windows = windows_of([1.0, 1.5, *[2.0] * 6])
    found = summary(windows, sustained=True)
    assert found["model_call"]["p50_ms"] == found["model_call"]["mean_ms"] == 2.0
    assert found["request"]["p50_ms"] == 4.0
    assert found["request"]["per_s"] == 10.0
    assert (found["basis"]["from_s"], found["basis"]["to_s"]) == (2.0, 8.0)
    assert found["basis"]["reached"]
    assert found["vitals"] == {"temp_c": 55.0}


def test_where_no_plateau_was_reached_it_says_so() -> None:
    found = summary(windows_of([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), sustained=True)
    assert found["basis"]["reached"] is False
    assert found["basis"]["windows"].startswith("the last third")
    assert (found["basis"]["from_s"], found["model_call"]["n"]) == (4.0, 20)


def test_a_short_run_counts_everything() -> None:
    found = summary(windows_of([1.0, 2.0, 3.0]), sustained=False)
    assert found["model_call"]["n"] == 30
    assert "reached" not in found["basis"]


def test_a_run_without_a_request_has_no_numbers() -> None:
    for sustained in (True, False):
        found = summary([], sustained=sustained)
        assert found["model_call"] == found["request"] == {"n": 0}
