"""What is drawn over time: a device's vitals and latencies, bounded in points."""

from __future__ import annotations

import functools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import orjson
import sqlalchemy as sa

from edgekit.fleet.store import queries, schema
from edgekit.fleet.store.reader import Reader
from edgekit.fleet.store.shared import WINDOW_S, rollups_of, summed, windows_within
from edgekit.runtime.sketches import LatencyHistogram

Point = tuple[float, float]
# A chart of half a screen shows no more.
MOST_POINTS = 200
# Up to so long raw samples are drawn; beyond, sums of five minutes.
RAW_S = 2 * 3600.0
_LEAST_SPAN_S = 600.0
HEAT_COLUMNS, HEAT_ROWS = 48, 20
# How a latency grows from one bucket to the next; see LatencyHistogram.
_GROWTH = 1.0513


@dataclass(frozen=True)
class Line:
    """A metric over time.

    Attributes:
        mean: Time and value.
        largest: Likewise, the largest of each five minutes; empty where samples are drawn.
    """

    mean: Sequence[Point]
    largest: Sequence[Point] = ()


@dataclass(frozen=True)
class Heat:
    """Latencies over time as a grid.

    Attributes:
        times: Begin of each column.
        edges_ms: Edges of the rows, from below; one more than rows.
        cells: Column, row and number of requests.
        p50: Per column, in milliseconds; None where nothing was asked.
        p95: Likewise.
    """

    times: Sequence[float]
    edges_ms: Sequence[float]
    cells: Sequence[tuple[int, int, int]]
    p50: Sequence[float | None]
    p95: Sequence[float | None]

    def row_of(self, latency_ms: float) -> float:
        """Return at which height a latency lies: 0 is the lower edge of the lowest row."""
        low, high = math.log(self.edges_ms[0]), math.log(self.edges_ms[-1])
        return (math.log(latency_ms) - low) / (high - low) * (len(self.edges_ms) - 1)


def vitals(
    reader: Reader, device: str, metrics: Sequence[str], since_s: float, until_s: float
) -> dict[str, Line]:
    """Return a device's vitals over time; a metric that it does not measure is left out."""
    if until_s - since_s <= RAW_S:
        found = queries.many_series(reader, device, metrics, since_s, until_s)
        return {metric: Line(thinned(points)) for metric, points in found.items() if points}
    r = schema.rollups.c
    query = sa.select(r.window_s, r.vitals).where(
        r.device == device, r.model == "", windows_within(since_s, until_s)
    )
    means: defaultdict[str, list[Point]] = defaultdict(list)
    peaks: defaultdict[str, list[Point]] = defaultdict(list)
    with reader.engine.connect() as connection:
        for window_s, text in connection.execute(query.order_by(r.window_s)):
            for metric, (count, total, largest) in orjson.loads(text).items():
                means[metric].append((float(window_s), total / count))
                peaks[metric].append((float(window_s), largest))
    return {
        metric: Line(thinned(means[metric]), thinned(peaks[metric], largest=True))
        for metric in metrics
        if metric in means
    }


def thinned(
    points: Sequence[Point], most: int = MOST_POINTS, *, largest: bool = False
) -> list[Point]:
    """Return at most so many points: means (or the largest) of equal numbers of them."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(len(points) / most)
    return [
        (
            group[0][0],
            max(v for _, v in group) if largest else sum(v for _, v in group) / len(group),
        )
        for group in (points[at : at + size] for at in range(0, len(points), size))
    ]


def heat(
    reader: Reader,
    since_s: float,
    until_s: float,
    *,
    device: str | None = None,
    model: str | None = None,
    floor_ms: float | None = None,
) -> Heat | None:
    """Return latencies over time as a grid; None where nothing was asked.

    Args:
        reader: Of the store.
        since_s: Windows that end later.
        until_s: Windows that begin before.
        device: Of one device alone.
        model: Of one model alone.
        floor_ms: A latency that must lie within the rows: the contract's.
    """
    windows = math.ceil((until_s - since_s) / WINDOW_S)
    column_s = WINDOW_S * max(1, math.ceil(windows / HEAT_COLUMNS))
    rows = rollups_of(reader, since_s, until_s, device=device, model=model)
    sums = summed(rows, lambda row: int(row["window_s"] // column_s))
    columns = {at: found.latency for at, found in sums.items() if found.latency.count}
    if not columns:
        return None
    edges = _edges(columns.values(), floor_ms)
    first, last = min(columns), max(columns)
    cells: Counter[tuple[int, int]] = Counter()
    for at, found in columns.items():
        for bucket, count in found.buckets.items():
            cells[at - first, _row(edges, _middle_ms(bucket))] += count
    every = [columns.get(at, LatencyHistogram()) for at in range(first, last + 1)]
    return Heat(
        times=[float(at * column_s) for at in range(first, last + 1)],
        edges_ms=edges,
        cells=[(column, row, count) for (column, row), count in sorted(cells.items())],
        p50=[found.percentile_ms(0.5) for found in every],
        p95=[found.percentile_ms(0.95) for found in every],
    )


def begin(since_s: float, until_s: float, lines: Iterable[Line], heat: Heat | None) -> float:
    """Return where an axis begins: with what there is, so that a young fleet fills its charts."""
    firsts = [line.mean[0][0] for line in lines if line.mean]
    firsts += [heat.times[0]] if heat is not None else []
    return max(since_s, min(min(firsts, default=since_s), until_s - _LEAST_SPAN_S))


@dataclass(frozen=True)
class Fielded:
    """What a model did on one device."""

    requests: int
    errors: int
    p50_ms: float | None
    p95_ms: float | None


def by_device(reader: Reader, model: str, since_s: float, until_s: float) -> dict[str, Fielded]:
    """Return what a model did, by device."""
    rows = rollups_of(reader, since_s, until_s, model=model, each=True)
    return {
        device: Fielded(
            sums.requests,
            sums.errors,
            sums.latency.percentile_ms(0.5),
            sums.latency.percentile_ms(0.95),
        )
        for device, sums in summed(rows, lambda row: str(row["device"])).items()
    }


@functools.lru_cache(maxsize=1024)
def _middle_ms(bucket: int) -> float:
    value = LatencyHistogram(Counter({bucket: 1}), 1, 0).percentile_ms(0.5)
    return value if value is not None else 0.0


def _edges(found: Iterable[LatencyHistogram], floor_ms: float | None) -> list[float]:
    """Return the edges of rows that hold all latencies, each as much larger than the one below."""
    buckets = [bucket for histogram in found for bucket in histogram.buckets]
    low, high = _middle_ms(min(buckets)), _middle_ms(max(buckets))
    if floor_ms is not None:
        low, high = min(low, floor_ms), max(high, floor_ms)
    low, high = low / _GROWTH, high * _GROWTH
    # No row is narrower than a bucket: one between two buckets would look empty.
    rows = max(1, min(HEAT_ROWS, math.floor(math.log(high / low) / math.log(_GROWTH))))
    return [low * (high / low) ** (row / rows) for row in range(rows + 1)]


def _row(edges: Sequence[float], latency_ms: float) -> int:
    rows = len(edges) - 1
    share = math.log(latency_ms / edges[0]) / math.log(edges[-1] / edges[0])
    return min(rows - 1, max(0, math.floor(share * rows)))
