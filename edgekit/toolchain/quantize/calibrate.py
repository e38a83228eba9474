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

Feeds = Mapping[str, Any]


class RangeRule(StrEnum):
    """How a range is chosen from a tensor's statistics."""

    MIN_MAX = "min-max"
    PERCENTILE = "percentile"
    MSE = "mse"


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
        session, fed = _session_with_outputs(graph, chunk), set(graph.input_names)
        wanted = [t for t in chunk if t not in fed]
        for index, feed in enumerate(feeds):
            values = dict(zip(wanted, session.run(wanted, dict(feed)), strict=True))
            values.update({t: feed[t] for t in chunk if t in fed})
            for name, value in values.items():
                low, high = ranges[name]
                if high > low:
                    histograms[name] += np.histogram(value, bins=BINS, range=(low, high))[0]
            on_done(len(feeds) + index + 1)
    return {name: TensorStats(low, high, histograms[name]) for name, (low, high) in ranges.items()}


def choose_range(stats: TensorStats, rule: RangeRule) -> tuple[float, float]:
    """Choose the range that 8 bits will span.

    Args:
        stats: What calibration saw.
        rule: The rule; all of them contain zero, as a zero point must.

    Returns:
        Lower and upper end, lower ≤ 0 ≤ upper.
    """
    low, high = min(stats.low, 0.0), max(stats.high, 0.0)
    if rule is RangeRule.MIN_MAX or stats.high <= stats.low or not stats.histogram.any():
        return low, high
    if rule is RangeRule.PERCENTILE:
        cut_low, cut_high = _percentile(stats, 1.0 - PERCENTILE)
    else:
        cut_low, cut_high = _least_squares(stats)
    return min(cut_low, 0.0), max(cut_high, 0.0)


def _percentile(stats: TensorStats, tail: float) -> tuple[float, float]:
    import numpy as np

    width = (stats.high - stats.low) / BINS
    cumulative = np.cumsum(stats.histogram) / stats.histogram.sum()
    first = int(np.searchsorted(cumulative, tail / 2, side="right"))
    last = int(np.searchsorted(cumulative, 1.0 - tail / 2, side="left"))
    return stats.low + first * width, stats.low + (last + 1) * width


def _least_squares(stats: TensorStats) -> tuple[float, float]:
    """Shrink the range while the squared error (rounding inside, clipping outside) falls.

    The rounding error of a step s is s²/12 a value (uniform quantization noise).
    """
    import numpy as np

    width = (stats.high - stats.low) / BINS
    centres = stats.low + (np.arange(BINS) + 0.5) * width
    counts = stats.histogram.astype(np.float64)
    best, best_error = (min(stats.low, 0.0), max(stats.high, 0.0)), np.inf
    fractions = np.concatenate([np.linspace(1.0, 0.5, 26), np.linspace(0.48, 0.1, 20)])
    for shrink_low in (False, True) if stats.low < 0 else (False,):
        for fraction in fractions:
            low = min(stats.low, 0.0) * (fraction if shrink_low else 1.0)
            high = max(stats.high, 0.0) * fraction
            error = _clipping_error(centres, counts, low, high)
            if error < best_error:
                best, best_error = (low, high), error
    return best


def _clipping_error(centres: Any, counts: Any, low: float, high: float) -> float:  # noqa: ANN401
    import numpy as np

    step = (high - low) / LEVELS
    beyond = np.clip(low - centres, 0, None) + np.clip(centres - high, 0, None)
    inside = beyond == 0
    return float((counts * beyond**2).sum() + (counts * inside).sum() * step**2 / 12)


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


def _session_with_outputs(graph: Graph, tensors: Sequence[str]) -> Any:  # noqa: ANN401
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
