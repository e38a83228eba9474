"""Share of samples whose best class is the label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from edgekit.runtime.tasks import Prediction
from edgekit.toolchain.metrics import Score
from edgekit.wire.errors import ConfigError


def score(predictions: Sequence[Prediction], labels: Sequence[Any]) -> Score:
    """Compare the first entry of ``top`` with the label.

    Args:
        predictions: Of classify-image: ``{"top": [{"index", "label", "score"}, …]}``.
        labels: A class's index (int) or name (str), one a prediction.

    Raises:
        ConfigError: No labels, a label of another type, or a name where the task has none.
    """
    if not labels:
        raise ConfigError("top1_accuracy needs labelled samples")
    scores = tuple(
        float(_hit(prediction, label))
        for prediction, label in zip(predictions, labels, strict=True)
    )
    return Score(math.fsum(scores) / len(scores), scores)


def _hit(prediction: Prediction, label: Any) -> bool:  # noqa: ANN401 - any JSON value
    best = prediction["top"][0]
    if isinstance(label, int) and not isinstance(label, bool):
        return bool(best["index"] == label)
    if not isinstance(label, str):
        raise ConfigError(f"top1_accuracy takes class numbers or names, not {label!r}")
    if best["label"] is None:
        raise ConfigError(f'the label "{label}" is a name, but the task has no names of classes')
    return bool(best["label"] == label)
