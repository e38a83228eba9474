"""How much of the truth a linear probe reads from embeddings: leave-one-out accuracy.

A ridge regression onto the label (1 or -1) is fitted on all samples but one and decides that one,
for each sample in turn. Fitted on the embeddings of the very model that is judged, it asks what
they carry, not whether they are the same as another model's. Labels are 0 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekit.runtime.tasks import Prediction
from edgekit.toolchain.metrics import Score
from edgekit.wire.errors import ConfigError

# Weight of the penalty for embeddings of length 1; it stands for about one sample a direction.
RIDGE = 1.0
MIN_SAMPLES = 10


def score(predictions: Sequence[Prediction], labels: Sequence[Any]) -> Score:
    """Return the share of samples that their probe decides rightly.

    Leaving a sample out needs no second fit: its residual is the full fit's, divided by one minus
    its leverage (Hastie, Tibshirani, Friedman, "The Elements of Statistical Learning", 7.10).

    Raises:
        ConfigError: Too few samples, labels that are not 0 and 1 or all the same, or predictions
            without an embedding.
    """
    if len(labels) < MIN_SAMPLES:
        raise ConfigError(f"a probe needs {MIN_SAMPLES} labelled samples, not {len(labels)}")
    if any(label not in (0, 1) for label in labels) or len(set(labels)) == 1:
        raise ConfigError("probe_accuracy needs labels 0 and 1, and both of them")
    try:
        rows = np.array([p["embedding"] for p in predictions], dtype=np.float64)
    except (KeyError, ValueError) as error:
        raise ConfigError("probe_accuracy needs embeddings of one size") from error
    truth = np.where(np.array(labels, dtype=bool), 1.0, -1.0)
    inputs = np.hstack([rows, np.ones((len(rows), 1))])
    penalty = RIDGE * np.eye(inputs.shape[1])
    penalty[-1, -1] = 1e-9  # the constant is free
    solved = np.linalg.solve(inputs.T @ inputs + penalty, inputs.T)
    leverage = np.einsum("ij,ji->i", inputs, solved)
    fitted = inputs @ (solved @ truth)
    left_out = truth - (truth - fitted) / np.maximum(1 - leverage, 1e-9)
    right = (left_out > 0) == (truth > 0)
    return Score(float(right.mean()), tuple(float(r) for r in right))
