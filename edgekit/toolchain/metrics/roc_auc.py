"""Area under the ROC curve: how often a sample of label 1 scores higher than one of label 0.

A sample's score is the mean of its ``frames`` (detect-speech), or its ``score``. Labels: 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.runtime.tasks import Prediction
from edgekit.toolchain.metrics import Score
from edgekit.toolchain.statistics import Z_95
from edgekit.wire.errors import ConfigError

# Fewer samples of a label have no variance to speak of.
MIN_OF_A_LABEL = 10


def score(predictions: Sequence[Prediction], labels: Sequence[Any]) -> Score:
    """Return the area, ties counted half, with DeLong's interval.

    Source of the interval: DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988).

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
    return Score(area, interval=_interval(area, above.mean(axis=1), above.mean(axis=0)))


def _interval(
    area: float, of_positive: npt.NDArray[np.float64], of_negative: npt.NDArray[np.float64]
) -> tuple[float, float] | None:
    """Return the 95 % interval from each sample's share of ordered pairs."""
    if min(len(of_positive), len(of_negative)) < MIN_OF_A_LABEL:
        return None
    variance = of_positive.var(ddof=1) / len(of_positive)
    variance += of_negative.var(ddof=1) / len(of_negative)
    half = Z_95 * float(np.sqrt(variance))
    return max(0.0, area - half), min(1.0, area + half)


def _score_of(prediction: Prediction) -> float:
    frames = prediction.get("frames")
    value = math.fsum(frames) / len(frames) if frames else prediction.get("score")
    if not isinstance(value, int | float):
        raise ConfigError(
            "roc_auc needs predictions with frames or a score", hint="choose another metric"
        )
    return float(value)


def _label(label: Any) -> bool:  # noqa: ANN401 - any JSON value
    if label not in (0, 1):
        raise ConfigError(f"roc_auc needs labels 0 and 1, not {label!r}")
    return bool(label)
