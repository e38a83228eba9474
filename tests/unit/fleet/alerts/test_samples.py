"""What a device's last sample says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.fleet.alerts.readings import DeviceFacts, Window
from edgekit.fleet.alerts.samples import FRESH_S, psi_of, with_sample

DEVICE = DeviceFacts("cam-1", {"a": "b"}, online=True, missing=2)
SAMPLE = {
    "vitals": {"temp_c": 61.8, "throttled": False, "under_voltage": True},
    "models": {
        "pets": {
            "bundle": "9f86d081884c",
            "drift": {
                "output.classes": {"psi": 0.4, "noise": 0.5, "level": "none"},
                "input.brightness": {"psi": 0.15, "noise": 0.05, "level": "some"},
            },
        }
    },
}
WINDOWS = {"pets": {300.0: Window(10, 1)}, "old": {300.0: Window(1, 0)}}


def limit_ms(bundle: str) -> float | None:
    return 40.0 if bundle == "9f86d081884c" else None


def test_a_fresh_sample_says_how_the_board_and_its_models_are():
    found = with_sample(DEVICE, SAMPLE, 5.0, WINDOWS, limit_ms)
    assert (found.temp_c, found.throttled, found.missing) == (61.8, True, 2)
    pets = found.models["pets"]
    assert (pets.psi, pets.limit_ms, pets.windows) == (0.15, 40.0, {300.0: Window(10, 1)})
    assert found.models["old"].windows == {300.0: Window(1, 0)}


def test_an_old_sample_says_nothing_of_now():
    found = with_sample(DEVICE, SAMPLE, FRESH_S + 1, WINDOWS, limit_ms)
    assert (found.temp_c, found.throttled, found.models["pets"].psi) == (None, None, None)
    assert found.models["pets"].windows, "what it did in the last minutes has a time of its own"


def test_what_is_not_measured_is_not_known():
    found = with_sample(DEVICE, {"vitals": {}}, 0.0, {}, limit_ms)
    assert (found.temp_c, found.throttled, found.models) == (None, None, {})
    assert psi_of({}) is None
    assert psi_of({"a": {"psi": 0.1, "level": "none"}}) == 0.0


@pytest.mark.parametrize("value", [True, "80", None, float("nan"), [], {"a": 1}])
def test_a_temperature_that_is_no_number_is_none(value):
    assert with_sample(DEVICE, {"vitals": {"temp_c": value}}, 0.0, {}, limit_ms).temp_c is None


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["vitals", "models", "pets", "drift", "psi"]), inner),
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["vitals", "models", "x"]), JSON))
def test_any_sample_is_read(sample):
    with_sample(DEVICE, sample, 0.0, {}, limit_ms)
