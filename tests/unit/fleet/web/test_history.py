"""What is drawn over time: bounded, and true to what was stored."""

from __future__ import annotations

import math
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.fleet.store import queries
from edgekit.fleet.web import charts, history
from edgekit.fleet.web.contracts import Promise
from edgekit.fleet.web.figures import FIELD, SELF_TEST, compare
from edgekit.fleet.web.history import HEAT_ROWS, MOST_POINTS, thinned
from edgekit.wire.measurement import Kind, Measurement, Requirement

POINTS = st.lists(
    st.tuples(st.floats(0, 1e9), st.floats(-1e6, 1e6)), max_size=3000, unique_by=lambda p: p[0]
).map(sorted)


@given(POINTS, st.integers(1, 700))
def test_thinning_keeps_bounds_and_the_largest(points, most):
    found = thinned(points, most, largest=True)
    assert len(found) <= most
    if points:
        assert max(v for _, v in found) == max(v for _, v in points)
        assert found[0][0] == points[0][0]
        low, high = min(v for _, v in points), max(v for _, v in points)
        slack = 1e-6 * max(1.0, abs(low), abs(high))
        assert all(low - slack <= v <= high + slack for _, v in thinned(points, most))


@pytest.fixture
def reader(serve, lived):
    return serve(lived).opened.reader


def span(reader):
    until_s = time.time() + 60
    return until_s - 4 * 3600, until_s


def test_vitals_of_samples_and_of_sums_agree(reader):
    name = queries.devices(reader).rows[0].name
    since_s, until_s = span(reader)
    wide = history.vitals(reader, name, ("temp_c", "nothing"), since_s, until_s)
    near = history.vitals(reader, name, ("temp_c", "nothing"), until_s - 3600, until_s)
    assert set(wide) == set(near) == {"temp_c"}
    assert len(near["temp_c"].mean) <= MOST_POINTS
    mean = lambda points: sum(v for _, v in points) / len(points)  # noqa: E731
    assert mean(wide["temp_c"].mean) == pytest.approx(mean(near["temp_c"].mean), rel=0.02)
    assert max(v for _, v in wide["temp_c"].largest) == max(v for _, v in near["temp_c"].mean)


def test_the_heat_holds_every_request(reader):
    since_s, until_s = span(reader)
    heat = history.heat(reader, since_s, until_s, model="pets", floor_ms=1000.0)
    counted = queries.latency(reader, since_s=since_s, until_s=until_s, model="pets")
    assert sum(n for *_, n in heat.cells) == sum(point.n for point in counted)
    assert len(heat.edges_ms) <= HEAT_ROWS + 1
    assert heat.edges_ms[-1] >= 1000.0
    assert all(0 <= row < len(heat.edges_ms) - 1 for _, row, _ in heat.cells)
    assert heat.row_of(heat.edges_ms[3]) == pytest.approx(3)
    assert history.heat(reader, 0.0, 1.0) is None
    options = charts.latency_heat(heat, 25.0)
    assert options["series"][2]["markLine"]["data"] == [{"yAxis": heat.row_of(25.0)}]


def test_devices_in_the_field(reader):
    since_s, until_s = span(reader)
    found = history.by_device(reader, "pets", since_s, until_s)
    assert found
    one = next(iter(found.values()))
    assert one.requests > 0
    assert one.p50_ms <= one.p95_ms


def promise() -> Promise:
    contract = (
        Requirement("latency_p95_ms", maximum=25.0),
        Requirement("top1_agreement", minimum=0.97),
    )
    shipped = (
        Measurement("latency_p95_ms", 17.0, Kind.PREDICTED, "rpi5", interval=(10.0, 24.0)),
        Measurement("top1_agreement", 0.98, Kind.MEASURED, "host", n=500, interval=(0.96, 0.99)),
        Measurement("size_mib", 4.5, Kind.MEASURED, "host"),
    )
    return Promise("a" * 64, "Pets", "rpi5", 3, "int8 static", contract, shipped)


def test_figures_stand_side_by_side_those_of_the_contract_first():
    tests = {"cam-1": {"latency_p95_ms": 20.0}, "cam-2": {"latency_p95_ms": 22.0}}
    field = {"cam-1": {"p50": 15.0, "p95": 24.0}, "cam-2": {"p50": 19.0, "p95": 26.0}}
    found = compare(promise(), tests, field)
    assert [row.metric for row in found] == [
        "latency_p95_ms", "top1_agreement", "latency_p50_ms", "size_mib",
    ]  # fmt: skip
    assert [figure.source for figure in found[0].figures] == ["predicted", SELF_TEST, FIELD]
    assert found[0].over == 1
    assert (found[0].unit, found[1].unit, found[3].unit) == ("ms", "", "MiB")
    assert compare(None, {}, {}) == []


@given(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=1000))
def test_many_devices_are_thinned_with_both_ends(values):
    field = {str(n): {"p95": value} for n, value in enumerate(values)}
    (row,) = [r for r in compare(None, {}, field) if r.metric == "latency_p95_ms"]
    (figure,) = row.figures
    assert len(figure.values) <= 300
    assert (figure.values[0], figure.values[-1]) == (min(values), max(values))
    assert figure.n == len(values)


def keys(value) -> set[str]:
    if isinstance(value, dict):
        return set(value) | {key for item in value.values() for key in keys(item)}
    if isinstance(value, list | tuple):
        return {key for item in value for key in keys(item)}
    return set()


def test_no_name_of_a_device_becomes_code():
    # Keys that begin with a colon are evaluated in the browser.
    evil = ":alert(1)"
    drawn = [
        charts.treemap([(evil, 3, 1)]),
        charts.strip([(evil, "#000", [1.0], None)], "ms", (2.0, True)),
    ]  # fmt: skip
    for options in drawn:
        assert evil not in keys(options)
        code = [v for v in flat(options) if isinstance(v, str) and "alert" in v]
        assert all(evil in text for text in code)


def flat(value):
    if isinstance(value, dict):
        for key, item in value.items():
            if key.startswith(":"):
                assert "alert(1)" not in item
            yield from flat(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from flat(item)
    else:
        yield value


def test_charts_of_little():
    line = history.Line([(0.0, 1.0)])
    options = charts.over_time([("a", "#000", line)], "°C", (0.0, 1.0), limit=("most", 2.0))
    assert options["series"][0]["showSymbol"]
    one = charts.strip([("a", "#000", [5.0], None)], "", None)
    assert one["xAxis"]["min"] < 5.0 < one["xAxis"]["max"]
    assert math.isfinite(one["xAxis"]["max"])


def test_samples_of_a_batch_are_as_far_apart_as_they_were_measured(reader):
    (row, *_) = queries.devices(reader).rows
    found = queries.series(reader, row.name, "temp_c", 0.0, 4e9)
    steps = [after - before for (before, _), (after, _) in pairwise(found)]
    assert len(steps) > 100
    assert all(step == pytest.approx(10.0, abs=0.5) for step in steps)


def test_no_line_is_drawn_across_a_silence():
    points = [(float(t), 1.0) for t in (*range(0, 100, 10), *range(1000, 1050, 10))]
    found = charts.broken(points)
    assert [value for _, value in found].count(None) == 1
    assert [point for point in found if point[1] is not None] == points
    assert charts.broken([]) == []
    assert charts.broken(points[:1]) == points[:1]
    assert charts.broken(points[:10]) == points[:10]


def test_a_value_between_two_silences_is_drawn_as_a_point():
    together = history.Line([(float(t), 1.0) for t in range(0, 100, 10)])
    alone = history.Line([*together.mean, (1000.0, 2.0), (2000.0, 1.0), (2010.0, 1.0)])
    for line, shown in ((together, False), (alone, True)):
        options = charts.over_time([("a", "#000", line)], "°C", (0.0, 2100.0))
        assert options["series"][0]["showSymbol"] is shown


@given(st.floats(0, 1e15))
def test_gridlines_of_bytes_are_few_and_round(largest):
    step = charts.byte_step(largest)
    assert largest / step <= 5
    unit = 1024 ** max(0, int(math.log(max(largest, 1), 1024)))
    assert any(
        step == max(1, round(unit * n * p)) for n in (1, 2, 5) for p in (0.1, 1, 10, 100, 1000)
    )


@given(st.floats(1e-3, 1e5), st.floats(1.5, 1e6))
def test_gridlines_of_a_log_scale_are_round(low, ratio):
    found = charts.round_values(low, low * ratio)
    assert found == sorted(found)
    assert 2 <= len(found) <= 20
    assert low <= found[0] <= found[-1] <= low * ratio
