"""F1 of found text lines against labelled ones: a pair overlaps by an IoU of at least 0.5."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekit.runtime import pictures, quads
from edgekit.runtime.tasks import Prediction
from edgekit.runtime.tasks.detect_text import MIN_IOU, quads_of
from edgekit.toolchain.metrics import Score
from edgekit.wire.errors import ConfigError


def score(predictions: Sequence[Prediction], labels: Sequence[Any]) -> Score:
    """Compare quads with labelled quads, picture by picture.

    Args:
        predictions: Each with ``boxes``, as detect-text gives them.
        labels: Each ``{"boxes": [quad, …]}``, a quad being four corners [x, y] in pixels.

    Returns:
        The mean F1 a picture.

    Raises:
        ConfigError: A label is not such a table, or there are none.
    """
    if not labels:
        raise ConfigError("text_f1 needs labels")
    scores = []
    for prediction, label in zip(predictions, labels, strict=True):
        found, wanted = quads_of(prediction), _labelled(label)
        matched = quads.match(wanted, found, MIN_IOU)
        scores.append(pictures.f1(matched, len(wanted), len(found)))
    return Score(math.fsum(scores) / len(scores), tuple(scores))


def _labelled(label: Any) -> list[quads.Points]:  # noqa: ANN401 - labels are any JSON
    try:
        corners = [np.array(quad, dtype=np.float64) for quad in label["boxes"]]
    except (TypeError, KeyError, ValueError) as error:
        raise ConfigError('text_f1 needs labels of the form {"boxes": [quad, …]}') from error
    if any(quad.shape != (4, 2) or not np.isfinite(quad).all() for quad in corners):
        raise ConfigError("text_f1: a labelled quad is not four corners [x, y]")
    return corners
