"""The arithmetic of a benchmark: windows of time, percentiles, and where the plateau begins.

Pure; clocks stand outside. A board that is busy heats up and slows down, so what it does in its
first seconds is not what it does all day. The run is cut into windows of equal time, and the
plateau is the longest tail of windows whose medians all lie within 2 % of each other, the highest
against the lowest; with fewer than five windows in that tail there is none yet.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from edgekit.wire.canonical import Json

TOLERANCE = 0.02
MIN_WINDOWS = 5
# Latencies kept a window; of more, a random sample: 64 windows hold 2 MB.
MAX_KEPT = 4096
QUANTILES = {"p50_ms": 0.5, "p90_ms": 0.9, "p95_ms": 0.95, "p99_ms": 0.99}
PLATEAU_RULE = (
    f"the longest tail of at least {MIN_WINDOWS} windows whose medians lie within "
    f"{TOLERANCE:.0%} of each other"
)


class Reservoir:
    """A uniform random sample of bounded size (Vitter's algorithm R, ACM TOMS 11(1), 1985).

    Args:
        choices: Randomness; a seeded one repeats.
        most: Values kept.

    Attributes:
        values: The sample.
        count: Values that were added.
        total: Their sum.
    """

    def __init__(self, choices: random.Random, most: int = MAX_KEPT) -> None:
        self.values: list[float] = []
        self.count = 0
        self.total = 0.0
        self._choices = choices
        self._most = most

    def add(self, value: float) -> None:
        """Add a value."""
        self.count += 1
        self.total += value
        if len(self.values) < self._most:
            self.values.append(value)
            return
        place = int(self._choices.random() * self.count)
        if place < self._most:
            self.values[place] = value


def quantiles(reservoirs: Iterable[Reservoir]) -> dict[str, Json]:
    """Return count, mean and percentiles of all values, the nearest rank as a self-test takes it.

    Args:
        reservoirs: Of windows; one that kept a part of its values counts as all of them.

    Returns:
        ``n``, ``mean_ms``, ``p50_ms``, ``p90_ms``, ``p95_ms``, ``p99_ms``; ``n`` alone where there
        is no value.
    """
    held = [r for r in reservoirs if r.count]
    n = sum(r.count for r in held)
    if not n:
        return {"n": 0}
    weighted = sorted((value, r.count / len(r.values)) for r in held for value in r.values)
    found: dict[str, Json] = {"n": n, "mean_ms": _ms(math.fsum(r.total for r in held) / n)}
    for name, share in QUANTILES.items():
        found[name] = _ms(_at(weighted, share * n))
    return found


def _at(weighted: Sequence[tuple[float, float]], rank: float) -> float:
    below = 0.0
    for value, weight in weighted:
        below += weight
        if below >= rank - 1e-6 * rank:
            return value
    return weighted[-1][0]


def _ms(value: float) -> float:
    return float(f"{value:.5g}")


@dataclass
class Window:
    """A spell of the run.

    Attributes:
        start_s: Since the run began.
        end_s: Its last request's end, since the run began.
        calls: Milliseconds in the model, a call each.
        requests: Milliseconds of whole requests: pre-processing, model, post-processing.
        vitals: How the board was at its end; what it cannot measure is absent.
    """

    start_s: float
    end_s: float
    calls: Reservoir
    requests: Reservoir
    vitals: dict[str, Json] = field(default_factory=dict)

    def to_json(self) -> dict[str, Json]:
        """Return the JSON form."""
        found = quantiles([self.calls])
        return {
            "start_s": round(self.start_s, 3),
            "end_s": round(self.end_s, 3),
            "requests": self.requests.count,
            "calls": self.calls.count,
            **{name: found[name] for name in ("p50_ms", "p90_ms", "p99_ms") if name in found},
            **self.vitals,
        }


class Recorder:
    """Sorts latencies into windows.

    Args:
        window_s: Least length of a window.
        seed: Of which latencies are kept where there are too many.
    """

    def __init__(self, window_s: float, seed: int = 0) -> None:
        self.windows: list[Window] = []
        self._window_s = window_s
        self._choices = random.Random(seed)  # noqa: S311 - a sample, not a secret
        self._open: Window | None = None

    def add(self, at_s: float, request_ms: float, calls_ms: Sequence[float]) -> Window | None:
        """Add a request.

        Args:
            at_s: Its end, since the run began.
            request_ms: What it took.
            calls_ms: What each call of the model in it took.

        Returns:
            The window, if this request has closed it.
        """
        window = self._open
        if window is None:
            start_s = self.windows[-1].end_s if self.windows else 0.0
            kept = (Reservoir(self._choices), Reservoir(self._choices))
            window = self._open = Window(start_s, at_s, *kept)
        window.end_s = at_s
        window.requests.add(request_ms)
        for call_ms in calls_ms:
            window.calls.add(call_ms)
        if at_s - window.start_s < self._window_s:
            return None
        self._open = None
        self.windows.append(window)
        return window

    def close(self) -> None:
        """Keep the window that is open, if it is at least half as long as the others are."""
        window, self._open = self._open, None
        if window is None:
            return
        if not self.windows or window.end_s - window.start_s >= self._window_s / 2:
            self.windows.append(window)


def plateau_start(medians: Sequence[float]) -> int | None:
    """Find the plateau.

    Args:
        medians: Of the windows, in their order; over 0.

    Returns:
        Index of its first window; None where there is none yet.
    """
    low, high, start = math.inf, 0.0, len(medians)
    while start > 0:
        low, high = min(low, medians[start - 1]), max(high, medians[start - 1])
        if high > low * (1 + TOLERANCE):
            break
        start -= 1
    return start if len(medians) - start >= MIN_WINDOWS else None


def summarise(windows: Sequence[Window], *, sustained: bool) -> dict[str, Json]:
    """Return what a run came to, and which windows it is of.

    A short run counts all of its windows. A sustained one counts its plateau; where it has reached
    none, its last third, and says so.

    Args:
        windows: In their order.
        sustained: Whether the plateau is what is asked for.
    """
    medians = [float(str(quantiles([w.calls]).get("p50_ms", 0.0))) for w in windows]
    start = plateau_start(medians) if sustained else 0
    basis: dict[str, Json] = {"windows": "all"}
    if sustained:
        basis = {"windows": "plateau", "rule": PLATEAU_RULE, "reached": start is not None}
        if start is None:
            start = len(windows) * 2 // 3
            basis["windows"] = "the last third: no plateau was reached"
    counted = windows[start or 0 :]
    if not counted:
        return {"basis": basis, "model_call": {"n": 0}, "request": {"n": 0}}
    from_s, to_s = counted[0].start_s, counted[-1].end_s
    basis |= {"from_s": round(from_s, 3), "to_s": round(to_s, 3), "count": len(counted)}
    requests = quantiles(w.requests for w in counted)
    done = sum(w.requests.count for w in counted)
    if to_s > from_s:
        requests["per_s"] = float(f"{done / (to_s - from_s):.5g}")
    summary: dict[str, Json] = {
        "basis": basis,
        "model_call": quantiles(w.calls for w in counted),
        "request": requests,
    }
    return summary | {"vitals": middle} if (middle := _middle(counted)) else summary


def _middle(windows: Sequence[Window]) -> dict[str, Json]:
    """Return the median of each number that the board gave in these windows."""
    found: dict[str, Json] = {}
    for name in sorted({name for w in windows for name in w.vitals}):
        values = sorted(v for w in windows if (v := _number(w.vitals, name)) is not None)
        if values:
            found[name] = values[len(values) // 2]
    return found


def _number(values: Mapping[str, Json], name: str) -> float | None:
    value = values.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
