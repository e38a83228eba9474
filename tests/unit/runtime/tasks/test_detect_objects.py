from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.runtime import pictures
from edgekit.runtime.boxes import nms
from edgekit.runtime.tasks import create_task
from edgekit.runtime.tasks.detect_objects import decode_head, suppress
from edgekit.wire.errors import BuildError, ConfigError

LABELS = ["cat", "dog"]


def task(**options):
    given_options = {"input": "x", "size": 64, "labels": LABELS, **options}
    return create_task("detect-objects", given_options, {})


def png(height: int = 32, width: int = 64) -> bytes:
    return pictures.encode_png(np.full((height, width, 3), 100, np.uint8))


def head(*places: tuple[float, ...], count: int = 8) -> np.ndarray:
    """A head's output: each place is centre x, centre y, width, height and a score a class."""
    output = np.zeros((1, len(places[0]), count), np.float32)
    for column, place in enumerate(places):
        output[0, :, column] = place
    return output


def answering(output: np.ndarray, seen: list | None = None):
    def run(feeds):
        if seen is not None:
            seen.append(feeds["x"])
        return {"output0": output}

    return run


def test_boxes_come_back_in_pixels_of_the_picture():
    # 64 by 32 on a canvas of 64 by 64: 16 rows of grey above, none beside.
    prediction = task().predict(answering(head((30, 36, 20, 8, 0.1, 0.9))), png())
    expected = {"box": [20.0, 16.0, 40.0, 24.0], "label": "dog", "score": 0.9}
    assert prediction == {"boxes": [expected]}
    json.dumps(prediction, allow_nan=False)


def test_the_picture_is_letterboxed_and_scaled_to_one():
    seen: list = []
    task().predict(answering(head((0, 0, 0, 0, 0, 0)), seen), png())
    assert seen[0].shape == (1, 3, 64, 64)
    assert seen[0][0, 0, 0, 0] == np.float32(114) / np.float32(255)
    assert seen[0][0, 0, 32, 32] == np.float32(100) / np.float32(255)


def test_boxes_are_cut_off_at_the_picture_and_empty_ones_left_out():
    output = head((0, 32, 40, 400, 0.9, 0.0), (32, 4, 10, 6, 0.8, 0.0))
    prediction = task().predict(answering(output), png())
    assert [b["box"] for b in prediction["boxes"]] == [[0.0, 0.0, 20.0, 32.0]]


def test_the_threshold_is_inclusive():
    output = head((30, 30, 4, 4, 0.25, 0.0), (10, 30, 4, 4, 0.2499, 0.0))
    assert len(task(threshold=0.25).predict(answering(output), png())["boxes"]) == 1


def test_suppression_works_within_a_class_alone():
    same = [(30, 30, 10, 10, 0.9, 0.0), (31, 30, 10, 10, 0.8, 0.0), (30, 30, 10, 10, 0.0, 0.7)]
    prediction = task().predict(answering(head(*same)), png())
    assert [(b["label"], b["score"]) for b in prediction["boxes"]] == [("cat", 0.9), ("dog", 0.7)]


def test_max_boxes_keeps_the_best():
    places = [(8 * i + 4, 32, 6, 6, 0.3 + 0.05 * i, 0.0) for i in range(8)]
    prediction = task(max_boxes=2).predict(answering(head(*places)), png())
    assert [b["score"] for b in prediction["boxes"]] == [0.65, 0.6]


def test_without_labels_a_class_is_its_number():
    unnamed = create_task("detect-objects", {"input": "x", "size": 64}, {})
    prediction = unnamed.predict(answering(head((30, 30, 4, 4, 0.1, 0.9))), png())
    assert prediction["boxes"][0]["label"] == "1"


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (np.zeros((1, 6), np.float32), "expected"),
        (np.zeros((2, 6, 8), np.float32), "expected"),
        (np.zeros((1, 4, 8), np.float32), "expected"),
        (np.zeros((1, 84, 8), np.float32), "80 classes, but 2 labels"),
        (np.full((1, 6, 8), np.nan, np.float32), "not finite"),
    ],
)
def test_another_kind_of_head_is_a_build_error(output, words):
    with pytest.raises(BuildError, match=words):
        task().predict(answering(output), png())


def test_bad_samples_are_config_errors():
    with pytest.raises(ConfigError):
        task().predict(answering(head((0, 0, 0, 0, 0, 0))), b"no picture")


def test_a_head_full_of_boxes_stays_bounded():
    rng = np.random.default_rng(0)
    output = rng.random((1, 6, 20_000), np.float32)
    boxes, scores, _ = decode_head(output, 0.001)
    assert len(boxes) == 3000
    assert (np.diff(scores) <= 0).all()


@given(
    st.lists(
        st.tuples(*[st.integers(0, 40)] * 4, st.integers(0, 5), st.integers(0, 2)), max_size=25
    ),
    st.floats(0, 1),
)
def test_suppression_is_nms_of_each_class(rows, max_iou):
    table = np.array(rows, np.float32).reshape(-1, 6)
    boxes = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:4]], axis=1)
    scores, classes = table[:, 4], table[:, 5].astype(np.intp)
    kept = suppress(boxes, scores, classes, max_iou)
    assert (np.diff(scores[kept]) <= 0).all()
    for c in range(3):
        members = np.flatnonzero(classes == c)
        alone = members[nms(boxes[members], scores[members], max_iou)]
        assert sorted(alone) == sorted(i for i in kept if classes[i] == c)


def boxes_of(*boxes: tuple[str, list[float]]) -> dict:
    return {"boxes": [{"box": box, "label": label, "score": 0.5} for label, box in boxes]}


def test_agreement_needs_the_same_class_and_half_the_overlap():
    a = boxes_of(("cat", [0, 0, 10, 10]), ("dog", [20, 20, 30, 30]))
    b = boxes_of(("cat", [0, 0, 10, 9]), ("cat", [20, 20, 30, 30]))
    agreement = task().agreement([a, boxes_of()], [b, boxes_of()])
    assert agreement.metric == "box_f1_agreement"
    assert agreement.scores == (0.5, 1.0)
    assert agreement.value == 0.5


def test_agreement_counts_boxes_and_not_pictures():
    one = boxes_of(("cat", [0, 0, 10, 10]))
    three = boxes_of(*(("dog", [20 * i, 0, 20 * i + 10, 10]) for i in range(3)))
    agreement = task().agreement([one, three], [boxes_of(), three])
    assert agreement.scores == (0.0, 1.0)
    assert agreement.value == pytest.approx(6 / 7)


@pytest.mark.parametrize(
    "options",
    [
        {"treshold": 0.5},
        {"threshold": 0},
        {"nms_iou": 2},
        {"fill": 300},
        {"order": "grey"},
        {"size": -1},
    ],
)
def test_wrong_options_are_config_errors(options):
    with pytest.raises(ConfigError):
        task(**options)
