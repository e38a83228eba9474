"""Golden samples: recorded, packed, read back and compared, with and without tolerance."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgekit.runtime.golden import MAX_VALUES, Recorded, compare, from_members, record, to_members
from edgekit.runtime.tasks import create_task
from edgekit.wire.errors import TrustError
from edgekit.wire.manifest import Tolerance

EXACT = Tolerance(exact=True, absolute=0.0, cosine_min=1.0, agreement_min=1.0)
LOOSE = Tolerance(exact=False, absolute=0.05, cosine_min=0.999, agreement_min=0.9)
TASK = create_task("tensors", {"inputs": ["x"]}, {})

outputs = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
    arrays.arrays(
        st.sampled_from([np.float32, np.int64, np.uint8]),
        arrays.array_shapes(min_dims=0, max_dims=3, max_side=5),
        elements={"min_value": 0, "max_value": 100},
    ),
    min_size=1,
    max_size=3,
)


def sample(value: float = 1.0) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([value], np.float32))
    return buffer.getvalue()


def recorded(*answers, data: bytes | None = None) -> Recorded:
    """Record a model that gives these outputs."""
    return record(TASK, lambda _: dict(answers[0]), data or sample())


@given(outputs)
def test_what_is_recorded_comes_back_from_the_members(answer):
    one = recorded(answer)
    members = to_members(3, ".npy", sample(), one)
    data, again = from_members(3, members, members.__getitem__)
    assert data == sample()
    assert again.prediction == one.prediction
    assert again.sha256 == one.sha256
    assert {n: v.tolist() for n, v in again.values.items()} == {
        n: v.tolist() for n, v in one.values.items()
    }
    assert all(m.exact and m.within for m in compare(TASK, [one], [again], EXACT))


def test_every_call_of_the_model_is_kept_in_order():
    class Twice:
        def predict(self, run, _data):
            for step in (1.0, 2.0):
                run({"x": np.array([step])})
            return {}

    one = record(Twice(), lambda feeds: {"y": feeds["x"] * 10, "z": feeds["x"][:0]}, b"")
    assert one.values["y"].tolist() == [10.0, 20.0]
    assert one.values["z"].size == 0


@given(st.integers(min_value=1, max_value=5 * MAX_VALUES))
def test_long_outputs_are_thinned_but_digested_whole(size):
    values = np.arange(size, dtype=np.float32)
    one = recorded({"y": values})
    assert 0 < one.values["y"].size <= MAX_VALUES
    changed = values.copy()
    changed[-1] += 1
    assert recorded({"y": changed}).sha256 != one.sha256


@given(outputs)
def test_another_shape_or_a_missing_output_never_fits(answer):
    one = recorded(answer)
    name = next(iter(answer))
    longer = {**answer, name: np.append(answer[name].ravel(), answer[name].ravel())}
    fewer = Recorded(
        one.prediction,
        {n: v for n, v in one.values.items() if n != name},
        {n: v for n, v in one.sha256.items() if n != name},
    )
    for other in (
        Recorded(one.prediction, recorded(longer).values, recorded(longer).sha256),
        fewer,
    ):
        bad = next(m for m in compare(TASK, [one], [other], LOOSE) if m.output == name)
        assert not bad.within
        assert bad.max_abs == sys.float_info.max


@pytest.mark.parametrize(
    ("change", "within"),
    [
        (lambda v: v, True),
        (lambda v: v + 0.049 * np.float32(4), True),  # of the largest value, 4
        (lambda v: np.where(np.arange(4) == 3, v + 0.21, v), False),  # over 5 % of it
        (lambda v: v[::-1], False),
        (lambda v: v * np.float32(1.2), False),
    ],
    ids=["same", "edge", "beyond", "turned", "scaled"],
)
def test_the_tolerance_is_of_the_largest_value(change, within):
    values = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    tolerance = Tolerance(exact=False, absolute=0.05, cosine_min=0.99, agreement_min=0.9)
    one, other = recorded({"y": values}), recorded({"y": change(values).astype(np.float32)})
    (match,) = compare(TASK, [one], [other], tolerance)
    assert match.within is within


def test_a_small_output_is_measured_against_one():
    one, other = recorded({"y": np.float32([1e-3, 0])}), recorded({"y": np.float32([1e-3, 1e-4])})
    (match,) = compare(TASK, [one], [other], LOOSE)
    assert match.max_abs == pytest.approx(1e-4, rel=1e-3)
    assert match.cosine < 0.999
    assert not match.within, "each bound holds by itself"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_never_fits(bad):
    one = recorded({"y": np.float32([1, 2])})
    other = Recorded(one.prediction, {"y": np.float32([1, bad])}, {"y": "0" * 64})
    with np.errstate(invalid="ignore"):
        (match,) = compare(TASK, [one], [other], LOOSE)
    assert not match.within


def test_exact_means_every_bit():
    one = recorded({"y": np.float32([1.0])})
    other = recorded({"y": np.nextafter(np.float32([1.0]), np.float32(2))})
    (exact,) = compare(TASK, [one], [other], EXACT)
    (loose,) = compare(TASK, [one], [other], LOOSE)
    assert (exact.exact, exact.within, loose.within) == (False, False, True)
    zeros = compare(TASK, [recorded({"y": np.zeros(3)})], [recorded({"y": np.zeros(3)})], EXACT)
    assert (zeros[0].cosine, zeros[0].within) == (1.0, True)


@pytest.mark.parametrize(
    "expected",
    [
        b"{",
        b"[]",
        b'{"outputs": {}}',
        b'{"prediction": {}, "outputs": {"y": {"sha256": "0"}}}',
        b'{"prediction": {}, "outputs": {"y": {"sha256": "0", "values": "../../etc/passwd"}}}',
        b'{"prediction": {}, "outputs": {"y": {"sha256": "0", "values": "golden/00/input.npy"}}}',
    ],
)
def test_a_malformed_sample_is_no_crash(expected):
    members = to_members(0, ".npy", b"junk", recorded({"y": np.float32([1])}))
    members["golden/00/expected.json"] = expected
    with pytest.raises(TrustError, match="malformed"):
        from_members(0, members, members.__getitem__)
    with pytest.raises(TrustError, match="malformed"):
        from_members(1, members, members.__getitem__)
