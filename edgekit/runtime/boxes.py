"""Boxes: overlap, suppression, matching, F1.

Boxes are float32[N, 4]: x1, y1, x2, y2 in pixels, x to the right, y down. One float32 operation an
element, so x86 and Arm give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]
Z_95 = 1.959964  # 97.5 % quantile of the standard normal distribution


def iou(first: Floats, second: Floats) -> Floats:
    """Overlap of every box with every other: intersection over union.

    Args:
        first: float32[N, 4].
        second: float32[M, 4].

    Returns:
        float32[N, M], 0..1; two empty boxes overlap by 0.
    """
    a = first.astype(np.float32)[:, np.newaxis]
    b = second.astype(np.float32)[np.newaxis]
    size = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    size = np.maximum(size, np.float32(0))
    common = size[..., 0] * size[..., 1]
    union = _area(a) + _area(b) - common
    result: Floats = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return np.clip(result, np.float32(0), np.float32(1))


def _area(boxes: Floats) -> Floats:
    size = np.maximum(boxes[..., 2:] - boxes[..., :2], np.float32(0))
    area: Floats = size[..., 0] * size[..., 1]
    return area


def nms(boxes: Floats, scores: Floats, max_iou: float) -> Indices:
    """Greedy non-maximum suppression within one class.

    Args:
        boxes: float32[N, 4].
        scores: float32[N].
        max_iou: A box that overlaps a better one by more than this is dropped.

    Returns:
        Indices of the boxes that stay, best first; equal scores keep their order.
    """
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while order.size:
        best, order = order[0], order[1:]
        kept.append(int(best))
        overlap = iou(boxes[best : best + 1], boxes[order])[0]
        order = order[overlap <= max_iou]
    return np.array(kept, dtype=np.intp)


def match(first: Floats, second: Floats, min_iou: float = 0.5) -> list[tuple[int, int]]:
    """Pair boxes one to one, largest overlap first.

    Args:
        first: float32[N, 4].
        second: float32[M, 4].
        min_iou: Least overlap of a pair.

    Returns:
        Pairs of indices into ``first`` and ``second``, in the order they were made.
    """
    if not len(first) or not len(second):
        return []
    overlap = iou(first, second)
    pairs: list[tuple[int, int]] = []
    for flat in np.argsort(-overlap, axis=None, kind="stable"):
        i, j = divmod(int(flat), len(second))
        if overlap[i, j] < min_iou:
            break
        if all(i != p and j != q for p, q in pairs):
            pairs.append((i, j))
    return pairs


def f1(matched: int, first: int, second: int) -> float:
    """F1 of two sets of boxes: 1.0 where both are empty.

    Args:
        matched: Pairs that were made.
        first: Size of one set.
        second: Size of the other.
    """
    return 1.0 if first + second == 0 else 2.0 * matched / (first + second)


@dataclass(frozen=True)
class Counts:
    """What was found on one picture.

    Attributes:
        matched: Pairs of boxes that say the same.
        first: Boxes of the one side.
        second: Boxes of the other.
    """

    matched: int
    first: int
    second: int

    @property
    def f1(self) -> float:
        """F1 of this picture, 0..1; 1 where neither side has a box."""
        return f1(self.matched, self.first, self.second)


def pooled_f1(counts: Sequence[Counts]) -> tuple[float, tuple[float, float] | None]:
    """F1 of all boxes together, with an interval that counts pictures and not boxes.

    The value is a ratio of two sums over pictures, and boxes of one picture are not independent:
    the interval is that of a ratio estimator (Cochran 1977, Sampling Techniques, section 6.4).
    Where all pictures have the same F1 it would have no width; then it is as wide as Wilson's of n
    equal answers, with n the pictures that have boxes.

    Args:
        counts: Of each picture.

    Returns:
        The value 0..1, and its 95 % interval; None where fewer than two pictures have boxes.
    """
    used = [c for c in counts if c.first + c.second]
    n, total = len(used), sum(c.first + c.second for c in used)
    value = 2.0 * sum(c.matched for c in used) / total if total else 1.0
    if n < 2:  # noqa: PLR2004 - one picture tells nothing of the spread
        return value, None
    residuals = math.fsum((2 * c.matched - value * (c.first + c.second)) ** 2 for c in used)
    half = Z_95 * math.sqrt(n / (n - 1) * residuals) / total
    if half < 1e-9:  # noqa: PLR2004 - rounding alone
        return value, (value * n / (n + Z_95**2), (value * n + Z_95**2) / (n + Z_95**2))
    return value, (max(0.0, value - half), min(1.0, value + half))
