from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.runtime import pictures
from edgekit.runtime.tasks import create_task
from edgekit.runtime.tasks.read_text import decode, read_alphabet
from edgekit.wire.errors import BuildError, ConfigError

LETTERS = ("", "a", "b", "c", " ")


def task(characters: bytes = b"a\nb\nc\n", **options):
    return create_task("read-text", options, {"characters": characters})


def certain(classes: list[int], share: float = 0.9) -> np.ndarray:
    """Probabilities whose best class at each step is the given one."""
    steps = np.full((len(classes), len(LETTERS)), (1 - share) / (len(LETTERS) - 1), np.float32)
    steps[np.arange(len(classes)), classes] = share
    return steps


def png(height: int, width: int) -> bytes:
    return pictures.encode_png(np.full((height, width, 3), (10, 20, 30), np.uint8))


@given(st.lists(st.integers(0, 4), max_size=40))
def test_decoding_merges_repeats_and_drops_blanks(classes):
    text, score = decode(certain(classes), LETTERS)
    assert text == "".join(LETTERS[k] for k, _ in itertools.groupby(classes) if k)
    assert score == pytest.approx(0.9 if text else 0.0, abs=1e-5)


@given(st.text("abc ", max_size=20), st.integers(1, 3), st.integers(1, 3))
def test_what_is_written_with_blanks_between_is_read_again(text, repeats, blanks):
    classes = [0] * blanks
    for letter in text:
        classes += [LETTERS.index(letter)] * repeats + [0] * blanks
    assert decode(certain(classes), LETTERS)[0] == text


def test_the_score_is_of_the_steps_that_gave_characters():
    steps = np.vstack([certain([1], 0.6), certain([1], 0.9), certain([0], 0.99), certain([2], 0.8)])
    assert decode(steps, LETTERS) == ("ab", pytest.approx(0.7, abs=1e-5))


def test_a_prediction_is_plain_json_and_the_line_keeps_its_proportions():
    seen = []

    def run(feeds):
        seen.append(feeds["x"])
        return {"y": certain([1, 1, 0, 1, 4, 3])[np.newaxis]}

    prediction = task(widths=[160, 320]).predict(run, png(24, 100))
    assert prediction == {"text": "aa c", "score": pytest.approx(0.9, abs=1e-5)}
    json.dumps(prediction, allow_nan=False)
    assert seen[0].shape == (1, 3, 48, 320)
    assert seen[0].dtype == np.float32
    # 24 by 100 becomes 48 by 200; blue comes first; zero behind the line's end.
    np.testing.assert_allclose(seen[0][0, :, 0, 0], (np.array([30, 20, 10]) - 127.5) / 127.5, 1e-6)
    assert (seen[0][..., :200] != 0).all()
    assert not seen[0][..., 200:].any()


@pytest.mark.parametrize(
    ("size", "width"), [((48, 1), 160), ((48, 160), 160), ((48, 161), 320), ((10, 4000), 320)]
)
def test_a_line_takes_the_first_width_that_holds_it_or_is_squeezed(size, width):
    assert task(widths=[320, 160]).prepare(png(*size)).shape == (1, 3, 48, width)


@pytest.mark.parametrize("data", [b"", b"not a picture", png(48, 100)[:60]])
def test_a_damaged_picture_is_refused(data):
    with pytest.raises(ConfigError):
        task().predict(lambda _: {}, data)


def test_a_model_with_other_classes_is_refused():
    with pytest.raises(BuildError, match="5 classes"):
        task().predict(lambda _: {"y": np.zeros((1, 4, 7), np.float32)}, png(48, 100))


def test_agreement_counts_texts_that_are_the_same():
    texts = [{"text": t, "score": 1.0} for t in ("a b", "c", "")]
    other = [{"text": t, "score": 0.5} for t in ("ab", "c", "")]
    agreement = task().agreement(texts, other)
    assert agreement.metric == "text_agreement"
    assert agreement.scores == (0.0, 1.0, 1.0)
    assert agreement.value == pytest.approx(2 / 3)


def test_the_alphabet_has_the_blank_first_and_the_space_last():
    assert read_alphabet("a\n中\n".encode(), space=True) == ("", "a", "中", " ")
    assert read_alphabet(b"a\nb", space=False) == ("", "a", "b")


@pytest.mark.parametrize(
    "data", [b"", b"a\n\nb", b"a\na\n", b"\xff\xfe", b"a\n \n", b"x" * (2 << 20)]
)
def test_a_wrong_character_file_is_refused(data):
    with pytest.raises(ConfigError):
        read_alphabet(data, space=True)


@pytest.mark.parametrize(
    "options",
    [
        {"widths": []},
        {"widths": [0]},
        {"widths": [160.5]},
        {"widths": [100_000]},
        {"height": 2},
        {"order": "grey"},
        {"std": 0},
        {"hieght": 48},
        {"input": 3},
    ],
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ConfigError):
        task(**options)


def test_the_character_file_is_asked_for():
    with pytest.raises(ConfigError, match="characters"):
        create_task("read-text", {}, {})
