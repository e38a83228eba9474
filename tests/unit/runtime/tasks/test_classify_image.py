from __future__ import annotations

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgekit.runtime import pictures
from edgekit.runtime.tasks import create_task
from edgekit.runtime.tasks.classify_image import parse_labels, softmax
from edgekit.wire.errors import BuildError, ConfigError


def task(files: dict | None = None, **options):
    return create_task("classify-image", {"input": "x", "size": 4, **options}, files or {})


def png(height: int = 8, width: int = 8, value: int = 100) -> bytes:
    return pictures.encode_png(np.full((height, width, 3), value, np.uint8))


def answering(*logits: float, seen: list | None = None):
    """A model of fixed answers that notes what it was fed."""

    def run(feeds):
        if seen is not None:
            seen.append(feeds)
        return {"logits": np.array([logits], np.float32)}

    return run


def test_names_the_best_classes_first():
    prediction = task(labels=["a", "b", "c"], top_k=2).predict(answering(0.0, 2.0, 1.0), png())
    assert [entry["label"] for entry in prediction["top"]] == ["b", "c"]
    assert prediction["top"][0] == {"index": 1, "label": "b", "score": 0.665241}
    json.dumps(prediction, allow_nan=False)


def test_probabilities_are_left_alone_without_softmax():
    prediction = task(softmax=False).predict(answering(0.25, 0.75), png())
    assert prediction["top"][0] == {"index": 1, "label": None, "score": 0.75}


def test_feeds_normalised_pixels_in_the_models_layout():
    seen: list = []
    task(mean=100, std=[1, 2, 4], layout="nhwc").predict(answering(1.0, seen=seen), png(value=108))
    assert seen[0]["x"].shape == (1, 4, 4, 3)
    assert seen[0]["x"][0, 0, 0].tolist() == [8.0, 4.0, 2.0]


@pytest.mark.parametrize("fit", ["crop", "stretch", "letterbox"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (50, 1), (4, 4), (33, 21)])
def test_every_shape_of_picture_fits(fit, height, width):
    seen: list = []
    task(fit=fit, size=[6, 4]).predict(answering(1.0, seen=seen), png(height, width))
    assert seen[0]["x"].shape == (1, 3, 4, 6)


def test_crop_keeps_the_middle():
    pixels = np.zeros((100, 300, 3), np.uint8)
    pixels[:, 100:200] = 255
    seen: list = []
    task(size=10).predict(answering(1.0, seen=seen), pictures.encode_png(pixels))
    assert (seen[0]["x"] == 255).all()


def test_npy_greys_are_samples_too():
    out = io.BytesIO()
    np.save(out, np.full((4, 4), 51, np.uint8))
    seen: list = []
    task(order="grey", std=255, fit="stretch").predict(answering(1.0, seen=seen), out.getvalue())
    assert seen[0]["x"].shape == (1, 1, 4, 4)
    assert seen[0]["x"][0, 0, 0, 0] == np.float32(51) / np.float32(255)
    task().predict(answering(1.0, seen=seen), out.getvalue())
    assert seen[1]["x"].shape == (1, 3, 4, 4)


@pytest.mark.parametrize("data", [b"", b"not a picture", b"\xff\xd8\xff\xe0", b"\x93NUMPY\x01\x00"])
def test_bad_samples_are_config_errors(data):
    with pytest.raises(ConfigError):
        task().predict(answering(1.0), data)


def test_outputs_that_do_not_fit_are_build_errors():
    with pytest.raises(BuildError, match="3 classes, but 2 labels"):
        task(labels=["a", "b"]).predict(answering(1, 2, 3), png())
    with pytest.raises(BuildError, match="not finite"):
        task().predict(answering(1, float("nan")), png())
    with pytest.raises(BuildError, match="no output"):
        task(output="scores").predict(answering(1.0), png())


def test_agreement_is_the_same_best_class():
    t = task()
    first = [t.predict(answering(*v), png()) for v in ((1, 0), (0, 1), (1, 0))]
    second = [t.predict(answering(*v), png()) for v in ((3, 0), (1, 0), (5, 4))]
    agreement = t.agreement(first, second)
    assert agreement.metric == "top1_agreement"
    assert agreement.scores == (1.0, 0.0, 1.0)
    assert agreement.value == pytest.approx(2 / 3)


@given(arrays(np.float64, st.integers(1, 20), elements=st.floats(-1e6, 1e6)))
def test_softmax_sums_to_one_and_keeps_the_order(logits):
    result = softmax(logits)
    assert result.sum() == pytest.approx(1.0)
    assert result[logits.argmax()] == result.max()


def test_labels_come_as_lines_numbered_lines_or_json():
    assert parse_labels(b"cat\nbig dog\n") == ("cat", "big dog")
    assert parse_labels(b"\xef\xbb\xbf0 tench, Tinca\n1 goldfish\n") == ("tench, Tinca", "goldfish")
    assert parse_labels(b'["a", "b"]') == ("a", "b")
    assert parse_labels(b"0\n1\n2\n") == ("0", "1", "2")
    assert parse_labels(b"2 cars\n1 bus\n") == ("2 cars", "1 bus")


@pytest.mark.parametrize("data", [b"", b"[1, 2]", b"[", b"\xff\xfe\xfa"])
def test_bad_labels_are_config_errors(data):
    with pytest.raises(ConfigError):
        parse_labels(data)


@pytest.mark.parametrize(
    "options",
    [
        {"sise": 3},
        {"size": 0},
        {"size": [1, 2, 3]},
        {"size": 1.5},
        {"size": 100_000},
        {"layout": "hwc"},
        {"mean": [1, 2]},
        {"std": 0},
        {"order": "grey", "mean": [1, 2, 3]},
        {"crop_fraction": 0},
        {"top_k": 0},
        {"resize": "cubic"},
        {"labels": [1]},
    ],
)
def test_wrong_options_are_config_errors(options):
    with pytest.raises(ConfigError):
        task(**options)


def test_unknown_and_doubled_files_are_refused():
    with pytest.raises(ConfigError, match="lables"):
        task({"lables": b"a"})
    with pytest.raises(ConfigError, match="twice"):
        task({"labels": b"a"}, labels=["a"])
