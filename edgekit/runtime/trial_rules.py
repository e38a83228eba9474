"""When a trial is stood, and what of it is over its limit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from edgekit.runtime.trial_state import Counts

# A 95th percentile is over its limit exactly when more than this share is: counting is enough.
SLOW_SHARE = 0.05
# Three standard deviations: an early verdict is wrong about once in 700 (one-sided normal tail).
_SURE_Z = 3.0


@dataclass(frozen=True)
class TrialRules:
    """When a trial is stood.

    Attributes:
        duration_s: Time that a bundle serves on trial, at least.
        min_requests: Requests that it must have seen by then; golden samples fill the gap.
        max_duration_s: Time after which a trial without enough requests is given up.
        max_error_share: Largest share of requests that it may fail, 0..1.
        early_requests: Requests after which it may be reverted before the time is over.
        max_restarts: Starts of the process during the trial or the self-test that no clean stop
            preceded; one more reverts.
        max_fetch_restarts: The same while it is fetched.
        request_deadline_s: Longest time that one request may take in the model.
        start_deadline_s: Longest time that it may take to load.
        self_test_deadline_s: Longest time until the self-test has said something.
        save_every_s: How often the counts are kept during a trial.
    """

    duration_s: float = 600.0
    min_requests: int = 20
    max_duration_s: float = 3600.0
    max_error_share: float = 0.05
    early_requests: int = 10
    max_restarts: int = 1
    max_fetch_restarts: int = 20
    request_deadline_s: float = 30.0
    start_deadline_s: float = 120.0
    self_test_deadline_s: float = 900.0
    save_every_s: float = 60.0


DEFAULT_RULES = TrialRules()


def verdict(counts: Counts, latency_p95_max_ms: float | None, rules: TrialRules) -> str | None:
    """Say what of a whole trial is over its limit; None where nothing is.

    Args:
        counts: Of the trial.
        latency_p95_max_ms: The contract's limit; None where it has none.
        rules: Of the trial.
    """
    return _over(counts, latency_p95_max_ms, rules, _share)


def early_verdict(
    counts: Counts, latency_p95_max_ms: float | None, rules: TrialRules
) -> str | None:
    """Say what is so far over its limit that the rest of the trial cannot be waited for.

    Args:
        counts: Of the trial up to now.
        latency_p95_max_ms: The contract's limit; None where it has none.
        rules: Of the trial.
    """
    if counts.requests < rules.early_requests:
        return None
    return _over(counts, latency_p95_max_ms, rules, _surely)


def _over(
    counts: Counts,
    limit_ms: float | None,
    rules: TrialRules,
    share: Callable[[int, int], float],
) -> str | None:
    if share(counts.errors, counts.requests) > rules.max_error_share:
        return f"{counts.errors} of {counts.requests} requests failed"
    answers = counts.requests - counts.errors
    if limit_ms is not None and share(counts.slow, answers) > SLOW_SHARE:
        return f"{counts.slow} of {answers} answers took over {limit_ms:g} ms, the contract's p95"
    return None


def _share(hits: int, n: int) -> float:
    return hits / n if n else 0.0


def _surely(hits: int, n: int) -> float:
    """Return the lower bound of Wilson's score interval (1927, JASA 22) of a proportion."""
    if n == 0:
        return 0.0
    p, z2 = hits / n, _SURE_Z * _SURE_Z
    half = _SURE_Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return (p + z2 / (2 * n) - half) / (1 + z2 / n)
