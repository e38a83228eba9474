from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.wire.canonical import canonical_json
from edgekit.wire.errors import TrustError
from edgekit.wire.measurement import Kind, Measurement, Outcome, Requirement
from edgekit.wire.results import Results, parse_results

texts = st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=12)
numbers = st.floats(-1e12, 1e12)
measurements = st.builds(
    Measurement,
    texts,
    numbers,
    st.sampled_from(Kind),
    texts,
    st.none() | st.integers(0, 10**9),
    st.none() | st.tuples(numbers, numbers),
    st.none() | st.just("ab" * 32),
)
lists = st.lists(measurements, max_size=4).map(tuple)


@given(lists, lists)
def test_what_is_written_is_read_back(shipped, fp32):
    results = Results(shipped, fp32)
    assert parse_results(results.to_bytes()) == results


@given(st.binary(max_size=200))
def test_any_bytes_raise_nothing_else(data):
    with pytest.raises(TrustError):
        parse_results(data)


@pytest.mark.parametrize(
    "change",
    [
        {"value": "1"},
        {"value": True},
        {"kind": "guessed"},
        {"interval": [1]},
        {"interval": [1, 2, 3]},
        {"interval": [1, "2"]},
        {"n": 1.5},
        {"n": -1},
        {"metric": "a\x1b[2J"},
        {"more": 1},
    ],
)
def test_a_malformed_measurement_is_refused(change):
    document = json.loads(Results((Measurement("m", 1.0, Kind.MEASURED, "x"),), ()).to_bytes())
    document["shipped"][0].update(change)
    with pytest.raises(TrustError):
        parse_results(canonical_json(document))


def test_the_contract_is_judged_against_fp32():
    results = Results(
        (Measurement("accuracy", 0.95, Kind.MEASURED, "x", n=200),),
        (Measurement("accuracy", 0.97, Kind.MEASURED, "x", n=200),),
    )
    contract = [Requirement("accuracy", minimum=-0.02, vs="fp32"), Requirement("size_mib", 1.0)]
    assert [v.outcome for v in results.judge(contract)] == [Outcome.PASS, Outcome.ABSENT]
