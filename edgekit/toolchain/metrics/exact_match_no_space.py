"""Share of texts that are right to the last character, spaces aside.

PaddleOCR counts so (``RecMetric`` with ``ignore_space``): its line readers that were trained on
Chinese lines often leave out the space between two Latin words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekit.runtime.tasks import Prediction
from edgekit.toolchain.metrics import Score
from edgekit.wire.errors import ConfigError


def score(predictions: Sequence[Prediction], labels: Sequence[Any]) -> Score:
    """Compare texts with their labels after taking the spaces out of both.

    Args:
        predictions: Each with ``text``.
        labels: The true texts, in the same order.

    Raises:
        ConfigError: A label is not a text, or there are none.
    """
    if not labels or not all(isinstance(label, str) for label in labels):
        raise ConfigError("exact_match_no_space needs labels that are texts")
    scores = tuple(
        float(str(prediction["text"]).replace(" ", "") == label.replace(" ", ""))
        for prediction, label in zip(predictions, labels, strict=True)
    )
    return Score(sum(scores) / len(scores), scores)
