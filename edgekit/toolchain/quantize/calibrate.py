"""Ranges of activations, from one streaming pass over the calibration feeds.

Minimum and maximum are taken inside the graph, and of large tensors only some values leave
onnxruntime; histograms of 2048 bins a tensor learn their range on the way. One sample's activations
are alive at a time. Every rule then reads the same statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from edgekit.runtime.session import open_session
from edgekit.toolchain.graph import Graph, serialize
from edgekit.toolchain.quantize.entropy import least_divergence
from edgekit.toolchain.quantize.histogram import BINS, GrowingHistogram, TensorStats
from edgekit.toolchain.quantize.probe import Probe, Seen, step_of
from edgekit.wire.errors import BuildError

LEVELS = 255  # steps of an 8-bit range
# Share of the values that the percentile rule keeps; the tails beyond it are clipped.
PERCENTILE = 0.9999
# Most values of a tensor that one feed counts. Of 64 feeds that is 2^20: each of the tails that the
# percentile rule cuts holds 50; of 16 feeds 13.
_MOST_VALUES = 1 << 14
# Shares of an extreme value that are tried as the end of a range.
_FRACTIONS = (*(1.0 - 0.02 * i for i in range(26)), *(0.48 - 0.02 * i for i in range(23)))
_SLOPE = 1e-3

Feeds = Mapping[str, Any]


class RangeRule(StrEnum):
    """How a range is chosen from a tensor's statistics."""

    MIN_MAX = "min-max"
    PERCENTILE = "percentile"
    MSE = "mse"
    ENTROPY = "entropy"


class Gate(StrEnum):
    """The function that alone reads a tensor."""

    NONE = "none"
    SILU = "silu"
    HARD_SWISH = "hard-swish"
    SIGMOID = "sigmoid"
    HARD_SIGMOID = "hard-sigmoid"

    def apply(self, x: Any) -> Any:  # noqa: ANN401 - an array of any shape
        """Return the function of float64 values."""
        import numpy as np

        if self is Gate.NONE:
            return x
        if self in (Gate.SIGMOID, Gate.SILU):
            share = 1 / (1 + np.exp(-np.clip(x, -80, 80)))
        else:
            # The slope and offset of hard-swish; other HardSigmoids are close.
            share = np.clip(x / 6 + 0.5, 0, 1)
        return x * share if self in (Gate.SILU, Gate.HARD_SWISH) else share


def collect(
    graph: Graph,
    tensors: Sequence[str],
    feeds: Sequence[Feeds],
    on_done: Callable[[int], None] = lambda _done: None,
) -> dict[str, TensorStats]:
    """Run the graph over the feeds, once each, and collect statistics.

    Extremes are those of all values. Histograms count all values of small tensors, and of large
    ones those at every k-th place, from a place that moves on with every feed.

    Args:
        graph: The float32 graph.
        tensors: Names of float32 tensors: inputs, intermediate results or outputs.
        feeds: Calibration feeds; iterated once.
        on_done: Called with the number of samples done.

    Raises:
        BuildError: An activation is NaN or infinite, or there are no feeds.
    """
    import numpy as np

    if not feeds:
        raise BuildError("there are no calibration samples", hint="give the recipe [[calibration]]")
    if not tensors:
        return {}
    probe = Probe(graph, tensors)
    histograms = [GrowingHistogram() for _ in tensors]
    steps = np.zeros(0, dtype=np.int64)
    for index, feed in enumerate(feeds):
        if not steps.size:
            # Sizes are known only now. Every feed has the same steps: all values weigh the same.
            sizes = probe.run(feed).sizes
            steps = np.array([step_of(int(size), _MOST_VALUES) for size in sizes], dtype=np.int64)
        seen = probe.run(feed, index % steps, steps)
        _check_finite(tensors, seen, index)
        for histogram, low, high, values in zip(
            histograms, seen.low.tolist(), seen.high.tolist(), seen.values, strict=True
        ):
            histogram.add(low, high, values)
        on_done(index + 1)
    return {name: h.stats() for name, h in zip(tensors, histograms, strict=True)}


def choose_range(
    stats: TensorStats, rule: RangeRule, gate: Gate = Gate.NONE
) -> tuple[float, float]:
    """Choose the range that 8 bits will span.

    Args:
        stats: What calibration saw.
        rule: The rule; all of them contain zero, as a zero point must.
        gate: What alone the tensor is used for: values that it lets through as one need no steps.

    Returns:
        Lower and upper end, lower ≤ 0 ≤ upper.
    """
    low, high = min(stats.low, 0.0), max(stats.high, 0.0)
    if stats.high <= stats.low or not stats.histogram.any():
        return low, high
    if rule is RangeRule.MSE:
        return _least_squares(stats, gate, low_ends=_FRACTIONS, high_ends=_FRACTIONS)
    if rule is RangeRule.PERCENTILE:
        cut_low, cut_high = _percentile(stats, 1.0 - PERCENTILE)
        low, high = min(cut_low, 0.0), max(cut_high, 0.0)
    elif rule is RangeRule.ENTROPY:
        low, high = least_divergence(stats)
    if gate is Gate.NONE:
        return low, high
    # The rule says where values end, the gate from where on they stop to matter.
    share = high / max(stats.high, 1e-30)
    found, _ = _least_squares(stats, gate, low_ends=_FRACTIONS, high_ends=(share,))
    return max(low, found), high


def _percentile(stats: TensorStats, tail: float) -> tuple[float, float]:
    import numpy as np

    width = (stats.high - stats.low) / BINS
    cumulative = np.cumsum(stats.histogram) / stats.histogram.sum()
    first = int(np.searchsorted(cumulative, tail / 2, side="right"))
    last = int(np.searchsorted(cumulative, 1.0 - tail / 2, side="left"))
    return stats.low + first * width, stats.low + (last + 1) * width


def _least_squares(
    stats: TensorStats, gate: Gate, *, low_ends: Sequence[float], high_ends: Sequence[float]
) -> tuple[float, float]:
    """Return the range with the least squared error behind the gate.

    Inside a range the error is that of rounding, s²/12 a value for steps of s (uniform
    quantization noise), times the gate's slope squared; outside it is what clipping changes.

    Args:
        stats: What calibration saw.
        gate: What the tensor passes through.
        low_ends: Shares of the smallest value to try as the lower end.
        high_ends: Shares of the largest value to try as the upper end.
    """
    import numpy as np

    low, high = min(stats.low, 0.0), max(stats.high, 0.0)
    width = (stats.high - stats.low) / BINS
    centres = stats.low + (np.arange(BINS) + 0.5) * width
    counts = stats.histogram.astype(np.float64)
    through = gate.apply(centres)
    slopes = (gate.apply(centres + _SLOPE) - gate.apply(centres - _SLOPE)) / (2 * _SLOPE)

    def sums(values: Any) -> Any:  # noqa: ANN401
        return np.concatenate([[0.0], np.cumsum(counts * values)])

    n, first, second = sums(np.ones(BINS)), sums(through), sums(through**2)
    rough = sums(slopes**2)
    upper = high * np.asarray(high_ends)
    last = np.searchsorted(centres, upper)
    at_upper = gate.apply(upper)
    above = at_upper**2 * (n[-1] - n[last]) - 2 * at_upper * (first[-1] - first[last])
    above += second[-1] - second[last]
    lower = low * np.asarray(low_ends) if low < 0 else np.zeros(1)
    start = np.searchsorted(centres, lower)
    at_lower = gate.apply(lower)
    below = at_lower**2 * n[start] - 2 * at_lower * first[start] + second[start]
    inside = np.maximum(rough[last] - rough[start, None], 0.0)
    steps = (upper - lower[:, None]) / LEVELS
    errors = below[:, None] + above + inside * steps**2 / 12
    row, column = np.unravel_index(int(errors.argmin()), errors.shape)
    return min(float(lower[row]), 0.0), max(float(upper[column]), 0.0)


def extremes(
    graph: Graph,
    tensors: Sequence[str],
    feeds: Iterable[Feeds],
    on_done: Callable[[int], None] = lambda _done: None,
) -> dict[str, tuple[float, float]]:
    """Return the smallest and largest value of each tensor.

    Raises:
        BuildError: An activation is NaN or infinite.
    """
    import numpy as np

    if not tensors:
        return {}
    probe = Probe(graph, tensors)
    low, high = np.full(len(tensors), np.inf), np.full(len(tensors), -np.inf)
    for index, feed in enumerate(feeds):
        seen = probe.run(feed)
        _check_finite(tensors, seen, index)
        low, high = np.minimum(low, seen.low), np.maximum(high, seen.high)
        on_done(index + 1)
    return dict(zip(tensors, zip(low.tolist(), high.tolist(), strict=True), strict=True))


def session_with_outputs(graph: Graph, tensors: Sequence[str]) -> Any:  # noqa: ANN401
    """Open a session of a graph that gives further tensors as outputs."""
    import onnx

    proto = graph.copy()
    known = {o.name for o in proto.graph.output} | set(graph.input_names)
    proto.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(t) for t in tensors if t not in known
    )
    data = serialize(proto)
    del proto  # one copy of the weights less while onnxruntime makes its own
    return open_session(data, threads=1)


def _check_finite(tensors: Sequence[str], seen: Seen, index: int) -> None:
    if not seen.finite.all():
        name = tensors[int(seen.finite.argmin())]
        raise BuildError(
            f'tensor "{name}" is NaN or infinite on calibration sample {index}',
            hint="look for a division by zero or an overflow in the model or its input",
        )
