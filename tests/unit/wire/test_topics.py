"""Topics: built, parsed, and what is no name."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.wire.errors import TrustError
from edgekit.wire.topics import LEAVES, NAMED, check_name, fleet_filter, parse_topic, shared, topic


@pytest.mark.parametrize("leaf", LEAVES)
def test_a_topic_is_parsed_as_it_was_built(leaf: str) -> None:
    name = "ocr" if leaf in NAMED else ""
    text = topic("north", "cam-01.a", leaf, name)
    parsed = parse_topic(text)
    assert (parsed.fleet, parsed.device, parsed.leaf, parsed.name) == (
        "north",
        "cam-01.a",
        leaf,
        name,
    )
    assert str(parsed) == text


def test_the_form_is_the_documented_one() -> None:
    assert topic("north", "cam-01", "telemetry") == "edgekit/1/north/cam-01/telemetry"
    assert topic("north", "cam-01", "input", "ocr") == "edgekit/1/north/cam-01/input/ocr"
    assert fleet_filter("telemetry") == "edgekit/1/+/+/telemetry"
    assert fleet_filter("output", "north") == "edgekit/1/north/+/output/+"
    assert shared("ingest", "edgekit/1/+/+/telemetry") == "$share/ingest/edgekit/1/+/+/telemetry"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "+",
        "#",
        "a/b",
        "a+",
        "..",
        ".",
        ".hidden",
        "-rf",
        "A",
        "ü",
        "a b",
        "a\n",
        "x" * 65,
        "a\0",
    ],
)
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(TrustError, match="for a topic"):
        check_name(name)
    with pytest.raises(TrustError):
        topic(name, "d", "ack")
    with pytest.raises(TrustError):
        topic("f", name, "ack")
    with pytest.raises(TrustError):
        parse_topic(f"edgekit/1/f/{name}/ack")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "edgekit/2/f/d/ack",
        "edgekit/1/f/d",
        "edgekit/1/f/d/ack/x",
        "edgekit/1/f/d/input",
        "edgekit/1/f/d/other",
        "/edgekit/1/f/d/ack",
        "edgekit/1/f/d/ack/",
        "edgekit/1/f/d/input/a/b",
        "edgekit/1/f/d/ack\n",
        "edgekit/1/f/d/" + "a" * 300,
    ],
)
def test_what_is_no_topic(text: str) -> None:
    with pytest.raises(TrustError, match="is no topic"):
        parse_topic(text)


def test_a_pipeline_stands_where_it_belongs_and_only_there() -> None:
    with pytest.raises(TrustError, match="input/NAME"):
        topic("f", "d", "input")
    with pytest.raises(TrustError, match="ends in ack"):
        topic("f", "d", "ack", "x")


@given(st.text())
def test_any_text_is_a_topic_or_refused(text: str) -> None:
    with contextlib.suppress(TrustError):
        assert str(parse_topic(text)) == text
