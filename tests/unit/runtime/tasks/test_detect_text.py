from __future__ import annotations

import json

import numpy as np
import pytest

from edgekit.runtime import pictures
from edgekit.runtime.tasks import create_task
from edgekit.runtime.tasks.detect_text import find_quads
from edgekit.wire.errors import BuildError, ConfigError


def task(**options):
    return create_task("detect-text", options, {})


def png(height: int, width: int) -> bytes:
    return pictures.encode_png(np.full((height, width, 3), (10, 20, 30), np.uint8))


def map_with(*bars: tuple[int, int, int, int, float], side: int = 96) -> np.ndarray:
    """Probabilities that are 0 but for bars: left, top, right, bottom and the value inside."""
    values = np.zeros((side, side), np.float32)
    for left, top, right, bottom, value in bars:
        values[top:bottom, left:right] = value
    return values


def answering(values: np.ndarray, seen: list | None = None):
    def run(feeds):
        if seen is not None:
            seen.append(feeds["x"])
        return {"map": values[np.newaxis, np.newaxis]}

    return run


def find(values: np.ndarray, unclip: float = 1.6):
    return find_quads(values, 0.3, 0.5, unclip, 1000)


def test_a_bar_becomes_a_rectangle_moved_outwards_by_area_over_perimeter():
    ((quad, score),) = find(map_with((20, 30, 60, 40, 0.8)))
    margin = 40 * 10 * 1.6 / (2 * (40 + 10))
    outer = [20 - margin, 30 - margin, 60 + margin, 40 + margin]
    np.testing.assert_allclose(quad[[0, 2]].ravel(), outer)
    assert score == pytest.approx(0.8, abs=1e-6)


def test_a_slanted_bar_becomes_a_slanted_quad():
    values = np.zeros((200, 200), np.float32)
    y, x = np.mgrid[:200, :200]
    along, across = x - 40 + (y - 60) / 2, (y - 60) - (x - 40) / 2
    values[(along >= 0) & (along <= 120) & (np.abs(across) <= 8)] = 0.9
    ((quad, _),) = find(values, unclip=0.0)
    right = quad[1] - quad[0]
    assert right[1] / right[0] == pytest.approx(0.5, abs=0.05)


def test_weak_small_and_unsure_parts_are_left_out():
    weak, unsure, thin = (5, 5, 40, 15, 0.2), (5, 25, 40, 35, 0.4), (5, 45, 40, 47, 0.9)
    assert find(map_with(weak, unsure, thin)) == []
    assert len(find(map_with(weak, unsure, thin, (5, 60, 40, 70, 0.9)))) == 1


def test_the_largest_parts_come_first_and_no_more_than_asked():
    values = map_with((5, 5, 40, 15, 0.9), (5, 30, 80, 45, 0.7), (5, 60, 20, 70, 0.8))
    scores = [round(score, 3) for _, score in find(values)]
    assert scores == [0.7, 0.9, 0.8]
    assert len(find_quads(values, 0.3, 0.5, 1.6, 2)) == 2


def test_boxes_come_back_in_pixels_of_the_picture_from_the_top_down():
    values = map_with((8, 60, 40, 70, 0.9), (8, 8, 72, 24, 0.9), side=96)
    prediction = task(width=96, height=96, unclip=0).predict(answering(values), png(192, 192))
    assert [box["quad"][0] for box in prediction["boxes"]] == [[16.0, 16.0], [16.0, 120.0]]
    assert prediction["boxes"][0]["quad"][2] == [144.0, 48.0]
    json.dumps(prediction, allow_nan=False)


def test_boxes_end_at_the_pictures_edges():
    values = map_with((0, 0, 96, 96, 0.9), side=96)
    prediction = task(width=96, height=96).predict(answering(values), png(90, 96))
    quad = prediction["boxes"][0]["quad"]
    assert quad == [[0.0, 0.0], [96.0, 0.0], [96.0, 90.0], [0.0, 90.0]]


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        ((640, 640), (640, 640)),
        ((1280, 720), (640, 384)),
        ((100, 50), (128, 64)),
        ((1, 3000), (32, 640)),
    ],
)
def test_the_canvas_is_cropped_to_steps_of_32_and_pictures_are_not_enlarged(size, shape):
    feed, fit = task().prepare(png(*size))
    assert feed.shape == (1, 3, *shape)
    assert fit.scale_x <= 1.28
    assert feed.dtype == np.float32
    np.testing.assert_allclose(feed[0, :, 0, 0], (np.array([30, 20, 10]) - 127.5) / 127.5, 1e-6)


def test_without_crop_the_canvas_is_always_whole():
    assert task(crop=False, width=320, height=256).prepare(png(10, 10))[0].shape == (1, 3, 256, 320)


@pytest.mark.parametrize("data", [b"", b"not a picture", png(48, 100)[:60]])
def test_a_damaged_picture_is_refused(data):
    with pytest.raises(ConfigError):
        task().predict(lambda _: {}, data)


def test_a_model_that_answers_with_another_size_is_refused():
    with pytest.raises(BuildError, match="one map"):
        task().predict(answering(map_with(side=64)), png(96, 96))


def test_agreement_is_f1_over_all_boxes():
    def boxes(*lefts: float):
        quad = [[0.0, 0.0], [10.0, 0.0], [10.0, 5.0], [0.0, 5.0]]
        return {"boxes": [{"quad": [[x + a, y] for x, y in quad], "score": 1.0} for a in lefts]}

    agreement = task().agreement([boxes(0, 50), boxes()], [boxes(1, 90, 120), boxes()])
    assert agreement.metric == "text_box_f1_agreement"
    assert agreement.value == pytest.approx(2 / 5)
    assert agreement.scores == (pytest.approx(2 / 5), 1.0)


@pytest.mark.parametrize(
    "options",
    [
        {"width": 100},
        {"height": 0},
        {"width": 8192},
        {"mean": [1, 2]},
        {"std": [1, 0, 1]},
        {"order": "grey"},
        {"threshold": 0},
        {"box_treshold": 0.5},
        {"max_boxes": 0},
        {"crop": 1},
    ],
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ConfigError):
        task(**options)


def test_no_file_is_taken():
    with pytest.raises(ConfigError):
        create_task("detect-text", {}, {"labels": b"a"})
