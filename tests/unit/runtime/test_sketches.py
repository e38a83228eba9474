"""Sketches: merging is exact, percentiles keep the stated error, noise is no drift."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.runtime.sketches import (
    MAX_BUCKETS,
    MAX_CLASSES,
    MAX_MS,
    MIN_MS,
    RELATIVE_ERROR,
    ClassMix,
    LatencyHistogram,
    Reference,
    ValueSketch,
    class_counts,
    drift,
    make_reference,
    psi,
    psi_noise,
)
from edgekit.wire.errors import TrustError

LATENCIES = st.lists(st.floats(MIN_MS, MAX_MS), min_size=1, max_size=60)
VALUES = st.lists(st.floats(-1e6, 1e6), max_size=60)
LABELS = st.lists(st.sampled_from("abcdefgh"), max_size=40)
EDGES = (-10.0, 0.0, 0.5, 7.0)


def histogram(values) -> LatencyHistogram:
    made = LatencyHistogram()
    for value in values:
        made.add(value)
    return made


def sketch(values) -> ValueSketch:
    made = ValueSketch(EDGES)
    for value in values:
        made.add(value)
    return made


def mix(labels) -> ClassMix:
    made = ClassMix()
    for label in labels:
        made.add(label)
    return made


@pytest.mark.parametrize(
    ("make", "values"), [(histogram, LATENCIES), (sketch, VALUES), (mix, LABELS)]
)
@given(data=st.data())
def test_merging_is_associative_commutative_and_exact(make, values, data) -> None:
    lists = [data.draw(values) for _ in range(3)]
    a, b, c = map(make, lists)
    assert a.merged(b) == b.merged(a)
    assert a.merged(b).merged(c) == a.merged(b.merged(c))
    assert a.merged(b).merged(c) == make([*lists[0], *lists[1], *lists[2]])


@given(LATENCIES, st.sampled_from([0.0, 0.5, 0.9, 0.95, 0.99, 1.0]))
def test_percentiles_are_within_the_stated_error(values, share) -> None:
    true = sorted(values)[math.floor(share * (len(values) - 1))]
    found = histogram(values).percentile_ms(share)
    assert found is not None
    assert abs(found - true) <= RELATIVE_ERROR * true * (1 + 1e-9)


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_any_latency_finds_a_bucket(value: float) -> None:
    made = histogram([value])
    assert made.count == (0 if math.isnan(value) else 1)
    assert all(0 <= bucket < MAX_BUCKETS for bucket in made.buckets)


def test_nothing_counted_has_no_percentile() -> None:
    assert histogram([]).percentile_ms(0.5) is None
    assert histogram([]).mean_ms is None
    assert histogram([1.0, 3.0]).mean_ms == 2.0


@given(LATENCIES)
def test_a_histogram_comes_back_from_json(values) -> None:
    made = histogram(values)
    assert LatencyHistogram.from_json(json.loads(json.dumps(made.to_json()))) == made


@pytest.mark.parametrize(
    "change",
    [
        {"error": 0.05},
        {"sum_us": -1},
        {"buckets": [[0, 1], [0, 2]]},
        {"buckets": [[MAX_BUCKETS, 1]]},
        {"buckets": [[1]]},
        {"buckets": [[0, -1]]},
        {"buckets": [[0, True]]},
        {"buckets": [[0, 1]] * (MAX_BUCKETS + 1)},
    ],
)
def test_a_wrong_histogram_is_refused(change) -> None:
    with pytest.raises(TrustError):
        LatencyHistogram.from_json(histogram([1.0]).to_json() | change)


def test_a_histogram_of_a_second_is_small() -> None:
    generator = random.Random(5)  # noqa: S311
    made = histogram([generator.lognormvariate(3, 0.3) for _ in range(1000)])
    assert len(json.dumps(made.to_json())) < 900


@given(VALUES)
def test_a_sketch_comes_back_from_json(values) -> None:
    made = sketch(values)
    reference = Reference(EDGES, (0,) * 5)
    assert ValueSketch.from_json(json.loads(json.dumps(made.to_json())), reference) == made


def test_a_sketch_of_other_bins_is_refused() -> None:
    with pytest.raises(TrustError, match="another reference"):
        ValueSketch.from_json(sketch([1.0]).to_json(), Reference((1.0,), (1, 1)))
    with pytest.raises(TrustError, match="do not merge"):
        sketch([1.0]).merged(ValueSketch((1.0,)))


def test_what_is_no_number_is_counted_apart() -> None:
    made = sketch([math.nan, math.inf, -math.inf, 0.0])
    assert (made.missing, made.counts) == (1, [1, 1, 0, 0, 1])


def test_the_bins_of_a_reference_hold_about_equal_counts() -> None:
    reference = make_reference(float(i) for i in range(1000))
    assert len(reference.counts) == 10
    assert max(reference.counts) - min(reference.counts) <= 2
    assert Reference.from_json(json.loads(json.dumps(reference.to_json()))) == reference


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, math.nan, math.inf]), max_size=30))
def test_a_reference_of_repeated_values_has_no_empty_bin(values) -> None:
    reference = make_reference(values)
    finite = [value for value in values if math.isfinite(value)]
    assert sum(reference.counts) == len(finite)
    assert not finite or min(reference.counts) > 0


@pytest.mark.parametrize(
    "values",
    [
        {"edges": [2, 1], "counts": [1, 1, 1]},
        {"edges": [1, 1], "counts": [1, 1, 1]},
        {"edges": [1], "counts": [1]},
        {"edges": [float("inf")], "counts": [1, 1]},
        {"edges": ["1"], "counts": [1, 1]},
    ],
)
def test_a_wrong_reference_is_refused(values) -> None:
    with pytest.raises(TrustError):
        Reference.from_json(values)


def test_psi_of_a_worked_example() -> None:
    # Shares of 0.5 and 0.5 against 0.8 and 0.2: 0.3 ln 1.6 - 0.3 ln 0.4, but for half a count.
    assert psi([5000, 5000], [8000, 2000]) == pytest.approx(0.3 * math.log(4), abs=1e-3)
    assert psi([10, 20], [10, 20]) == pytest.approx(0.0, abs=1e-12)
    assert psi([0, 0], [1, 2]) is None
    assert psi([1, 2], [0, 0]) is None
    with pytest.raises(ValueError, match="bins"):
        psi([1], [1, 2])


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=10), st.randoms())
def test_psi_is_finite_and_not_negative(counts, generator) -> None:
    other = list(counts)
    generator.shuffle(other)
    index = psi(counts, other)
    assert index is None or (index >= -1e-12 and math.isfinite(index))


def test_the_noise_is_what_no_change_exceeds_once_in_twenty() -> None:
    generator = random.Random(11)  # noqa: S311
    above = 0
    for _ in range(1000):
        counts = [[0] * 10, [0] * 10]
        for which, n in enumerate((400, 200)):
            for _ in range(n):
                counts[which][generator.randrange(10)] += 1
        above += (psi(*counts) or 0) > psi_noise(10, 400, 200)
    assert 25 <= above <= 80


def test_drift_is_seen_and_few_values_do_not_cry_wolf() -> None:
    generator = random.Random(3)  # noqa: S311
    reference = make_reference(generator.gauss(0, 1) for _ in range(500))

    def seen(mean: float, n: int) -> object:
        made = ValueSketch(reference.edges)
        for _ in range(n):
            made.add(generator.gauss(mean, 1))
        return drift(reference.counts, made.counts).get("level")

    assert seen(0, 2000) == "none"
    assert seen(0.4, 2000) == "some"
    assert seen(1.5, 2000) == "much"
    assert [seen(0, 12) for _ in range(20)].count("none") >= 17
    assert drift(reference.counts, [0] * 10) == {}


def test_classes_are_bounded_and_cut_to_the_most_frequent() -> None:
    made = mix([str(i) for i in range(MAX_CLASSES + 50)] + ["7", "7", "9"])
    assert (len(made.counts), made.other) == (MAX_CLASSES, 50)
    top = made.top(2)
    assert (dict(top.counts), top.other) == ({"7": 3, "9": 2}, 50 + MAX_CLASSES - 2)


@given(LABELS)
def test_a_mix_comes_back_from_json(labels) -> None:
    assert ClassMix.from_json(json.loads(json.dumps(mix(labels).to_json()))) == mix(labels)


def test_a_new_class_is_drift() -> None:
    reference = {"cat": 500, "dog": 500}
    same = class_counts(reference, mix(["cat"] * 100 + ["dog"] * 100))
    new = class_counts(reference, mix(["cat"] * 100 + ["cow"] * 100))
    assert drift(*same)["level"] == "none"
    assert drift(*new)["level"] == "much"
