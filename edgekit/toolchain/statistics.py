"""Intervals of measured ratios. Pure arithmetic; the seed is passed in."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z_95 = 1.959964  # 97.5 % quantile of the standard normal distribution
BOOTSTRAP_ROUNDS = 1000


def wilson_interval(successes: float, n: int) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion.

    Source: Wilson, E. B. (1927), Probable inference, the law of succession, and statistical
    inference, JASA 22.

    Args:
        successes: 0..n.
        n: Trials, ≥ 1.
    """
    p = successes / n
    centre = p + Z_95**2 / (2 * n)
    half = Z_95 * math.sqrt(p * (1 - p) / n + Z_95**2 / (4 * n * n))
    scale = 1 + Z_95**2 / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def mean_interval(scores: Sequence[float], seed: int) -> tuple[float, float]:
    """Return a 95 % interval of the mean of scores in 0..1.

    Scores that are all 0 or 1 take Wilson's interval; others the percentile bootstrap (Efron 1979).

    Args:
        scores: One a sample, at least one.
        seed: Of the resampling.
    """
    if set(scores) <= {0.0, 1.0}:
        return wilson_interval(sum(scores), len(scores))
    import numpy as np

    values = np.asarray(scores, dtype=np.float64)
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(values), size=(BOOTSTRAP_ROUNDS, len(values)))
    means = values[picks].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
