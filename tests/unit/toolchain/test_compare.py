from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgekit.runtime.session import Run
from edgekit.toolchain.compare import MAX_SQNR_DB, channel_axis, compare_outputs
from edgekit.wire.errors import BuildError


def _run(change: Callable[[np.ndarray], np.ndarray]) -> Run:
    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"y": change(feeds["x"])}

    return run


SAME = _run(lambda x: x)


def _head(seed: int = 0) -> np.ndarray:
    """A detector's head: 4 rows of pixels, 3 of scores of which the last is of an absent class."""
    random = np.random.default_rng(seed)
    boxes = random.uniform(0, 640, (1, 4, 500))
    scores = random.uniform(0, 0.9, (1, 2, 500)) ** 4
    absent = random.uniform(0, 1e-5, (1, 1, 500))
    return np.concatenate([boxes, scores, absent], axis=1).astype(np.float32)


@settings(max_examples=50, deadline=None)
@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=0, max_dims=4, max_side=6),
        elements=st.floats(-1e6, 1e6, width=32),
    )
)
def test_an_output_equals_itself(values: np.ndarray) -> None:
    (found,) = compare_outputs(SAME, SAME, [{"x": values}])
    assert (found.max_abs, found.relative_l2, found.sqnr_db) == (0.0, 0.0, MAX_SQNR_DB)
    assert found.cosine == pytest.approx(1.0)
    assert found.worst_channel_cosine in (None, pytest.approx(1.0))


def test_the_numbers_are_those_of_their_definitions() -> None:
    a, b = np.array([[3.0, 4.0]], np.float32), np.array([[3.0, 3.0]], np.float32)
    (found,) = compare_outputs(SAME, _run(lambda _: b), [{"x": a}])
    assert found.max_abs == 1.0
    assert found.relative_l2 == pytest.approx(1 / 5)
    assert found.cosine == pytest.approx(21 / (5 * math.sqrt(18)))
    assert found.sqnr_db == pytest.approx(10 * math.log10(25))


def test_sums_run_over_all_samples() -> None:
    feeds = [{"x": np.full((1, 2), v, np.float32)} for v in (1.0, 3.0)]
    (found,) = compare_outputs(SAME, _run(lambda x: x + 1), feeds)
    assert found.samples == 2
    assert found.relative_l2 == pytest.approx(math.sqrt(4 / 20))


@pytest.mark.parametrize("last", [False, True])
def test_a_dead_part_of_a_head_is_not_hidden(last: bool) -> None:
    def kill_scores(x: np.ndarray) -> np.ndarray:
        dead = x.copy()
        part = dead[..., 4:] if last else dead[:, 4:]
        part[...] = np.random.default_rng(5).permuted(part, axis=1 if last else 2)
        return dead

    head = _head().transpose(0, 2, 1) if last else _head()
    (found,) = compare_outputs(SAME, _run(kill_scores), [{"x": head}])
    assert found.cosine > 0.9999
    assert found.worst_channel in (4, 5)
    assert found.worst_channel_cosine is not None
    assert found.worst_channel_cosine < 0.5
    assert found.channel_axis == (2 if last else 1)


def test_a_channel_without_signal_raises_no_alarm() -> None:
    def noise(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x[:, :6], np.zeros_like(x[:, 6:])], axis=1)

    (found,) = compare_outputs(SAME, _run(noise), [{"x": _head()}])
    assert found.worst_channel_cosine == pytest.approx(1.0)


def test_outputs_of_growing_length_are_compared() -> None:
    feeds = [{"x": _head()[:, :, : 100 * n]} for n in (1, 3)]
    (found,) = compare_outputs(SAME, SAME, feeds)
    assert found.channel_axis == 1
    # Here the smallest axis is time, and its length changes: no channels.
    shapes = [(1, 3, 40), (1, 5, 40)]
    (found,) = compare_outputs(SAME, SAME, [{"x": np.ones(s, np.float32)} for s in shapes])
    assert found.channel_axis is None
    assert found.worst_channel_cosine is None


def test_a_channel_axis_that_returns_is_not_mixed_with_the_one_before() -> None:
    shapes = [(1, 3, 40), (1, 5, 40), (1, 3, 40)]
    (found,) = compare_outputs(SAME, SAME, [{"x": np.ones(s, np.float32)} for s in shapes])
    assert found.channel_axis is None


def test_values_that_are_not_finite_are_never_near() -> None:
    (found,) = compare_outputs(
        SAME, _run(lambda x: x * np.float32(np.nan)), [{"x": np.ones((1, 4), np.float32)}]
    )
    assert found.max_abs == math.inf
    assert found.relative_l2 == math.inf
    assert found.cosine == 0.0
    assert found.sqnr_db == -MAX_SQNR_DB


def test_integers_and_truth_values_compare() -> None:
    feeds = [{"x": np.array([[True, False]])}]
    (found,) = compare_outputs(SAME, _run(lambda x: ~x), feeds)
    assert (found.max_abs, found.cosine) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((1, 84, 8400), 1),
        ((1, 8400, 85), 2),
        ((1, 3, 80, 80), 1),
        ((1, 1000), None),
        ((1, 1, 640, 640), None),
        ((1, 2, 2), None),
        ((), None),
    ],
)
def test_channel_axis(shape: tuple[int, ...], axis: int | None) -> None:
    assert channel_axis(shape) == axis


def test_what_cannot_be_compared_is_an_error() -> None:
    with pytest.raises(BuildError, match="no feeds"):
        compare_outputs(SAME, SAME, [])
    x = {"x": np.ones((1, 4), np.float32)}
    with pytest.raises(BuildError, match=r"shape \[4\], not \[1, 4\]"):
        compare_outputs(SAME, _run(np.ravel), [x])
    with pytest.raises(BuildError, match='"y" is missing'):
        compare_outputs(SAME, lambda _feeds: {}, [x])
