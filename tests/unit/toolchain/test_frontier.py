"""The frontier holds what no other candidate beats in accuracy, latency and size."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from edgekit.toolchain.frontier import frontier


def judged(accuracy: float, ratio: float, size: int):
    return SimpleNamespace(
        measurements=[SimpleNamespace(value=accuracy)],
        latency_ratio=ratio,
        candidate=SimpleNamespace(graph=SimpleNamespace(size_bytes=size)),
    )


def test_what_is_worse_in_all_is_not_on_it():
    fp32, int8, weights, poor = (
        judged(1.0, 1.0, 400),
        judged(0.98, 0.5, 100),
        judged(0.99, 1.0, 100),
        judged(0.97, 0.6, 110),
    )
    assert frontier([fp32, int8, weights, poor]) == [True, True, True, False]


def test_equal_ones_are_both_on_it():
    assert frontier([judged(1.0, 1.0, 1), judged(1.0, 1.0, 1)]) == [True, True]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5), st.integers(1, 5)), min_size=1))
def test_whatever_is_off_it_is_beaten_by_something_on_it(scores):
    on = frontier([judged(*score) for score in scores])
    assert any(on)
    kept = [s for s, is_on in zip(scores, on, strict=True) if is_on]
    for score, is_on in zip(scores, on, strict=True):
        beaten = any(
            k != score and k[0] >= score[0] and k[1] <= score[1] and k[2] <= score[2] for k in kept
        )
        assert beaten is not is_on
