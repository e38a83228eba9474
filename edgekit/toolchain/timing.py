"""Latency as a ratio of two models run in turns: on this host, or on a device that is handed in."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from edgekit.runtime.session import open_session, runner
from edgekit.toolchain.graph import Graph
from edgekit.toolchain.quantize.calibrate import Feeds

Clock = Callable[[], int]


@dataclass(frozen=True)
class PairTiming:
    """Paired latencies, one thread.

    Attributes:
        fp32_ms: Median of the float32 model.
        candidate_ms: Median of the candidate.
        ratio: Median of the pairs' ratios, candidate over fp32.
        pairs: Number of pairs.
    """

    fp32_ms: float
    candidate_ms: float
    ratio: float
    pairs: int


class Device(Protocol):
    """A connected board of the target's kind, which times what is built for it.

    Attributes:
        name: As reports show it: ``rpi5-lab-3``.
    """

    name: str

    def time_pair(self, fp32: Graph, candidate: Graph, feeds: Sequence[Feeds]) -> PairTiming:
        """Time two models in turns, as :func:`time_pair` does here."""


def time_pair(
    fp32: Graph,
    candidate: Graph,
    feeds: Sequence[Feeds],
    *,
    seconds: float = 2.0,
    clock_ns: Clock = time.perf_counter_ns,
) -> PairTiming:
    """Time two models in turns, so that a busy machine slows both alike.

    Args:
        fp32: The float32 model.
        candidate: The other.
        feeds: Inputs, taken in turn.
        seconds: Stop after about this long; at least 15 pairs are run.
        clock_ns: Monotonic clock in nanoseconds.
    """
    import statistics

    runs = [runner(open_session(g.to_bytes(), threads=1)) for g in (fp32, candidate)]
    for run in runs:
        for feed in feeds[:3]:
            run(feed)
    pairs: list[tuple[int, int]] = []
    start = clock_ns()
    while len(pairs) < 15 or (clock_ns() - start < seconds * 1e9 and len(pairs) < 400):  # noqa: PLR2004
        feed = feeds[len(pairs) % len(feeds)]
        spans = [0, 0]
        # Alternate who goes first: the second finds the caches warm.
        for which in (0, 1) if len(pairs) % 2 else (1, 0):
            began = clock_ns()
            runs[which](feed)
            spans[which] = clock_ns() - began
        pairs.append((spans[0], spans[1]))
    return PairTiming(
        fp32_ms=statistics.median(a for a, _ in pairs) / 1e6,
        candidate_ms=statistics.median(b for _, b in pairs) / 1e6,
        ratio=statistics.median(b / a for a, b in pairs),
        pairs=len(pairs),
    )
