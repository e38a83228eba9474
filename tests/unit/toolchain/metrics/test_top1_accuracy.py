from __future__ import annotations

import pytest

from edgekit.toolchain.metrics import score
from edgekit.wire.errors import ConfigError


def prediction(index: int, label: str | None) -> dict:
    return {"top": [{"index": index, "label": label, "score": 0.9}]}


def test_labels_are_numbers_or_names():
    predictions = [prediction(3, "cat"), prediction(1, "dog"), prediction(2, None)]
    result = score("top1_accuracy", predictions, [3, "cat", 2])
    assert result.scores == (1.0, 0.0, 1.0)
    assert result.value == pytest.approx(2 / 3)


@pytest.mark.parametrize("labels", [[True], [1.5], [None], ["cat"]])
def test_labels_that_cannot_be_compared_are_refused(labels):
    with pytest.raises(ConfigError):
        score("top1_accuracy", [prediction(1, None)], labels)


def test_no_labels_are_refused():
    with pytest.raises(ConfigError):
        score("top1_accuracy", [], [])
