"""One number for each rule and subject."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgekit.fleet.alerts.kinds import KINDS
from edgekit.fleet.alerts.machine import Key, Reading, step
from edgekit.fleet.alerts.notice import texts
from edgekit.fleet.alerts.readings import DeviceFacts, ModelFacts, ServerFacts, Window, facts
from edgekit.fleet.alerts.rules import Silence, default_rule

RULES = {name: default_rule(kind) for name, kind in KINDS.items()}
MODEL = ModelFacts({900.0: Window(100, 0, 50.0), 300.0: Window(100, 7)}, limit_ms=40.0, psi=0.3)
BAD = DeviceFacts(
    "cam-1",
    {"site": "roof"},
    online=False,
    temp_c=85.0,
    throttled=True,
    missing=3,
    models={"pets": MODEL},
)
SERVER = ServerFacts(ingest_silent_s=60.0, disk_used_share=0.97)


def readings(rules=RULES, silences=(), device=BAD):
    return facts(rules, silences, [device], SERVER, 1000.0).readings


def test_every_kind_has_a_number_that_opens_it():
    found = readings()
    assert {key.rule for key in found} == set(KINDS)
    rules = {name: replace(rule, for_s=0.0) for name, rule in RULES.items()}
    state, actions = step({}, facts(rules, (), [BAD], SERVER, 1000.0), 1000.0)
    assert len(state) == len(KINDS)
    assert len(actions) == 2 * len(KINDS)


def test_nothing_known_is_nothing_open():
    empty = DeviceFacts("cam-1", models={"pets": ModelFacts()})
    found = facts(RULES, (), [empty], ServerFacts(), 1000.0).readings
    assert len(found) == len(KINDS)
    assert {reading.value for reading in found.values()} == {None}


def test_latency_is_told_in_milliseconds_against_the_contract():
    key = Key("latency", "cam-1", "pets")
    reading = readings()[key]
    assert reading == Reading(1.25, False, "50 ms", "40 ms")
    text, todo = texts(RULES["latency"], key, 1.25, reading)
    assert text == "pets on cam-1 has a p95 latency of 50 ms, over 40 ms"
    assert "edgekit fleet show cam-1" in todo
    own = RULES | {"latency": replace(RULES["latency"], limit_ms=100.0)}
    assert readings(own)[key].value == 0.5


@pytest.mark.parametrize(("kind", "key"), [("latency", 900.0), ("errors", 300.0)])
def test_few_requests_tell_nothing(kind, key):
    few = replace(MODEL, windows={key: Window(19, 19, 500.0)})
    found = readings(device=replace(BAD, models={"pets": few}))
    assert found[Key(kind, "cam-1", "pets")].value is None


def test_a_rule_counts_where_its_labels_and_names_fit():
    for change, covered in (
        ({"labels": {"site": "roof"}}, True),
        ({"labels": {"site": "hall"}}, False),
        ({"devices": ("cam-*",)}, True),
        ({"devices": ("gate-*",)}, False),
    ):
        rule = replace(RULES["temperature"], **change)
        assert (Key("temperature", "cam-1") in readings({"temperature": rule})) is covered
    rule = replace(RULES["drift"], models=("ocr*",))
    assert readings({"drift": rule}) == {}


def test_a_silence_marks_what_it_covers():
    found = readings(silences=[Silence("temp*", "cam-*"), Silence(until_s=999.0)])
    assert [key.rule for key, reading in found.items() if reading.silenced] == ["temperature"]
    assert all(reading.silenced for reading in readings(silences=[Silence()]).values())
