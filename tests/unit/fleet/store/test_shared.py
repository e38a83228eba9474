"""Five-minute sums: which of them a time overlaps, and how they add up."""

from __future__ import annotations

import json

import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from edgekit.fleet.store import schema
from edgekit.fleet.store.shared import WINDOW_S, summed, windows_within
from edgekit.runtime.sketches import LatencyHistogram

DAY_S = 86_400
LATENCIES = st.lists(st.floats(0.001, 3_000_000.0), max_size=30)


@given(
    st.floats(0, 2 * DAY_S) | st.integers(0, 600).map(lambda n: float(WINDOW_S * n)),
    st.floats(-DAY_S, 2 * DAY_S) | st.integers(-9, 600).map(lambda n: float(WINDOW_S * n)),
)
def test_windows_are_those_that_a_time_overlaps(since_s, lasts_s):
    until_s = since_s + lasts_s
    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection:
        schema.rollups.create(connection)
        every = range(0, 5 * DAY_S, WINDOW_S)
        rest = dict.fromkeys(("samples", "requests", "errors", "rejected"), 0)
        rest |= dict.fromkeys(("device", "model", "latency", "vitals"), "")
        rows = [{"window_s": window_s, **rest} for window_s in every]
        connection.execute(sa.insert(schema.rollups), rows)
        query = sa.select(schema.rollups.c.window_s).where(windows_within(since_s, until_s))
        found = set(connection.execute(query).scalars())
    engine.dispose()
    assert found == {w for w in every if w + WINDOW_S > since_s and w < until_s}


@given(st.lists(LATENCIES, max_size=5))
def test_sums_are_those_of_all_values(windows):
    rows, every = [], LatencyHistogram()
    for latencies in windows:
        histogram = LatencyHistogram()
        for latency_ms in latencies:
            histogram.add(latency_ms)
            every.add(latency_ms)
        latency = json.dumps([histogram.buckets, histogram.sum_us])
        rows.append({"requests": len(latencies), "errors": 1, "latency": latency})
    found = summed(rows, lambda _row: "all")
    if rows:
        sums = found["all"]
        assert (sums.requests, sums.errors, sums.latency) == (every.count, len(rows), every)
