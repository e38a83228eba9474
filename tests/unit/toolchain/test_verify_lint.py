"""Calibration lint, and what accuracy is measured as."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.runtime.tasks import Agreement
from edgekit.toolchain.readers import Sample
from edgekit.toolchain.samples import SampleSet
from edgekit.toolchain.verify import (
    MIN_CALIBRATION_SAMPLES,
    accuracy_measurements,
    lint_count,
    lint_feeds,
    lint_ranges,
    predict_all,
    record_feeds,
)
from edgekit.wire.errors import ConfigError


def samples(count: int, labelled: bool = False) -> SampleSet:
    made = [
        Sample(f"{i}.bin", bytes([i]), ".bin", i % 2 if labelled else None) for i in range(count)
    ]
    return SampleSet(tuple(made), "0" * 64)


@pytest.mark.parametrize(
    ("count", "says"),
    [(0, "no calibration data"), (1, "1 calibration samples are too few"), (15, "too few")],
)
def test_too_little_is_refused(count, says):
    with pytest.raises(ConfigError, match=says) as refused:
        lint_count(samples(count), "models/m.toml")
    assert refused.value.where == "models/m.toml"
    assert refused.value.hint


def test_enough_is_enough():
    lint_count(samples(MIN_CALIBRATION_SAMPLES), "models/m.toml")


def feeds(*arrays):
    return [{"x": np.asarray(a)} for a in arrays]


@pytest.mark.parametrize(
    "given_feeds",
    [
        feeds(np.zeros((1, 4)), np.ones((1, 4))),
        feeds(np.zeros((1, 4)), np.zeros((1, 5))),  # as long as the shape differs, it changes
        feeds(np.zeros(3, np.int64), np.zeros(3, np.int64)),  # masks may well be constant
        feeds(np.float32([1.0]), np.float32([1.0])),  # a lone number is a setting
    ],
    ids=["values", "shapes", "integers", "scalar"],
)
def test_feeds_that_may_pass(given_feeds):
    lint_feeds(given_feeds, "here")


def test_a_constant_input_is_named_even_beside_one_that_changes():
    constant = [
        {"a": np.full((2, 2), i, np.float32), "b": np.ones(3, np.float32)} for i in range(4)
    ]
    with pytest.raises(ConfigError, match='input "b" is the same'):
        lint_feeds(constant, "here")


bounds = st.floats(min_value=-100, max_value=100)


@given(low=bounds, width=st.floats(min_value=0.01, max_value=50), out=st.floats(0, 0.49))
def test_a_little_beyond_the_range_is_no_fault(low, width, out):
    seen = (low - out * width, low + width + out * width)
    lint_ranges({"t": (low, low + width)}, {"t": seen}, "here")


@given(low=bounds, width=st.floats(min_value=0.01, max_value=50), out=st.floats(0.51, 10))
def test_far_beyond_it_is(low, width, out):
    for seen in ((low - out * width, low), (low, low + width + out * width)):
        with pytest.raises(ConfigError, match="1 of 1 tensors leave their calibrated range"):
            lint_ranges({"t": (low, low + width)}, {"t": seen}, "here")


@pytest.mark.parametrize(("far", "refused"), [(0, False), (1, False), (2, True), (4, True)])
def test_a_quarter_of_the_tensors_may_be_far(far, refused):
    calibrated = {f"t{i}": (0.0, 1.0) for i in range(4)}
    seen = {f"t{i}": (0.0, 9.0 if i < far else 1.0) for i in range(4)}
    if not refused:
        lint_ranges(calibrated, seen, "here")
        return
    with pytest.raises(ConfigError, match=f"{far} of 4"):
        lint_ranges(calibrated, seen, "here")


def test_a_tensor_that_evaluation_never_saw_counts_as_fine():
    lint_ranges({"t": (0.0, 1.0), "u": (0.0, 1.0)}, {"t": (0.0, 1.0)}, "here")


class Echo:
    """A task that feeds a sample's byte twice and predicts it."""

    def predict(self, run, data):
        if data == b"\x07":
            raise ConfigError("not this one", hint="another")
        for _ in range(2):
            run({"x": np.array([data[0]], np.float32)})
        return {"value": data[0]}

    def agreement(self, reference, other):
        scores = tuple(float(a == b) for a, b in zip(reference, other, strict=True))
        return Agreement("agreement", sum(scores) / len(scores), scores)


@pytest.mark.parametrize(("limit", "kept"), [(100, 10), (10, 10), (4, 4), (1, 1)])
def test_feeds_are_kept_evenly_over_all_calls(limit, kept):
    done = []
    found = record_feeds(Echo(), lambda _: {}, samples(5), limit, done.append)
    assert [len(found), done] == [kept, [1, 2, 3, 4, 5]]
    assert found[0]["x"][0] == 0
    values = [feed["x"][0] for feed in found]
    assert values == sorted(values)


def test_a_sample_that_fails_is_named():
    with pytest.raises(ConfigError, match="not this one") as failed:
        predict_all(Echo(), lambda _: {}, samples(9), lambda _: None)
    assert (failed.value.where, failed.value.hint) == ("7.bin", "another")


@given(wrong=st.integers(min_value=0, max_value=6))
def test_agreement_carries_n_interval_and_the_digest_of_its_data(wrong):
    reference = [{"value": i} for i in range(6)]
    other = [{"value": i + (i < wrong)} for i in range(6)]
    (found,) = accuracy_measurements(Echo(), None, samples(6), reference, other, "here")
    assert (found.metric, found.n, found.where) == ("agreement", 6, "here")
    assert found.value == pytest.approx((6 - wrong) / 6)
    assert found.interval is not None
    assert found.interval[0] <= found.value <= found.interval[1]
    assert found.data_sha256 == "0" * 64
