"""Area under the ROC curve: how often a sample of label 1 scores higher than one of label 0.

A sample's score is the mean of its ``frames`` (detect-speech), or its ``score``. Labels: 0 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekit.runtime.tasks import Prediction
from edgekit.toolchain.metrics import Score
from edgekit.wire.errors import ConfigError


def score(predictions: Sequence[Prediction], labels: Sequence[Any]) -> Score:
    """Return the area, ties counted half.

    The scores are the jackknife's pseudo-values: their mean is the area, and the variance of that
    mean is DeLong's (DeLong et al., Biometrics 44, 1988), so an interval of the mean is one of the
    area. A single pseudo-value may lie outside 0..1.

    Raises:
        ConfigError: A label is neither 0 nor 1, one of the two is missing, or a prediction has no
            score.
    """
    values = np.array([_score_of(p) for p in predictions], dtype=np.float64)
    truth = np.array([_label(label) for label in labels], dtype=bool)
    positive, negative = values[truth], values[~truth]
    if len(positive) == 0 or len(negative) == 0:
        raise ConfigError(
            "the ROC curve needs samples of both labels",
            hint="add samples with label 0 and with label 1 to [[evaluation]]",
        )
    above = np.sign(positive[:, None] - negative[None, :]) / 2 + 0.5
    area = float(above.mean())
    pseudo = np.full(len(values), area)
    others = len(values) - 1
    for where, components in ((truth, above.mean(axis=1)), (~truth, above.mean(axis=0))):
        # One sample of a label cannot be left out: it stays at the area.
        if len(components) > 1:
            pseudo[where] += others / (len(components) - 1) * (components - area)
    return Score(area, tuple(float(v) for v in pseudo))


def _score_of(prediction: Prediction) -> float:
    frames = prediction.get("frames")
    value = sum(frames) / len(frames) if frames else prediction.get("score")
    if not isinstance(value, int | float):
        raise ConfigError(
            "roc_auc needs predictions with frames or a score", hint="choose another metric"
        )
    return float(value)


def _label(label: Any) -> bool:  # noqa: ANN401 - any JSON value
    if label not in (0, 1):
        raise ConfigError(f"roc_auc needs labels 0 and 1, not {label!r}")
    return bool(label)
