"""Which faults there are, and who gets them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.sim.faults import FAULTS, Fault, assign, parse_fault
from edgekit.wire.errors import UsageError


def test_every_fault_says_what_it_does() -> None:
    assert set(FAULTS) == set(Fault)


def test_every_fault_is_documented() -> None:
    page = Path(__file__).resolve().parents[3] / "docs" / "simulator.md"
    text = page.read_text(encoding="utf-8")
    assert [fault for fault in Fault if f"| `{fault}` |" not in text] == []


def test_a_share_is_read() -> None:
    assert parse_fault("bad-model=0.25") == (Fault.BAD_MODEL, 0.25)


@pytest.mark.parametrize("text", ["hot", "hot=", "hot=2", "hot=nan", "hot=-0.1", "cold=0.1", "=1"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_fault(text)


def test_a_mistyped_fault_gets_the_name_that_was_meant() -> None:
    with pytest.raises(UsageError) as caught:
        parse_fault("ofline=0.1")
    assert caught.value.hint == "did you mean offline?"


@given(st.integers(1, 300), st.dictionaries(st.sampled_from(list(Fault)), st.floats(0, 1)))
def test_each_fault_gets_its_share(devices: int, shares: dict[Fault, float]) -> None:
    found = assign(devices, shares, random.Random(1))  # noqa: S311
    for fault in Fault:
        share = shares.get(fault, 0.0)
        count = sum(fault in faults for faults in found)
        assert count == (min(devices, max(1, round(share * devices))) if share else 0)
