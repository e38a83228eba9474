"""The contract's arithmetic: what passes, what fails, what only the device can decide."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.wire.errors import ConfigError
from edgekit.wire.measurement import Kind, Measurement, Outcome, Requirement, judge

ratios = st.floats(0, 1, allow_nan=False)


def measured(metric: str, value: float) -> Measurement:
    return Measurement(metric, value, Kind.MEASURED, "host", n=500)


def predicted(low: float, value: float, high: float) -> Measurement:
    return Measurement("latency_p95_ms", value, Kind.PREDICTED, "rpi5", interval=(low, high))


@given(value=ratios, limit=ratios)
def test_a_measured_value_passes_exactly_when_it_reaches_its_minimum(value, limit):
    [verdict] = judge([Requirement("a", minimum=limit)], [measured("a", value)], [])

    assert verdict.met == (value >= limit - 1e-9)


@pytest.mark.parametrize(
    ("band", "outcome"),
    [
        ((10, 15, 20), Outcome.PASS),
        ((20, 24, 30), Outcome.UNDECIDED),
        ((26, 30, 40), Outcome.FAIL),
    ],
)
def test_a_prediction_fails_only_when_its_whole_band_is_over_the_limit(band, outcome):
    [verdict] = judge([Requirement("latency_p95_ms", maximum=25)], [predicted(*band)], [])

    assert verdict.outcome is outcome


def test_a_difference_from_fp32_is_taken_before_the_limit():
    requirement = Requirement("top1", minimum=-0.02, vs="fp32")

    [good] = judge([requirement], [measured("top1", 0.95)], [measured("top1", 0.97)])
    [bad] = judge([requirement], [measured("top1", 0.949)], [measured("top1", 0.97)])

    assert (good.outcome, bad.outcome) == (Outcome.PASS, Outcome.FAIL)


def test_a_required_metric_that_is_absent_fails():
    [no_value] = judge([Requirement("map50", minimum=0.5)], [], [])
    [no_reference] = judge(
        [Requirement("map50", minimum=-0.1, vs="fp32")], [measured("map50", 0.9)], []
    )

    assert (no_value.outcome, no_reference.outcome) == (Outcome.ABSENT, Outcome.ABSENT)
    assert not no_value.met


@given(
    value=st.floats(-1e6, 1e6),
    n=st.none() | st.integers(1, 10**6),
    interval=st.none() | st.tuples(ratios, ratios),
    kind=st.sampled_from(Kind),
)
def test_measurements_survive_their_json_form(value, n, interval, kind):
    measurement = Measurement("m", value, kind, "here", n, interval, "ab" * 32)

    assert Measurement.from_json(measurement.to_json()) == measurement


@pytest.mark.parametrize("broken", [{}, {"metric": "a"}, {"metric": "a", "value": "x"}])
def test_a_malformed_measurement_is_named_as_such(broken):
    with pytest.raises(ConfigError, match="not a measurement"):
        Measurement.from_json(broken)
