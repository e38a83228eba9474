"""Small mergeable summaries of many values: latencies, distributions, classes. Needs no numpy.

A device sends these instead of raw values: no data leaves it, and summaries of many periods and
devices merge into what one summary of everything would be. Percentiles do not merge, so none is
ever sent. All sums are integers, so merging is exactly associative and commutative.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from edgekit.wire.canonical import Json, digest_of
from edgekit.wire.errors import TrustError
from edgekit.wire.strict import MAX_INTEGER, Fields

# DDSketch (Masson, Rim, Lee: "DDSketch", VLDB 2019): with gamma = (1 + a) / (1 - a), a bucket's
# middle is within a of every value in it.
RELATIVE_ERROR = 0.025
_GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GAMMA = math.log(_GAMMA)
# Latencies from a microsecond to an hour: 440 buckets at most.
MIN_MS = 0.001
MAX_MS = 3_600_000.0
_OFFSET = math.ceil(math.log(MIN_MS) / _LOG_GAMMA)
MAX_BUCKETS = math.ceil(math.log(MAX_MS) / _LOG_GAMMA) - _OFFSET + 1
MAX_CLASSES = 1024
MAX_BINS = 64
MAX_LABEL = 100

PSI_SOME = 0.1
PSI_MUCH = 0.25


@dataclass
class LatencyHistogram:
    """Latencies in buckets that grow by 5.1 %, so that percentiles are within 2.5 %.

    Attributes:
        buckets: Bucket to count; only those that hold something.
        count: Values.
        sum_us: Their sum in whole microseconds.
    """

    buckets: Counter[int] = field(default_factory=Counter)
    count: int = 0
    sum_us: int = 0

    def add(self, latency_ms: float) -> None:
        """Count one latency; outside of 1 µs to 1 h it counts as the nearer end.

        Args:
            latency_ms: Milliseconds; NaN is not counted.
        """
        if math.isnan(latency_ms):
            return
        held = min(max(latency_ms, MIN_MS), MAX_MS)
        self.buckets[math.ceil(math.log(held) / _LOG_GAMMA) - _OFFSET] += 1
        self.count += 1
        self.sum_us += round(held * 1000)

    def merged(self, other: LatencyHistogram) -> LatencyHistogram:
        """Return the histogram of both's values."""
        return LatencyHistogram(
            self.buckets + other.buckets, self.count + other.count, self.sum_us + other.sum_us
        )

    def percentile_ms(self, share: float) -> float | None:
        """Return a percentile within 2.5 % of the true one; None where nothing was counted.

        Args:
            share: 0..1: 0.95 is p95, the value at place ``floor(0.95 * (n - 1))`` from below.
        """
        place = math.floor(share * (self.count - 1))
        for bucket in sorted(self.buckets):
            place -= self.buckets[bucket]
            if place < 0:
                return float(2 * _GAMMA ** (bucket + _OFFSET) / (_GAMMA + 1))
        return None

    @property
    def mean_ms(self) -> float | None:
        """Mean in milliseconds; None where nothing was counted."""
        return self.sum_us / 1000 / self.count if self.count else None

    def to_json(self) -> dict[str, Json]:
        """Return the JSON form: counts by bucket, and the error that the buckets have."""
        rows: list[Json] = [[bucket, self.buckets[bucket]] for bucket in sorted(self.buckets)]
        return {"error": RELATIVE_ERROR, "sum_us": self.sum_us, "buckets": rows}

    @classmethod
    def from_json(cls, values: dict[str, Json], where: str = "latency") -> LatencyHistogram:
        """Read the JSON form.

        Raises:
            TrustError: Not exactly that, or of other buckets.
        """
        fields = Fields(values, where)
        if fields.number("error") != RELATIVE_ERROR:
            raise fields.refuse("error", f"must be {RELATIVE_ERROR}: other buckets do not merge")
        total = fields.integer("sum_us")
        buckets: Counter[int] = Counter()
        for row in fields.array("buckets", most=MAX_BUCKETS):
            bucket, count = _pair(row, fields)
            if not 0 <= bucket < MAX_BUCKETS or bucket in buckets:
                raise fields.refuse("buckets", "has a bucket out of range, or twice")
            buckets[bucket] = count
        return cls(buckets, sum(buckets.values()), total)


@dataclass(frozen=True)
class Reference:
    """How a value was distributed at calibration: bins of about equal count, kept in the bundle.

    Attributes:
        edges: Inner edges of the bins, ascending; a value equal to an edge is in the bin below it.
        counts: Values in each bin; one more than the edges.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def digest(self) -> str:
        """8 hex digits that say which bins these are; sketches of other bins do not merge."""
        return digest_of(list(self.edges))[:8]

    def to_json(self) -> dict[str, Json]:
        """Return the JSON form."""
        return {"edges": list(self.edges), "counts": list(self.counts)}

    @classmethod
    def from_json(cls, values: dict[str, Json], where: str = "reference") -> Reference:
        """Read the JSON form.

        Raises:
            TrustError: Not exactly that.
        """
        fields = Fields(values, where)
        edges = tuple(_number(edge, fields) for edge in fields.array("edges", most=MAX_BINS - 1))
        counts = tuple(_count(n, fields) for n in fields.array("counts", most=MAX_BINS))
        if list(edges) != sorted(set(edges)) or len(counts) != len(edges) + 1:
            raise TrustError("edges must ascend, with one count more than edges", where=where)
        return cls(edges, counts)


def make_reference(values: Iterable[float], bins: int = 10) -> Reference:
    """Cut the values seen at calibration into bins of about equal count.

    Args:
        values: Finite numbers; others are left out.
        bins: How many; fewer where values repeat.
    """
    ordered = sorted(value for value in values if math.isfinite(value))
    cuts = {ordered[len(ordered) * i // bins] for i in range(1, bins)} if ordered else set()
    # An edge at the largest value would leave the bin above it empty for ever.
    edges = tuple(sorted(cut for cut in cuts if cut < ordered[-1]))
    sketch = ValueSketch(edges)
    for value in ordered:
        sketch.add(value)
    return Reference(edges, tuple(sketch.counts))


@dataclass
class ValueSketch:
    """Counts of values in the bins of a reference.

    Attributes:
        edges: The reference's.
        counts: Values in each bin.
        missing: Values that were no number.
    """

    edges: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    missing: int = 0

    def __post_init__(self) -> None:
        self.counts = list(self.counts) or [0] * (len(self.edges) + 1)

    def add(self, value: float) -> None:
        """Count one value."""
        if math.isnan(value):
            self.missing += 1
        else:
            self.counts[bisect.bisect_left(self.edges, value)] += 1

    def merged(self, other: ValueSketch) -> ValueSketch:
        """Return the sketch of both's values.

        Raises:
            TrustError: They have other bins.
        """
        if self.edges != other.edges:
            raise TrustError("sketches of different bins do not merge")
        counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        return ValueSketch(self.edges, counts, self.missing + other.missing)

    def to_json(self) -> dict[str, Json]:
        """Return the JSON form; a digest stands for the edges, which the bundle has."""
        bins = Reference(self.edges, ()).digest
        return {"bins": bins, "counts": list(self.counts), "missing": self.missing}

    @classmethod
    def from_json(
        cls, values: dict[str, Json], reference: Reference, where: str = "sketch"
    ) -> ValueSketch:
        """Read the JSON form.

        Args:
            values: The JSON form.
            reference: Of the bundle that the device ran.
            where: Its name in messages.

        Raises:
            TrustError: Not exactly that, or of the bins of another reference.
        """
        fields = Fields(values, where)
        if fields.text("bins") != reference.digest:
            raise fields.refuse("bins", "is of another reference")
        counts = [_count(n, fields) for n in fields.array("counts", most=MAX_BINS)]
        if len(counts) != len(reference.edges) + 1:
            raise fields.refuse("counts", "has another number of bins than the reference")
        return cls(reference.edges, counts, fields.integer("missing"))


@dataclass
class ClassMix:
    """How often each class was the answer.

    Attributes:
        counts: Label to count; beyond 1,024 labels new ones count as other.
        other: Answers of labels that had no place.
    """

    counts: Counter[str] = field(default_factory=Counter)
    other: int = 0

    def add(self, label: str) -> None:
        """Count one answer."""
        name = label[:MAX_LABEL]
        if name in self.counts or len(self.counts) < MAX_CLASSES:
            self.counts[name] += 1
        else:
            self.other += 1

    def merged(self, other: ClassMix) -> ClassMix:
        """Return the mix of both's answers."""
        return ClassMix(self.counts + other.counts, self.other + other.other)

    def top(self, most: int) -> ClassMix:
        """Return the mix with only its most frequent labels; the rest counts as other."""
        kept = dict(sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))[:most])
        rest = sum(self.counts.values()) - sum(kept.values())
        return ClassMix(Counter(kept), self.other + rest)

    def to_json(self) -> dict[str, Json]:
        """Return the JSON form."""
        return {"counts": dict(sorted(self.counts.items())), "other": self.other}

    @classmethod
    def from_json(cls, values: dict[str, Json], where: str = "classes") -> ClassMix:
        """Read the JSON form.

        Raises:
            TrustError: Not exactly that.
        """
        fields = Fields(values, where)
        counts = fields.mapping("counts", most=MAX_CLASSES)
        for label in counts:
            if len(label) > MAX_LABEL or not label.isprintable():
                raise fields.refuse("counts", "has a label that is too long or cannot be printed")
        found = {label: _count(n, fields) for label, n in counts.items()}
        return cls(Counter(found), fields.integer("other"))


def psi(reference: Sequence[int], seen: Sequence[int]) -> float | None:
    """Return the population stability index of two histograms over the same bins.

    ``sum((q - p) * ln(q / p))`` over the shares p and q of the bins; below 0.1 nothing, from 0.25
    much has changed (Siddiqi, "Credit Risk Scorecards", Wiley 2006, chapter 6). Half a count is
    added to each bin, so that an empty one stays finite.

    Args:
        reference: Counts at calibration.
        seen: Counts since.

    Returns:
        The index, or None where one of the two is empty.

    Raises:
        ValueError: They have different numbers of bins.
    """
    if len(reference) != len(seen):
        raise ValueError("the two have different numbers of bins")
    if not sum(reference) or not sum(seen):
        return None
    n, m = sum(reference) + len(reference) / 2, sum(seen) + len(seen) / 2
    shares = [((p + 0.5) / n, (q + 0.5) / m) for p, q in zip(reference, seen, strict=True)]
    return math.fsum((q - p) * math.log(q / p) for p, q in shares)


def psi_noise(bins: int, reference: int, seen: int) -> float:
    """Return what the index exceeds in 1 of 20 cases where nothing has changed at all.

    Without a change it is about ``(1/n + 1/m)`` times a chi-square of ``bins - 1`` degrees
    (Yurdakul and Naranjo, "Statistical properties of the population stability index", Journal of
    Risk Model Validation 14(4), 2020). With few values the usual thresholds alone would cry wolf.
    The quantile is Wilson and Hilferty's (1931) approximation.

    Args:
        bins: How many.
        reference: Values at calibration.
        seen: Values since.
    """
    degrees = max(bins - 1, 1)
    third = 2 / (9 * degrees)
    quantile = degrees * (1 - third + 1.6449 * math.sqrt(third)) ** 3
    return quantile * (1 / max(reference, 1) + 1 / max(seen, 1))


def drift(reference: Sequence[int], seen: Sequence[int]) -> dict[str, Json]:
    """Judge a histogram against its reference.

    Args:
        reference: Counts at calibration.
        seen: Counts since, in the same bins.

    Returns:
        ``psi``, ``noise``, ``n``, and ``level``: ``none``, ``some`` or ``much``. Nothing where one
        of the two is empty.
    """
    index = psi(reference, seen)
    if index is None:
        return {}
    noise = psi_noise(len(seen), sum(reference), sum(seen))
    above = index if index > noise else 0.0
    level = "much" if above >= PSI_MUCH else "some" if above >= PSI_SOME else "none"
    return {"psi": round(index, 4), "noise": round(noise, 4), "n": sum(seen), "level": level}


def class_counts(reference: Mapping[str, int], seen: ClassMix) -> tuple[list[int], list[int]]:
    """Line two class mixes up for :func:`drift`: the reference's labels, and the rest as one.

    Args:
        reference: Label to count at calibration.
        seen: Answers since.
    """
    labels = sorted(reference)
    known = [seen.counts[label] for label in labels]
    rest = sum(seen.counts.values()) - sum(known) + seen.other
    return [*(reference[label] for label in labels), 0], [*known, rest]


def _pair(row: Json, fields: Fields) -> tuple[int, int]:
    if not isinstance(row, list) or len(row) != 2:  # noqa: PLR2004 - a bucket and its count
        raise fields.refuse("buckets", "must be a list of pairs")
    return _count(row[0], fields), _count(row[1], fields)


def _count(value: Json, fields: Fields) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_INTEGER:
        raise TrustError("holds something that is no count", where=fields.name)
    return value


def _number(value: Json, fields: Fields) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e300:  # noqa: PLR2004 - infinity, NaN
        raise TrustError("holds something that is no number", where=fields.name)
    return float(value)
