"""Ranges by entropy: the least Kullback-Leibler divergence between a tensor and its 8 bits.

S. Migacz, 8-bit inference with TensorRT, GTC 2017, as in onnxruntime's ``get_entropy_threshold``:
outliers are added to the end bins of the reference, and each level is spread over those of its bins
that hold values. A threshold clips both signs, but no range reaches beyond what was seen. The bin
of zero is levelled with its neighbours, like ``bins[0] = bins[1]`` in NVIDIA pytorch-quantization:
zero is exact in every range, and after a ReLU its count would hide all others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.toolchain.quantize.histogram import BINS, TensorStats

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_LEVELS = 255
# Shares of the largest magnitude that are tried as the threshold.
_SHARES = tuple(1.0 - 0.01 * i for i in range(99))
_EMPTY = 1e-4  # the count of a level without values, as in onnxruntime's smooth_distribution


def least_divergence(stats: TensorStats) -> tuple[float, float]:
    """Return the range around zero, within what was seen, with the least divergence."""
    import numpy as np

    low, high = min(stats.low, 0.0), max(stats.high, 0.0)
    width = (stats.high - stats.low) / BINS
    thresholds = np.asarray(_SHARES) * max(-low, high)
    lows, highs = np.maximum(low, -thresholds), np.minimum(high, thresholds)
    parts = np.arange(_LEVELS + 1) / _LEVELS
    # In bins, so that no product leaves float64.
    starts, ends = (lows - stats.low) / width, (highs - stats.low) / width
    places = starts[:, None] + (ends - starts)[:, None] * parts
    edges = np.clip(np.rint(places), 0, BINS).astype(np.int64)
    found = divergences(_without_zero(stats), edges)
    # A level needs a bin of its own.
    found[1:][ends[1:] - starts[1:] < _LEVELS] = np.inf
    best = int(found.argmin()) if np.isfinite(found).any() else 0
    return float(lows[best]), float(highs[best])


def _without_zero(stats: TensorStats) -> Array:
    import numpy as np

    counts = stats.histogram.astype(np.float64)
    if stats.low <= 0.0 <= stats.high:
        zero = min(int(-stats.low / (stats.high - stats.low) * BINS), BINS - 1)
        beside = [counts[i] for i in (zero - 1, zero + 1) if 0 <= i < BINS]
        counts[zero] = min(counts[zero], np.mean(beside))
    return counts


def divergences(counts: Array, edges: Array) -> Array:
    """Return the divergence of each candidate.

    Args:
        counts: float64[bins].
        edges: int64[candidates, levels + 1], the bins at which levels begin and end.
    """
    import numpy as np

    def below(values: Array) -> Array:
        return np.concatenate([[0.0], np.cumsum(values)])

    total = counts.sum()
    first, last = edges[:, 0], np.maximum(edges[:, -1] - 1, 0)
    number = below(counts)[edges]
    kept = np.diff(number, axis=1)
    used = np.diff(below(counts > 0)[edges], axis=1)
    reference = kept.copy()
    inside = np.maximum(number[:, -1] - number[:, 0], _EMPTY)
    chaos = below(_times_log(counts))[edges[:, [0, -1]]]
    terms = chaos[:, 1] - chaos[:, 0]
    # What is clipped counts for the end bins.
    for bins, level, outliers in ((first, 0, number[:, 0]), (last, -1, total - number[:, -1])):
        ends = counts[np.minimum(bins, counts.size - 1)]
        terms = terms + _times_log(ends + outliers) - _times_log(ends)
        reference[:, level] += outliers
        used[:, level] += (ends == 0) & (outliers > 0)
    spread = np.log(np.maximum(kept, _EMPTY) / np.maximum(used, 1))
    found = (terms - (reference * spread).sum(axis=1)) / max(total, 1) + np.log(
        inside / max(total, 1)
    )
    return np.where(number[:, -1] > number[:, 0], found, np.inf)


def _times_log(values: Array) -> Array:
    import numpy as np

    return values * np.log(np.maximum(values, 1))
