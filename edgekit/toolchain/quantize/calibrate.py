"""Ranges of activations, from two streaming passes over the calibration feeds.

Pass 1 takes minimum and maximum inside the graph, so only two scalars a tensor leave onnxruntime.
Pass 2 fills a histogram of 2048 bins a tensor; one sample's activations are alive at a time.
Every rule then reads the same statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from edgekit.runtime.session import open_session
from edgekit.toolchain.graph import Graph, serialize
from edgekit.wire.errors import BuildError

if TYPE_CHECKING:
    import numpy as np

BINS = 2048
LEVELS = 255  # steps of an 8-bit range
# Share of the values that the percentile rule keeps; the tails beyond it are clipped.
PERCENTILE = 0.9999
_CHUNK_TENSORS = 64
# Shares of an extreme value that are tried as the end of a range.
_FRACTIONS = (*(1.0 - 0.02 * i for i in range(26)), *(0.48 - 0.02 * i for i in range(23)))
_SLOPE = 1e-3
NARROW = 1e-2  # share of the largest value below which a range is narrow

Feeds = Mapping[str, Any]


class RangeRule(StrEnum):
    """How a range is chosen from a tensor's statistics."""

    MIN_MAX = "min-max"
    PERCENTILE = "percentile"
    MSE = "mse"


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


def collect(
    graph: Graph,
    tensors: Sequence[str],
    feeds: Sequence[Feeds],
    on_done: Callable[[int], None] = lambda _done: None,
) -> dict[str, TensorStats]:
    """Run the graph over the feeds and collect statistics.

    Args:
        graph: The float32 graph.
        tensors: Names of float32 tensors: inputs, intermediate results or outputs.
        feeds: Calibration feeds; iterated twice.
        on_done: Called with the number of samples done, over both passes.

    Raises:
        BuildError: An activation is NaN or infinite, or there are no feeds.
    """
    import numpy as np

    if not feeds:
        raise BuildError("there are no calibration samples", hint="give the recipe [[calibration]]")
    ranges = extremes(graph, tensors, feeds, on_done)
    histograms = {name: np.zeros(BINS, dtype=np.int64) for name in ranges}
    for start in range(0, len(tensors), _CHUNK_TENSORS):
        chunk = [t for t in tensors[start : start + _CHUNK_TENSORS] if t in ranges]
        session, fed = session_with_outputs(graph, chunk), set(graph.input_names)
        wanted = [t for t in chunk if t not in fed]
        for index, feed in enumerate(feeds):
            values = dict(zip(wanted, session.run(wanted, dict(feed)), strict=True))
            values.update({t: feed[t] for t in chunk if t in fed})
            for name, value in values.items():
                low, high = ranges[name]
                if high > low:
                    # float32 has no 2048 edges between two values that are nearly equal.
                    wide = value.astype(np.float64) if high - low < NARROW * abs(high) else value
                    histograms[name] += np.histogram(wide, bins=BINS, range=(low, high))[0]
            on_done(len(feeds) + index + 1)
    return {name: TensorStats(low, high, histograms[name]) for name, (low, high) in ranges.items()}


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
    best, best_error = (low, high), np.inf
    for lower in low * np.asarray(low_ends) if low < 0 else (0.0,):
        start = int(np.searchsorted(centres, lower))
        at_lower = float(gate.apply(np.asarray(lower)))
        below = at_lower**2 * n[start] - 2 * at_lower * first[start] + second[start]
        inside = np.maximum(rough[last] - rough[start], 0.0)
        errors = below + above + inside * ((upper - lower) / LEVELS) ** 2 / 12
        k = int(errors.argmin())
        if errors[k] < best_error:
            best, best_error = (float(lower), float(upper[k])), float(errors[k])
    return min(best[0], 0.0), max(best[1], 0.0)


def extremes(
    graph: Graph,
    tensors: Sequence[str],
    feeds: Iterable[Feeds],
    on_done: Callable[[int], None] = lambda _done: None,
) -> dict[str, tuple[float, float]]:
    """Return the smallest and largest value of each tensor: the first pass alone.

    Raises:
        BuildError: An activation is NaN or infinite.
    """
    import numpy as np

    session, names = _session_with_extremes(graph, tensors)
    fed = set(graph.input_names)
    ranges: dict[str, tuple[float, float]] = {}
    for index, feed in enumerate(feeds):
        values = session.run(None, dict(feed))[-2 * len(names) :] if names else []
        seen = {
            name: (float(values[2 * i]), float(values[2 * i + 1])) for i, name in enumerate(names)
        }
        seen.update(
            {t: (float(np.min(feed[t])), float(np.max(feed[t]))) for t in tensors if t in fed}
        )
        for name, (low, high) in seen.items():
            if not (np.isfinite(low) and np.isfinite(high)):
                raise BuildError(
                    f'tensor "{name}" is NaN or infinite on calibration sample {index}',
                    hint="look for a division by zero or an overflow in the model or its input",
                )
            old = ranges.get(name, (low, high))
            ranges[name] = (min(old[0], low), max(old[1], high))
        on_done(index + 1)
    return ranges


def session_with_outputs(graph: Graph, tensors: Sequence[str]) -> Any:  # noqa: ANN401
    """Open a session of a graph that gives further tensors as outputs."""
    import onnx

    proto = graph.copy()
    known = {o.name for o in proto.graph.output} | set(graph.input_names)
    proto.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(t) for t in tensors if t not in known
    )
    return open_session(serialize(proto), threads=1)


def _session_with_extremes(graph: Graph, tensors: Sequence[str]) -> tuple[Any, list[str]]:
    import onnx

    proto = graph.copy()
    fed = set(graph.input_names)
    names = [t for t in tensors if t not in fed]
    for name in names:
        for reduce in ("ReduceMin", "ReduceMax"):
            output = f"{name}__{reduce}"
            proto.graph.node.append(onnx.helper.make_node(reduce, [name], [output], keepdims=0))
            proto.graph.output.append(onnx.helper.make_tensor_value_info(output, 1, None))
    return open_session(serialize(proto), threads=1), names
