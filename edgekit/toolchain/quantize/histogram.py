"""Histograms whose range is learnt on the way, so that values need to be seen only once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

BINS = 2048
# Twice the bins: a range that has just doubled still fills as many cells as there are bins.
CELLS = 2 * BINS
_CHUNK = 1 << 15  # values whose places stay in a CPU's second cache
# float32 has no 4096 edges between nearly equal values, and no products near its limits.
_NARROW, _SMALL, _LARGE = 1e-2, 1e-30, 1e30
_SMALLEST = 2.0**-149  # of float32, denormal


@dataclass(frozen=True)
class TensorStats:
    """What calibration saw of one tensor.

    Attributes:
        low: Smallest value.
        high: Largest value.
        histogram: int64[2048], counts over equal bins from low to high.
    """

    low: float
    high: float
    histogram: np.ndarray[Any, Any]


class GrowingHistogram:
    """Counts over equal cells; where a value lies outside, cells merge pairwise until it fits."""

    def __init__(self) -> None:
        import numpy as np

        self._low, self._high = math.inf, -math.inf
        self._start, self._width = 0.0, 0.0
        self._cells = np.zeros(CELLS, dtype=np.int64)

    def add(self, low: float, high: float, values: Any) -> None:  # noqa: ANN401 - float array, 1-D
        """Count values.

        Args:
            low: Smallest value of the tensor, whether or not it is among the values.
            high: Largest value.
            values: All or some of the tensor's values, all finite.
        """
        import numpy as np

        self._cover(min(low, self._low), max(high, self._high))
        kind = self._precision()
        for first in range(0, len(values), _CHUNK):
            places = np.subtract(values[first : first + _CHUNK], kind(self._start), dtype=kind)
            places *= kind(1 / self._width)
            cells = places.astype(np.int64)
            # Rounding may place the largest value one cell too far.
            np.minimum(cells, CELLS - 1, out=cells)
            self._cells += np.bincount(cells, minlength=CELLS)

    def stats(self) -> TensorStats:
        """Return the counts over 2048 equal bins from the smallest to the largest value.

        A cell that lies across two bins is divided in proportion.
        """
        import numpy as np

        edges = self._low + np.arange(BINS + 1) * ((self._high - self._low) / BINS)
        below = np.concatenate([[0], np.cumsum(self._cells)])
        at_edges = np.interp((edges - self._start) / self._width, np.arange(CELLS + 1), below)
        at_edges[0], at_edges[-1] = 0, below[-1]
        return TensorStats(self._low, self._high, np.diff(np.rint(at_edges).astype(np.int64)))

    def _precision(self) -> Any:  # noqa: ANN401 - a numpy scalar type
        """Return float32 where it places values well within a cell, as it is faster."""
        import numpy as np

        span = self._high - self._low
        wide = span > _NARROW * max(-self._low, self._high)
        return np.float32 if wide and _SMALL < span < _LARGE else np.float64

    def _cover(self, low: float, high: float) -> None:
        """Let the cells reach from low to high."""
        import numpy as np

        if not self._width:
            # A constant gets the narrowest cells: what comes later widens them.
            span = max(high - low, abs(low) * 2.0**-23, _SMALLEST)
            self._start, self._width = low, span / CELLS
        elif low < self._start or high > self._start + CELLS * self._width:
            # One cell is spare, as the new start stands on the old cells' grid.
            needed = (high - low) / ((CELLS - 1) * self._width)
            doublings = max(0, math.ceil(math.log2(needed))) if needed > 1 else 0
            shift = max(0.0, math.ceil((self._start - low) / self._width))
            places = (np.arange(CELLS) + float(shift)) * 2.0**-doublings
            # Only empty cells can fall behind the end.
            places = np.minimum(places, CELLS - 1).astype(np.int64)
            merged = np.bincount(places, weights=self._cells, minlength=CELLS)
            self._cells = merged.astype(np.int64)
            self._start -= shift * self._width
            self._width *= 2.0**doublings
        self._low, self._high = low, high
