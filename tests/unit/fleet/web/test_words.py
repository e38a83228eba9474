"""Numbers, times, tables, filters and the verdict in words."""

from __future__ import annotations

import csv
import io
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.fleet.alerts.rows import AlertRow
from edgekit.fleet.store.rows import IngestRow, Summary
from edgekit.fleet.web.address import SORTS, STATES, Filters
from edgekit.fleet.web.tables import csv_text
from edgekit.fleet.web.verdict import verdict
from edgekit.fleet.web.words import bytes_of, count, duration, number, share


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (float("nan"), "–"), (0, "0"), (0.012345, "0.0123"), (1.0, "1"), (19.46, "19.5"),
     (100.0, "100"), (999.6, "1000"), (1234567.0, "1 234 567"), (-5.5, "-5.5"), (50, "50")],
)  # fmt: skip
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


def test_words_of_amounts():
    assert (share(0.123), share(None)) == ("12.3 %", "–")
    assert [duration(s) for s in (-1, 59, 60, 7199, 90_000, 200_000)] == [
        "0 s", "59 s", "1 min", "1 h", "25 h", "2 d",
    ]  # fmt: skip
    assert (bytes_of(0), bytes_of(1536), bytes_of(None)) == ("0 B", "1.5 KiB", "–")
    assert (count(1, "device"), count(0, "device")) == ("1 device", "0 devices")


@given(st.lists(st.lists(st.text(max_size=20), min_size=2, max_size=2), max_size=5))
def test_csv_comes_back_and_holds_no_formula(rows):
    found = list(csv.reader(io.StringIO(csv_text(("a", "b"), rows), newline="")))[1:]
    assert len(found) == len(rows)
    for row, back in zip(rows, found, strict=True):
        for cell, read in zip(row, back, strict=True):
            assert read.lstrip("'") == cell.lstrip("'")
            assert not read.startswith(("=", "+", "-", "@", "\t", "\r"))


FILTERS = st.builds(
    Filters, search=st.text(max_size=50), state=st.sampled_from(("", *STATES)),
    label=st.one_of(st.just(""), st.text(max_size=20).map(lambda t: f"k={t}")),
    model=st.text(max_size=30), sort=st.sampled_from(SORTS), descending=st.booleans(),
    page=st.integers(0, 99_998),
)  # fmt: skip


@given(FILTERS)
def test_filters_come_back_from_their_url(filters):
    assert Filters.read(dict(parse_qsl(filters.query(), keep_blank_values=True))) == filters


@given(st.dictionaries(st.sampled_from(("q", "state", "label", "model", "sort", "desc", "page")),
                       st.text(max_size=300)))  # fmt: skip
def test_no_url_makes_filters_fail(asked):
    filters = Filters.read(asked)
    assert filters.state in ("", *STATES)
    assert filters.sort in SORTS
    assert 0 <= filters.page < 100_000
    assert len(filters.search) <= 200


def summary(total=10, online=10, offline=0, never_seen=0) -> Summary:
    return Summary(total, online, offline, never_seen, 0, {}, {}, {})


def alert(severity="warning", silenced=False) -> AlertRow:
    return AlertRow(
        1, "r", "k", severity, "d", "", 1.0, "", "t", "n", 0.0, None, "", None, silenced
    )


RUNS = IngestRow(1000.0, "running", "", {})


def test_the_answer_comes_first():
    assert verdict(summary(), [], RUNS, 1001.0).level == "good"
    assert verdict(summary(), [alert(silenced=True)], RUNS, 1001.0).level == "good"
    assert verdict(summary(online=9, offline=1), [], RUNS, 1001.0).level == "look"
    assert verdict(summary(), [alert()], RUNS, 1001.0).level == "look"
    bad = verdict(summary(online=9, offline=1), [alert("critical"), alert()], RUNS, 1001.0)
    assert bad.level == "act"
    assert [reason.text for reason in bad.reasons] == [
        "1 critical alert", "1 device offline", "1 warning",
    ]  # fmt: skip
    assert verdict(summary(0, 0), [], None, 1001.0).level == "empty"


@pytest.mark.parametrize(
    ("ingest", "words"),
    [
        (None, "never run"), (IngestRow(1000.0, "stopped", "", {}), "was stopped"),
        (IngestRow(900.0, "running", "", {}), "silent for 1 min"),
        (IngestRow(1000.0, "waiting", "the disk is full", {}), "the disk is full"),
    ],
)  # fmt: skip
def test_a_fleet_that_is_not_heard_is_not_well(ingest, words):
    said = verdict(summary(), [], ingest, 1001.0)
    assert said.level == "act"
    assert words in said.reasons[0].text
