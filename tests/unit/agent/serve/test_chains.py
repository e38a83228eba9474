from __future__ import annotations

import io
import json
import threading
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekit.agent import crops
from edgekit.agent.chains import Step, parse_steps, serve_chain
from edgekit.agent.engine import predicting
from edgekit.agent.jobs import LateError, ModelInfo, UnknownModelError
from edgekit.agent.lane import Limits
from edgekit.runtime import pictures
from edgekit.runtime.pipeline import Pipeline
from edgekit.wire.errors import ConfigError

from .conftest import no_model


def png(image: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


class Finder:
    """Finds the boxes that it was made with."""

    def __init__(self, boxes: list[dict[str, Any]]) -> None:
        self.boxes = boxes

    def predict(self, _run: Any, data: bytes) -> dict[str, Any]:
        pictures.decode(data)
        return {"boxes": self.boxes}


class Colour:
    """Says the mean colour and the size of a picture, as text."""

    def __init__(self, pause_s: float = 0.0) -> None:
        self.pause_s = pause_s
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()

    def predict(self, _run: Any, data: bytes) -> dict[str, Any]:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(self.pause_s)
        pixels = pictures.decode(data)
        colour = [round(float(v)) for v in pixels.mean(axis=(0, 1))]
        with self._lock:
            self._now -= 1
        return {"text": f"{colour} {pixels.shape[1]}x{pixels.shape[0]}"}


class Upper:
    def predict(self, _run: Any, data: bytes) -> dict[str, Any]:
        return {"text": data.decode().upper()}


def serve(engine: Any, name: str, task: Any, **limits: Any) -> None:
    info = ModelInfo(name, "1", name, "test")
    engine.serve(info, Pipeline(task, no_model), limits=Limits(**limits) if limits else None)


def two_halves() -> Any:
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :30] = (255, 0, 0)
    image[:, 30:] = (0, 0, 255)
    return image


BOXES = [{"box": [0, 0, 30, 40], "score": 0.9}, {"box": [30, 10, 60, 30], "score": 0.8}]
OCR = {"steps": [{"model": "find"}, {"model": "colour", "each": "crop"}]}


def test_what_one_finds_another_looks_at(engine) -> None:
    serve(engine, "find", Finder(BOXES))
    serve(engine, "colour", Colour())
    serve_chain(engine, "both", OCR)
    prediction = engine.predict("both", png(two_halves()))
    assert prediction == {
        "boxes": [
            {**BOXES[0], "result": {"text": "[255, 0, 0] 30x40"}},
            {**BOXES[1], "result": {"text": "[0, 0, 255] 30x20"}},
        ],
        "text": "[255, 0, 0] 30x40\n[0, 0, 255] 30x20",
    }
    assert engine.stats("colour").served == 2
    assert json.dumps(prediction)


def test_a_third_step_takes_the_text(engine) -> None:
    serve(engine, "find", Finder(BOXES[:1]))
    serve(engine, "colour", Colour())
    serve(engine, "upper", Upper())
    steps = [*OCR["steps"], {"model": "upper", "take": "text"}]
    serve_chain(engine, "three", {"steps": steps})
    assert engine.predict("three", png(two_halves())) == {"text": "[255, 0, 0] 30X40"}


def test_nothing_found_is_no_error(engine) -> None:
    serve(engine, "find", Finder([]))
    serve(engine, "colour", Colour())
    serve_chain(engine, "both", OCR)
    assert engine.predict("both", png(two_halves())) == {"boxes": [], "text": ""}


def test_more_crops_than_the_queue_holds_wait_for_room(engine) -> None:
    colour = Colour(0.005)
    serve(engine, "find", Finder(BOXES * 50))
    serve(engine, "colour", colour, queue=2, workers=2)
    serve_chain(engine, "both", OCR)
    assert len(engine.predict("both", png(two_halves()))["boxes"]) == 100
    assert engine.stats("colour").rejected == 0
    assert colour.most == 2


def test_a_step_that_fails_fails_the_request(engine) -> None:
    serve(engine, "find", Finder([{"score": 1}]))
    serve(engine, "colour", Colour())
    serve_chain(engine, "both", OCR)
    with pytest.raises(ConfigError, match="neither a quad nor a box"):
        engine.predict("both", png(two_halves()))
    with pytest.raises(ConfigError, match="picture"):
        engine.predict("both", b"no picture")
    serve_chain(
        engine, "wrong", {"steps": [{"model": "colour"}, {"model": "find", "each": "crop"}]}
    )
    with pytest.raises(ConfigError, match="finds no boxes"):
        engine.predict("wrong", png(two_halves()))


def test_a_deadline_holds_between_steps(engine) -> None:
    class Waiting(Finder):
        def predict(self, _run: Any, data: bytes) -> dict[str, Any]:
            threading.Event().wait(0.3)
            return super().predict(_run, data)

    serve(engine, "find", Waiting(BOXES))
    colour = Colour()
    serve(engine, "colour", colour)
    serve_chain(engine, "both", OCR)
    with pytest.raises(LateError):
        engine.predict("both", png(two_halves()), deadline_s=0.1)
    engine.close(drain_s=5)
    assert colour.most == 0


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({}, '"steps" is missing'),
        ({"steps": []}, "one step or more"),
        ({"steps": [{"model": "a"}], "more": 1}, "unknown field 'more'"),
        ({"steps": [{"model": "a", "earch": "crop"}]}, "unknown field 'earch'"),
        ({"steps": ["a"]}, "list of objects"),
        ({"steps": [{"model": 1}]}, "must be a string"),
        ({"steps": [{"model": "a", "each": "crop"}]}, "first step"),
        ({"steps": [{"model": "a"}, {"model": "b"}]}, "says what it gets"),
        ({"steps": [{"model": "a"}, {"model": "b", "each": "crop", "take": "t"}]}, "says what"),
        ({"steps": [{"model": "a"}, {"model": "b", "each": "box"}]}, "one of crop"),
        ({"steps": [{"model": "a"}] * 9}, "over 8 entries"),
    ],
)
def test_a_pipeline_is_read_strictly(document: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_steps(document, "agent.json pipelines ocr")
    assert words in caught.value.message
    assert "agent.json pipelines ocr" in str(caught.value.where)


def test_a_good_pipeline_is_read() -> None:
    assert parse_steps(OCR) == (Step("find"), Step("colour", each="crop"))


def test_a_pipeline_needs_its_models_and_is_no_step(engine) -> None:
    serve(engine, "find", Finder(BOXES))
    with pytest.raises(UnknownModelError, match='no model "colour"'):
        serve_chain(engine, "both", OCR)
    serve(engine, "colour", Colour())
    serve_chain(engine, "both", OCR)
    with pytest.raises(ConfigError, match="not pipelines"):
        serve_chain(engine, "more", {"steps": [{"model": "both"}]})


def test_an_upright_crop_is_the_picture_itself() -> None:
    image = np.random.default_rng(1).integers(0, 256, (30, 50, 3), np.uint8)
    quad = np.array([[5, 3], [45, 3], [45, 23], [5, 23]], np.float64)
    assert np.array_equal(crops.cut(image, quad), image[3:23, 5:45])


@pytest.mark.parametrize("degrees", [-30, -5, 5, 30])
def test_a_slanted_crop_is_set_upright(degrees: float) -> None:
    # A smooth picture, turned by Pillow; its middle, cut out along the turn, must come back.
    y, x = np.mgrid[0:120, 0:160]
    wave = 128 + 60 * np.sin(x / 9) + 60 * np.cos(y / 11)
    image = np.repeat(wave[..., None], 3, axis=2).astype(np.uint8)
    turned = Image.fromarray(image).rotate(degrees, resample=Image.Resampling.BICUBIC)
    angle = np.deg2rad(-degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    corners = np.array([[-30, -15], [30, -15], [30, 15], [-30, 15]], np.float64)
    crop = crops.cut(np.asarray(turned), corners @ turn + [80, 60])
    difference = np.abs(crop.astype(int) - image[45:75, 50:110].astype(int))
    assert crop.shape == (30, 60, 3)
    assert difference.mean() < 2.5


def test_a_high_quad_is_laid_on_its_side_and_a_box_is_not() -> None:
    image = two_halves()
    assert crops.cut(image, crops.corners({"box": [0, 0, 10, 40]}), turn=True).shape == (10, 40, 3)
    assert crops.cut(image, crops.corners({"box": [0, 0, 10, 40]}), turn=False).shape == (40, 10, 3)


def test_a_crop_beyond_the_picture_is_of_bounded_size() -> None:
    quad = np.array([[-1e5, -1e5], [1e5, -1e5], [1e5, 1e5], [-1e5, 1e5]])
    crop = crops.cut(two_halves(), quad)
    assert crop.shape[0] * crop.shape[1] <= crops.MAX_CROP_PIXELS * 1.01


def test_a_ppm_is_read_back_as_it_was() -> None:
    image = np.random.default_rng(2).integers(0, 256, (7, 5, 3), np.uint8)
    assert np.array_equal(pictures.decode(crops.encode_ppm(image)), image)


class Hung:
    """A model that never comes back, until the test lets it."""

    def __init__(self) -> None:
        self.gate = threading.Event()

    def predict(self, _run: Any, _data: bytes) -> dict[str, Any]:
        self.gate.wait(30)
        return {"text": ""}


def test_a_model_that_hangs_does_not_take_its_pipelines_along(engine) -> None:
    hung = Hung()
    boxes = [{"box": [0, 0, 9, 9]}] * 3
    serve(engine, "find", Finder(boxes))
    serve(engine, "read", hung, deadline_s=0.3)
    steps = {"steps": [{"model": "find"}, {"model": "read", "each": "crop"}]}
    serve_chain(engine, "ocr", steps, limits=Limits(deadline_s=0.3))
    ended = threading.Event()
    engine.submit("ocr", predicting(png(two_halves())), lambda _job: ended.set(), wait=True)
    # Nobody waits here who could end the job at its deadline.
    in_time = ended.wait(10)
    hung.gate.set()
    assert in_time
