"""The candidates that no other one beats in accuracy, latency and size at once."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.toolchain.decide import Judged


def frontier(judged: Sequence[Judged]) -> list[bool]:
    """Tell for each candidate whether it is on the Pareto frontier.

    Args:
        judged: Candidates whose first measurement is their accuracy: more is better.

    Returns:
        False where another candidate is as good in all three and better in one.
    """
    scores = [
        (-j.measurements[0].value, j.latency_ratio, j.candidate.graph.size_bytes) for j in judged
    ]
    return [not any(_beats(other, score) for other in scores) for score in scores]


def _beats(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))
