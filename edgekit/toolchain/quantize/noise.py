"""How much noise a quantized graph adds to the outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.runtime.session import Run
from edgekit.toolchain.compare import PEAK_FLOOR, channel_axis
from edgekit.toolchain.quantize.calibrate import Feeds

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

LEAST_DB = -100.0


def noise_db(run: Run, wanted: Sequence[Mapping[str, Array]], feeds: Sequence[Feeds]) -> float:
    """Return the noise in the outputs over their signal, in dB, ≤ 0: lower is better.

    Every output counts by itself and so does each channel of a joined one, no channel more than
    its own signal; channels that carry none do not count. The worst output speaks, by its mean
    over feeds.

    Args:
        run: The quantized model.
        wanted: The float32 model's outputs, a feed each.
        feeds: The same feeds.
    """
    ratios: dict[str, list[float]] = {}
    for feed, reference in zip(feeds, wanted, strict=True):
        answer = run(feed)
        for name, value in reference.items():
            ratios.setdefault(name, []).append(_noise(value, answer[name]))
    worst = max(math.fsum(found) / len(found) for found in ratios.values())
    return max(LEAST_DB, 10 * math.log10(max(worst, 1e-12)))


def _noise(wanted: Array, found: Array) -> float:
    import numpy as np

    if wanted.shape != found.shape or not np.isfinite(found).all():
        return 1.0  # another number of boxes, or none at all: as far off as can be
    a, b = wanted.astype(np.float64), found.astype(np.float64)
    axis = channel_axis(a.shape)
    others = None if axis is None else tuple(i for i in range(a.ndim) if i != axis)
    signal = np.atleast_1d((a * a).sum(axis=others))
    noise = np.atleast_1d(((a - b) ** 2).sum(axis=others))
    peaks = np.atleast_1d(np.abs(a).max(axis=others, initial=0.0))
    live = peaks > PEAK_FLOOR * peaks.max(initial=0.0)
    if not live.any():
        return float(min(noise.sum(), 1.0))
    return float(np.minimum(noise[live] / signal[live], 1.0).mean())
