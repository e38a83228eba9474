"""Share of texts that are right to the last character."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from edgekit.runtime.tasks import Prediction
from edgekit.toolchain.metrics import Score
from edgekit.wire.errors import ConfigError


def score(predictions: Sequence[Prediction], labels: Sequence[Any]) -> Score:
    """Compare texts with their labels.

    Args:
        predictions: Each with ``text``.
        labels: The true texts, in the same order.

    Raises:
        ConfigError: A label is not a text, or there are none.
    """
    if not labels or not all(isinstance(label, str) for label in labels):
        raise ConfigError("exact_match needs labels that are texts")
    scores = tuple(
        float(prediction["text"] == label)
        for prediction, label in zip(predictions, labels, strict=True)
    )
    return Score(math.fsum(scores) / len(scores), scores)
