from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgekit.runtime import boxes
from edgekit.runtime.boxes import Counts, pooled_f1

corner_pairs = arrays(
    np.float32, st.tuples(st.integers(0, 20), st.just(4)), elements=st.integers(0, 60)
)


def proper(raw: np.ndarray) -> np.ndarray:
    return np.concatenate(
        [np.minimum(raw[:, :2], raw[:, 2:]), np.maximum(raw[:, :2], raw[:, 2:])], axis=1
    )


@given(corner_pairs, corner_pairs)
def test_iou_is_symmetric_and_a_ratio(first, second):
    a, b = proper(first), proper(second)
    overlap = boxes.iou(a, b)
    assert overlap.shape == (len(a), len(b))
    assert np.array_equal(overlap, boxes.iou(b, a).T)
    assert ((overlap >= 0) & (overlap <= 1)).all()


def test_iou_of_known_boxes():
    found = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6], [4, 4, 4, 9]], np.float32)
    expected = [[1, 1 / 3, 0, 0], [1 / 3, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert np.allclose(boxes.iou(found, found), expected)


@given(corner_pairs, st.floats(0, 1), st.data())
def test_nms_keeps_the_best_of_every_heap(raw, max_iou, data):
    found = proper(raw)
    levels = st.lists(st.integers(0, 5), min_size=len(found), max_size=len(found))
    scores = np.array(data.draw(levels), np.float32)
    kept = boxes.nms(found, scores, max_iou)
    assert (np.diff(scores[kept]) <= 0).all()
    overlap = boxes.iou(found, found)
    for position, i in enumerate(kept):
        assert (overlap[i, kept[:position]] <= max_iou).all()
    for i in set(range(len(found))) - set(kept.tolist()):
        better = kept[scores[kept] >= scores[i]]
        assert (overlap[i, better] > max_iou).any()


@given(corner_pairs, st.randoms(use_true_random=False))
def test_nms_does_not_depend_on_the_order(raw, random):
    found = proper(raw)
    scores = np.arange(len(found), dtype=np.float32)
    order = list(range(len(found)))
    random.shuffle(order)
    kept = boxes.nms(found, scores, 0.5)
    shuffled = boxes.nms(found[order], scores[order], 0.5)
    assert [order[i] for i in shuffled] == kept.tolist()


@given(corner_pairs, corner_pairs)
def test_match_is_one_to_one_above_the_limit(first, second):
    a, b = proper(first), proper(second)
    pairs = boxes.match(a, b, 0.5)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    overlap = boxes.iou(a, b)
    assert all(overlap[i, j] >= 0.5 for i, j in pairs)
    left = set(range(len(a))) - {i for i, _ in pairs}, set(range(len(b))) - {j for _, j in pairs}
    assert not any(overlap[i, j] >= 0.5 for i in left[0] for j in left[1])


def test_f1():
    assert boxes.f1(0, 0, 0) == 1.0
    assert boxes.f1(0, 3, 0) == 0.0
    assert boxes.f1(2, 2, 4) == pytest.approx(2 / 3)


counted = st.tuples(st.integers(0, 9), st.integers(0, 9)).flatmap(
    lambda sizes: st.builds(
        Counts, st.integers(0, min(sizes)), st.just(sizes[0]), st.just(sizes[1])
    )
)


@given(st.lists(counted, max_size=20))
def test_pooled_f1_lies_in_its_interval(counts):
    value, interval = pooled_f1(counts)
    sums = [sum(getattr(c, k) for c in counts) for k in ("matched", "first", "second")]
    assert value == pytest.approx(boxes.f1(*sums))
    with_boxes = sum(c.first + c.second > 0 for c in counts)
    if with_boxes < 2:
        assert interval is None
    else:
        low, high = interval
        assert 0 <= low <= value + 1e-9
        assert value - 1e-9 <= high <= 1 + 1e-9
        assert low < high


def test_pooled_f1_gets_narrower_with_more_pictures():
    mixed = [Counts(1, 1, 1), Counts(1, 2, 2), Counts(0, 1, 0), Counts(3, 3, 3)]
    few, many = pooled_f1(mixed), pooled_f1(mixed * 25)
    assert few[0] == many[0]
    widths = [high - low for _, (low, high) in (few, many)]
    assert widths[1] < widths[0] / 4
    _, (low, high) = pooled_f1([Counts(2, 2, 2)] * 165)
    assert low == pytest.approx(0.977, abs=1e-3)
    assert high == 1.0


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(1)
    hits = 0
    for _ in range(300):
        sizes = random.integers(0, 6, 120)
        # Every picture has a share of its own: boxes of one picture go together.
        shares = random.beta(9, 1, 120)
        matched = random.binomial(sizes, shares)
        sample = [Counts(int(m), int(s), int(s)) for m, s in zip(matched, sizes, strict=True)]
        _, (low, high) = pooled_f1(sample)
        hits += low <= 0.9 <= high
    assert 0.90 <= hits / 300 <= 0.99
