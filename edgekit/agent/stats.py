"""What a served model has done: counts and times."""

from __future__ import annotations

import threading
from bisect import bisect_left
from dataclasses import dataclass

from edgekit.agent.jobs import BadRequestError, BusyError, CancelledError, DroppedError, LateError
from edgekit.wire.errors import ConfigError, EdgekitError, MissingToolError

# Seconds; half a decade apart from 0.5 ms on. The last bucket has no bound.
LATENCY_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
# How fast the mean service time follows: the last twenty requests or so.
_FOLLOW = 0.1
_OUTLIER = 4.0


@dataclass(frozen=True)
class Stats:
    """A model's counts since the agent started.

    Attributes:
        served: Answered.
        failed: The model or the agent failed.
        refused: The input was not what the model takes.
        rejected: Found the queue full.
        dropped: Gave way to a newer request.
        expired: Past the deadline.
        cancelled: Given up by the caller.
        queued: Waiting now.
        running: Being worked on now.
        latency_counts: Answered requests by :data:`LATENCY_BOUNDS_S`, and one bucket above.
        latency_sum_s: Sum of the latencies, from acceptance to answer.
        service_s: Mean time of the last requests without the wait in the queue; None before any.
    """

    served: int
    failed: int
    refused: int
    rejected: int
    dropped: int
    expired: int
    cancelled: int
    queued: int
    running: int
    latency_counts: tuple[int, ...]
    latency_sum_s: float
    service_s: float | None

    def quantile_s(self, share: float) -> float | None:
        """Return a latency quantile as the bound of its bucket; None without requests.

        Args:
            share: 0..1.
        """
        total = sum(self.latency_counts)
        if not total:
            return None
        reached = 0
        for bound, count in zip(LATENCY_BOUNDS_S, self.latency_counts, strict=False):
            reached += count
            if reached >= share * total:
                return bound
        return float("inf")


class Counters:
    """The counts of one model name; they outlive a swap."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(
            ("served", "failed", "refused", "rejected", "dropped", "expired", "cancelled"), 0
        )
        self._latencies = [0] * (len(LATENCY_BOUNDS_S) + 1)
        self._latency_sum_s = 0.0
        self.service_s: float | None = None

    def answered(self, latency_s: float, service_s: float) -> None:
        """Count an answer.

        Args:
            latency_s: From acceptance to answer.
            service_s: Without the wait in the queue.
        """
        with self._lock:
            self._counts["served"] += 1
            self._latencies[bisect_left(LATENCY_BOUNDS_S, latency_s)] += 1
            self._latency_sum_s += latency_s
            self.service_s = follow(self.service_s, service_s)

    def ended(self, error: EdgekitError) -> None:
        """Count an error."""
        with self._lock:
            self._counts[_kind(error)] += 1

    def snapshot(self, queued: int, running: int) -> Stats:
        """Return the counts as they are now."""
        with self._lock:
            return Stats(
                **self._counts,
                queued=queued,
                running=running,
                latency_counts=tuple(self._latencies),
                latency_sum_s=self._latency_sum_s,
                service_s=self.service_s,
            )


def follow(mean: float | None, value: float) -> float:
    """Move a mean; one request that the system has held up says little about the next."""
    return value if mean is None else mean + _FOLLOW * (min(value, _OUTLIER * mean) - mean)


def is_failure(error: EdgekitError) -> bool:
    """Tell whether the model or the agent is at fault, and not the caller or the load."""
    return _kind(error) == "failed"


def _kind(error: EdgekitError) -> str:
    for kind, classes in (
        ("rejected", BusyError),
        ("dropped", DroppedError),
        ("expired", LateError),
        ("cancelled", CancelledError),
        ("refused", (BadRequestError, ConfigError, MissingToolError)),
    ):
        if isinstance(error, classes):
            return kind
    return "failed"
