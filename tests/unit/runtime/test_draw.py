from __future__ import annotations

import numpy as np
import pytest

from edgekit.runtime import pictures
from edgekit.runtime.draw import COLOURS, colours_of, draw_boxes, ink_for
from edgekit.wire.errors import ConfigError


def picture(height: int = 120, width: int = 160) -> bytes:
    return pictures.encode_png(np.full((height, width, 3), 128, np.uint8))


def drawn(prediction: dict, data: bytes | None = None) -> np.ndarray:
    return pictures.decode(draw_boxes(data or picture(), prediction))


def test_a_box_and_its_label_change_only_their_own_pixels():
    prediction = {"boxes": [{"box": [40, 50, 100, 100], "label": "cat", "score": 0.9}]}
    result = drawn(prediction)
    assert result.shape == (120, 160, 3)
    assert (result[75, 40] == COLOURS[0]).all()
    assert (result[75, 70] == 128).all()
    assert (result[110:] == 128).all()
    label = result[25:49, 40:100].reshape(-1, 3)
    assert (label == COLOURS[0]).all(axis=1).any()
    assert ink_for(COLOURS[0]) == (0, 0, 0)
    assert label.sum(axis=1).min() < 150  # dark letters, smoothed at their edges


def test_classes_have_colours_of_their_own():
    colours = colours_of(["dog", "cat", "dog"])
    assert colours == {"dog": COLOURS[0], "cat": COLOURS[1]}
    assert len(set(COLOURS)) == 7


def test_labels_at_the_edge_stay_on_the_picture():
    boxes = [{"box": [150, 0, 160, 5], "label": "potted plant", "score": 0.5}]
    result = drawn({"boxes": boxes})
    assert result.shape == (120, 160, 3)
    assert (result[:20, 100:] == COLOURS[0]).all(axis=2).any()


def test_quads_without_labels_are_drawn():
    quad = [[20, 20], [60, 30], [55, 50], [15, 40]]
    result = drawn({"boxes": [{"quad": quad, "score": 0.7}]})
    assert (result[45, 35] == COLOURS[0]).all()


def test_the_drawing_is_reproducible():
    prediction = {"boxes": [{"box": [1, 2, 30, 40], "label": "x", "score": 0.123456}]}
    assert draw_boxes(picture(), prediction) == draw_boxes(picture(), prediction)


def test_no_boxes_leave_the_picture_alone():
    assert (drawn({"boxes": []}) == 128).all()


def test_small_pictures_and_absurd_labels_do_not_fail():
    boxes = [{"box": [-50, -50, 900, 900], "label": "ü" * 5000, "score": 1}]
    assert drawn({"boxes": boxes}, picture(3, 2)).shape == (3, 2, 3)


@pytest.mark.parametrize(
    "prediction",
    [
        {"top": []},
        {"boxes": [{}]},
        {"boxes": [{"box": [1, 2, 3]}]},
        {"boxes": [{"box": ["a", 1, 2, 3]}]},
        {"boxes": [{"quad": [[1, 2]]}]},
    ],
)
def test_a_prediction_without_boxes_is_refused(prediction):
    with pytest.raises(ConfigError):
        draw_boxes(picture(), prediction)


def test_not_a_picture_is_refused():
    with pytest.raises(ConfigError):
        draw_boxes(b"text", {"boxes": []})
