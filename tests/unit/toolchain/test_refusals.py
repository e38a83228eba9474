"""Plans with the same reason are told together."""

from hypothesis import given
from hypothesis import strategies as st

from edgekit.toolchain.refusals import summed_up

SMALL = "the file would not be smaller"


def test_plans_with_the_same_reason_are_told_together():
    assert summed_up({}) == []
    assert summed_up({"a": f"a: {SMALL}"}) == [f"a: {SMALL}"]
    refused = {"a": f"a: {SMALL}", "b": "it is slow", "c": f"c: {SMALL}"}
    assert summed_up(refused) == [f"a and 1 other plan: {SMALL}", "b: it is slow"]
    assert summed_up(refused | {"d": SMALL})[0] == f"a and 2 other plans: {SMALL}"


names = st.text("abc ", min_size=1, max_size=4)


@given(st.dictionaries(names, st.sampled_from(["x", "y", "z"]), min_size=1))
def test_each_reason_is_told_once(refused):
    assert len(summed_up(refused)) == len(set(refused.values()))
