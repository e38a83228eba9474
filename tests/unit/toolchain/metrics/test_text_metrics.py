from __future__ import annotations

import pytest

from edgekit.toolchain.metrics import score
from edgekit.wire.errors import ConfigError

QUAD = [[0.0, 0.0], [10.0, 0.0], [10.0, 4.0], [0.0, 4.0]]


def moved(x: float) -> list[list[float]]:
    return [[a + x, b] for a, b in QUAD]


def found(*quads) -> dict:
    return {"boxes": [{"quad": quad, "score": 0.9} for quad in quads]}


def test_exact_match_wants_every_character():
    texts = [{"text": t} for t in ("abc", "a c", "", "Abc")]
    result = score("exact_match", texts, ["abc", "ac", "", "abc"])
    assert result.scores == (1.0, 0.0, 1.0, 0.0)
    assert result.value == 0.5


def test_text_f1_is_the_mean_over_pictures():
    predictions = [found(moved(1), moved(50)), found(), found(QUAD)]
    labels = [{"boxes": [QUAD]}, {"boxes": []}, {"boxes": [moved(6)]}]
    result = score("text_f1", predictions, labels)
    assert result.scores == (pytest.approx(2 / 3), 1.0, 0.0)
    assert result.value == pytest.approx(5 / 9)


@pytest.mark.parametrize("labels", [[], [3], [None], [["abc"]]])
def test_exact_match_wants_texts(labels):
    with pytest.raises(ConfigError):
        score("exact_match", [{"text": "a"}] * len(labels), labels)


@pytest.mark.parametrize(
    "labels",
    [
        [],
        ["abc"],
        [{"quads": []}],
        [{"boxes": 3}],
        [{"boxes": [[1, 2, 3, 4]]}],
        [{"boxes": [[["x", 0]] * 4]}],
        [{"boxes": [[[float("nan"), 0.0]] * 4]}],
    ],
)
def test_text_f1_wants_quads(labels):
    with pytest.raises(ConfigError):
        score("text_f1", [found()] * len(labels), labels)
