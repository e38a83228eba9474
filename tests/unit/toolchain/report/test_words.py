"""How numbers, metrics and names are written."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.toolchain.report import words


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "0"),
        (17, "17.0"),
        (0.0577, "0.0577"),
        (999.4, "999"),
        (810132800, "810\u202f132\u202f800"),
        (0.000012, "1.20e-05"),
        (-3.14159, "-3.14"),
        (math.inf, "∞"),
        (math.nan, "not a number"),
    ],
)
def test_numbers_have_three_digits(value: float, written: str) -> None:
    assert words.number(value) == written


@given(st.floats(min_value=0.001, max_value=999))
def test_a_written_number_is_close(value: float) -> None:
    assert float(words.number(value)) == pytest.approx(value, rel=0.006)


@pytest.mark.parametrize(
    ("metric", "label", "value", "written"),
    [
        ("top1_agreement", "top1 agreement", 0.9725, "0.973"),
        ("size_mib", "model size", 5.1, "5.10 MiB"),
        ("latency_p95_ms", "latency, 95th percentile", 17.04, "17.0 ms"),
        ("roc_auc", "ROC AUC", 1.0004, "1.000"),
        ("load_ms", "load", 250.0, "250 ms"),
    ],
)
def test_metrics(metric: str, label: str, value: float, written: str) -> None:
    assert words.metric_label(metric) == label
    assert words.quantity(metric, value) == written


def test_intervals_and_limits_name_the_unit_once() -> None:
    assert words.interval("latency_p95_ms", (5.3, 8.8)) == "5.30 – 8.80 ms"
    assert words.interval("cer", (0.01, 0.02)) == "0.010 – 0.020"
    assert words.limit_text("size_mib", "≤ 6") == "≤ 6 MiB"
    assert words.limit_text("top1_accuracy", "≥ fp32 - 0.02") == "≥ fp32 − 0.02"


def test_sizes() -> None:
    assert words.byte_size(12) == "12.0 B"
    assert words.byte_size(3_157_043) == "3.01 MiB"
    assert words.byte_size(5 << 30) == "5.00 GiB"


@given(st.text(max_size=80), st.integers(min_value=4, max_value=40))
def test_a_shortened_name_fits_and_keeps_both_ends(text: str, length: int) -> None:
    short = words.shorten(text, length)
    whole = words.printable(" ".join(text.split()))
    assert len(short) <= length
    if len(whole) > length:
        assert whole.startswith(short.split("…")[0])
        assert "…" in short


def test_names_lose_what_they_share() -> None:
    names = ["/model/stft/Conv", "/model/encoder/0/cv/Conv", "/model/encoder/1/cv/Conv"]
    assert words.without_common_parts(names) == ["stft", "encoder/0/cv", "encoder/1/cv"]
    assert words.without_common_parts(["/a/b/Conv"]) == ["/a/b/Conv"]
    assert words.without_common_parts(["/a/Conv", "/a/Conv"]) == ["Conv", "Conv"]
    assert words.without_common_parts([]) == []


@given(st.lists(st.text(alphabet="ab/", max_size=8), max_size=5))
def test_names_that_differ_still_differ(names: list[str]) -> None:
    stripped = {name.strip("/") for name in names}
    assert len(set(words.without_common_parts([*stripped]))) == len(stripped)


def test_provenance() -> None:
    assert words.provenance({"kind": "measured", "where": "x86-64-vnni host"}) == "measured here"
    assert words.provenance({"kind": "measured", "where": "model file"}) == "measured"
    assert words.provenance({"kind": "predicted", "where": "rpi5"}) == "predicted"


def test_what_ships_is_said_once():
    why = "with static int8, it takes 1.5 x the time of fp32 (predicted)"
    assert words.ships("fp32", f"fp32 is kept: {why}") == f"Ships as fp32: {why}"
    met = "static int8 meets the contract at 0.50 x the time of fp32 (predicted)"
    assert words.ships("int8 static", met) == f"Ships as int8 static: {met}"
