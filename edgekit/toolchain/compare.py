"""How far one graph's outputs are from another's: every output by itself, and its parts.

A detector's head joins boxes of hundreds of pixels with scores below 1 in one tensor. A cosine over
the whole of it says 0.9997 when every score is dead, so each channel is compared too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgekit.runtime.session import Run
from edgekit.wire.errors import BuildError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

MAX_SQNR_DB = 200.0
# An axis of 2 to 512 parts can be a head's channels; a longer one is positions.
MAX_CHANNELS = 512
_HEAD_RANK = 3
# A channel whose reference stays below this share of the largest one's peak carries no signal: the
# score of a class that none of the samples shows. 1e-4 of a 640-pixel box is a score of 0.06.
PEAK_FLOOR = 1e-4


@dataclass(frozen=True)
class OutputDifference:
    """How one output compares over all samples.

    Attributes:
        output: The output's name.
        samples: Feeds compared.
        max_abs: Largest absolute difference.
        relative_l2: Norm of the difference over the norm of the reference; 0 when both are zero.
        cosine: Between the two, -1..1; 1 when both are zero.
        sqnr_db: Signal over noise, at most 200 dB (equal).
        worst_channel: Index of the channel with the lowest cosine, or None without channels.
        worst_channel_cosine: Its cosine.
        channel_axis: The axis that the channels lie on, or None.
    """

    output: str
    samples: int
    max_abs: float
    relative_l2: float
    cosine: float
    sqnr_db: float
    worst_channel: int | None = None
    worst_channel_cosine: float | None = None
    channel_axis: int | None = None


@dataclass
class _Sums:
    """Running sums of one output: whole, and a value for each channel."""

    count: int = 0
    max_abs: float = 0.0
    finite: bool = True
    dot: float = 0.0
    reference: float = 0.0
    other: float = 0.0
    noise: float = 0.0
    axis: int | None = None
    channels: dict[str, Any] = field(default_factory=dict)


def compare_outputs(
    reference: Run, other: Run, feeds: Sequence[Mapping[str, Array]]
) -> list[OutputDifference]:
    """Run both on the same feeds and compare, output by output, in the reference's order.

    Args:
        reference: What is right: fp32, or the graph before a pass.
        other: What is compared.
        feeds: Arrays by input name; at least one.

    Raises:
        BuildError: No feeds, an output is missing, or its shape differs.
    """
    if not feeds:
        raise BuildError("there are no feeds to compare outputs on")
    sums: dict[str, _Sums] = {}
    for feed in feeds:
        expected, found = reference(feed), other(feed)
        for name, values in expected.items():
            answer = found.get(name)
            if answer is None:
                raise BuildError(f'output "{name}" is missing')
            if answer.shape != values.shape:
                raise BuildError(
                    f'output "{name}" has shape {list(answer.shape)}, not {list(values.shape)}'
                )
            _add(sums.setdefault(name, _Sums()), values, answer)
    return [_difference(name, total) for name, total in sums.items()]


def channel_axis(shape: Sequence[int]) -> int | None:
    """Return the axis that holds an output's parts, if its shape has one.

    [1, 84, 8400] and [1, 8400, 85] are heads with 84 and 85 parts; [1, 1000] and [1, 1, 640, 640]
    have none.

    Args:
        shape: Of an output; the first axis is the batch.
    """
    if len(shape) < _HEAD_RANK:
        return None
    size, axis = min((n, -i) for i, n in enumerate(shape) if i > 0)
    if not 1 < size <= MAX_CHANNELS or math.prod(shape[1:]) < 2 * size * size:
        return None
    return -axis


def _add(sums: _Sums, expected: Array, found: Array) -> None:
    import numpy as np

    a, b = expected.astype(np.float64), found.astype(np.float64)
    sums.finite = sums.finite and bool(np.isfinite(b).all() or not np.isfinite(a).all())
    difference = a - b
    axis = channel_axis(a.shape) if sums.count == 0 else sums.axis
    sums.axis = axis
    sums.count += 1
    sums.max_abs = max(sums.max_abs, float(np.abs(difference).max(initial=0.0)))
    sums.dot += float((a * b).sum())
    sums.reference += float((a * a).sum())
    sums.other += float((b * b).sum())
    sums.noise += float((difference * difference).sum())
    if axis is None or a.ndim <= axis:
        return
    rest = tuple(i for i in range(a.ndim) if i != axis)
    parts = {
        "dot": (a * b).sum(axis=rest),
        "reference": (a * a).sum(axis=rest),
        "other": (b * b).sum(axis=rest),
        "peak": np.abs(a).max(axis=rest, initial=0.0),
    }
    for key, values in parts.items():
        old = sums.channels.get(key)
        if old is not None and old.shape != values.shape:
            sums.axis, sums.channels = None, {}  # not channels: their number changes by sample
            return
        join = np.maximum if key == "peak" else np.add
        sums.channels[key] = values if old is None else join(old, values)


def _difference(name: str, sums: _Sums) -> OutputDifference:
    relative = math.sqrt(sums.noise / sums.reference) if sums.reference else math.inf
    if sums.noise == 0.0:
        relative = 0.0
    channel, worst = _worst_channel(sums)
    return OutputDifference(
        output=name,
        samples=sums.count,
        max_abs=sums.max_abs if sums.finite else math.inf,
        relative_l2=relative if sums.finite else math.inf,
        cosine=_cosine(sums.dot, sums.reference, sums.other) if sums.finite else 0.0,
        sqnr_db=_decibel(sums.reference, sums.noise) if sums.finite else -MAX_SQNR_DB,
        worst_channel=channel,
        worst_channel_cosine=worst,
        channel_axis=sums.axis if sums.channels else None,
    )


def _worst_channel(sums: _Sums) -> tuple[int | None, float | None]:
    if not sums.channels:
        return None, None
    peaks = sums.channels["peak"]
    floor = float(peaks.max(initial=0.0)) * PEAK_FLOOR
    found = [
        (
            _cosine(
                float(sums.channels["dot"][i]),
                float(sums.channels["reference"][i]),
                float(sums.channels["other"][i]),
            ),
            i,
        )
        for i in range(len(peaks))
        if float(peaks[i]) > floor
    ]
    if not found:
        return None, None
    cosine, index = min(found)
    return index, cosine


def _cosine(dot: float, a: float, b: float) -> float:
    if a == 0.0 and b == 0.0:
        return 1.0
    norms = math.sqrt(a) * math.sqrt(b)
    return max(-1.0, min(1.0, dot / norms)) if norms else 0.0


def _decibel(signal: float, noise: float) -> float:
    if noise == 0.0:
        return MAX_SQNR_DB
    if signal == 0.0:
        return -MAX_SQNR_DB
    return max(-MAX_SQNR_DB, min(MAX_SQNR_DB, 10.0 * math.log10(signal / noise)))
