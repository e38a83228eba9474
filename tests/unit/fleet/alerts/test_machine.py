"""Alerts open late, close late, and never flap."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.fleet.alerts.kinds import KINDS
from edgekit.fleet.alerts.machine import (
    CLEAR,
    GONE,
    UNKNOWN,
    Close,
    Entry,
    Facts,
    Key,
    Open,
    Reading,
    State,
    Tell,
    step,
)
from edgekit.fleet.alerts.rules import Rule, default_rule

HOT = replace(default_rule(KINDS["temperature"]), for_s=60.0, clear_for_s=120.0)
KEY = Key("temperature", "cam-1")


def run(
    readings: list[tuple[float, Reading | None]], rule: Rule = HOT
) -> list[tuple[float, object]]:
    state: State = {}
    said: list[tuple[float, object]] = []
    for now_s, reading in readings:
        facts = Facts({rule.name: rule}, {} if reading is None else {KEY: reading})
        state, actions = step(state, facts, now_s)
        said += [(now_s, action) for action in actions]
    return said


def words(said: list[tuple[float, object]]) -> list[tuple[float, str]]:
    return [
        (at, action.event if isinstance(action, Tell) else type(action).__name__)
        for at, action in said
    ]


def at(*pairs: tuple[float, float | None]) -> list[tuple[float, Reading | None]]:
    return [(now_s, Reading(value)) for now_s, value in pairs]


def test_it_opens_after_its_time_and_closes_after_its_other_time():
    said = run(at((0, 90), (59, 90), (60, 91), (70, 74), (189, 70), (190, 70)))
    assert words(said) == [(60, "Open"), (60, "open"), (190, "Close"), (190, "closed")]
    assert said[2][1] == Close(KEY, 70, CLEAR)


def test_a_short_peak_opens_nothing_and_a_short_dip_closes_nothing():
    assert run(at((0, 90), (50, 70), (59, 90), (100, 90))) == []
    said = run(at((0, 90), (60, 90), (70, 74), (180, 76), (190, 74), (300, 74)))
    assert words(said) == [(60, "Open"), (60, "open")]


def test_between_the_thresholds_nothing_changes():
    opened = at((0, 90), (60, 90))
    between = at(*((60 + i * 60, 77.0) for i in range(1, 100)))
    assert words(run(opened + between)) == [(60, "Open"), (60, "open")]
    assert run(between) == []


def test_a_number_that_is_not_known_opens_nothing_and_closes_in_time():
    assert run(at((0, None), (600, None))) == []
    said = run(at((0, 90), (60, 90), (70, None), (190, None)))
    assert said[-2][1] == Close(KEY, 90, UNKNOWN)


def test_what_is_gone_closes_at_once():
    said = run([*at((0, 90), (60, 90)), (61, None)])
    assert words(said)[2:] == [(61, "Close"), (61, "closed")]
    assert said[2][1] == Close(KEY, 90, GONE)


def test_a_rule_that_is_gone_closes_its_alerts():
    state: State = {KEY: Entry(opened_s=5.0, value=90.0, told_s=5.0)}
    state, actions = step(state, Facts({}, {KEY: Reading(90.0)}), 10.0)
    assert state == {}
    assert actions[0] == Close(KEY, 90.0, GONE)


def test_a_silenced_alert_opens_and_closes_and_nobody_is_told():
    silent = [(now, Reading(v, silenced=True)) for now, v in ((0, 90), (60, 90), (61, 1), (181, 1))]
    assert words(run(silent)) == [(60, "Open"), (181, "Close")]


def test_an_alert_that_outlives_its_silence_is_told_and_its_end_too():
    said = run(
        [
            (0, Reading(90, silenced=True)),
            (60, Reading(90, silenced=True)),
            (500, Reading(90)),
            (501, Reading(1, silenced=True)),
            (700, Reading(1, silenced=True)),
        ]
    )
    assert words(said) == [(60, "Open"), (500, "open"), (700, "Close"), (700, "closed")]
    tell = said[1][1]
    assert isinstance(tell, Tell)
    assert tell.opened_s == 60


def test_a_reminder_comes_at_its_time_alone():
    rule = replace(HOT, repeat_s=100.0)
    said = words(run(at(*((float(i * 10), 90.0) for i in range(31))), rule))
    assert said == [(60, "Open"), (60, "open"), (160, "still"), (260, "still")]


def test_a_clock_that_is_set_back_opens_nothing_early():
    assert run(at((1000, 90), (1030, 90), (10, 90), (69, 90))) == []
    assert words(run(at((1000, 90), (10, 90), (70, 90))))[0] == (70, "Open")


VALUES = st.one_of(st.none(), st.floats(60, 95))
READINGS = st.lists(
    st.tuples(
        st.integers(1, 100).map(float),
        st.one_of(st.none(), st.builds(Reading, VALUES, st.booleans())),
    ),
    max_size=60,
)
RULES = st.builds(
    lambda above, gap, for_s, clear_for_s, repeat_s: replace(
        HOT, above=above, clear=above - gap, for_s=for_s, clear_for_s=clear_for_s, repeat_s=repeat_s
    ),
    st.floats(65, 90),
    st.floats(0, 10),
    st.integers(0, 200).map(float),
    st.integers(0, 200).map(float),
    st.sampled_from([0.0, 50.0]),
)


def timed(steps: list[tuple[float, Reading | None]]) -> list[tuple[float, Reading | None]]:
    now_s, found = 0.0, []
    for wait_s, reading in steps:
        now_s += wait_s
        found.append((now_s, reading))
    return found


@given(READINGS, RULES)
def test_open_and_close_take_turns_and_never_sooner_than_the_rule_allows(steps, rule):
    changes = [
        (now_s, action)
        for now_s, action in run(timed(steps), rule)
        if isinstance(action, Open | Close)
    ]
    for index, (now_s, action) in enumerate(changes):
        assert isinstance(action, Open if index % 2 == 0 else Close)
        if index:
            before_s = changes[index - 1][0]
            if isinstance(action, Open):
                assert now_s - before_s >= rule.for_s
                assert action.value > rule.above
            elif action.why != GONE:
                assert now_s - before_s >= rule.clear_for_s


@given(READINGS, RULES)
def test_every_alert_that_was_told_of_is_told_to_have_closed_once(steps, rule):
    over = timed(steps)
    end_s = over[-1][0] if over else 0.0
    over += [(end_s + 1, Reading(0.0)), (end_s + 1 + rule.clear_for_s, Reading(0.0))]
    said = run(over, rule)
    assert sum(isinstance(a, Open) for _, a in said) == sum(isinstance(a, Close) for _, a in said)
    told = [a.event for _, a in said if isinstance(a, Tell) and a.event != "still"]
    assert told == ["open", "closed"] * (len(told) // 2)


@given(READINGS, RULES)
def test_what_lies_between_the_thresholds_never_changes_anything(steps, rule):
    """A number that swings inside the band is the flapping that hysteresis is for."""
    middle = (rule.above + rule.clear) / 2
    inside = [(now_s, Reading(middle)) for now_s, _ in timed(steps)]
    if rule.clear < middle <= rule.above:
        assert run(inside, rule) == []
        opened: State = {KEY: Entry(opened_s=0.0, value=99.0, told_s=0.0)}
        for now_s, reading in inside:
            opened, actions = step(opened, Facts({rule.name: rule}, {KEY: reading}), now_s)
            assert not [a for a in actions if isinstance(a, Close)]


@given(
    st.dictionaries(
        st.builds(Key, st.just("temperature"), st.sampled_from("abcd"), st.sampled_from(["", "m"])),
        st.builds(Reading, VALUES, st.booleans()),
    ),
    st.randoms(use_true_random=False),
)
def test_the_order_of_what_is_known_decides_nothing(readings, random):
    rule = replace(HOT, for_s=0.0, clear_for_s=0.0)
    items = list(readings.items())
    random.shuffle(items)
    facts, other = (Facts({rule.name: rule}, dict(pairs)) for pairs in (readings.items(), items))
    assert step({}, facts, 5.0) == step({}, other, 5.0)


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_every_kind_says_what_to_do_and_has_room_between_its_thresholds(kind):
    filled = {"device": "d", "model": "m", "value": "1", "limit": "2"}
    assert kind.says.format(**filled)
    assert kind.todo.format(**filled)
    assert kind.clear <= kind.above
    assert kind.scope != "model" or "{model}" in kind.says
