"""When an alert opens, when it closes, and who is told: one pure function.

1. An alert opens when its number has been over the threshold for the rule's time, without a break.
2. It closes when the number has been at or under the second, lower threshold for the rule's other
   time; what lies between the two changes nothing.
3. A number that is not known any more counts as clear: an offline device is not hot, it is
   offline. A subject that is gone (a removed device, a removed rule) closes at once.
4. A silenced alert opens and closes, but nobody is told. One that outlives its silence is told
   then. Who was told that it opened is told that it closed.

``step`` reads no clock. Times are the server's; one that was set back makes a wait longer, never an
alert early.

    state, actions = step(state, facts, now_s)      # actions: Open, Close, Tell
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias

from edgekit.fleet.alerts.rules import Rule


class Key(NamedTuple):
    """What an alert is about. A device and a model are empty where the subject has none."""

    rule: str
    device: str = ""
    model: str = ""


class Reading(NamedTuple):
    """A subject's number now.

    Attributes:
        value: None where it is not known.
        silenced: Nobody is to be told.
        value_text: The number for people, where the rule's own unit says less; ``42 ms``.
        limit_text: The threshold likewise.
    """

    value: float | None
    silenced: bool = False
    value_text: str = ""
    limit_text: str = ""


@dataclass(frozen=True)
class Entry:
    """What is remembered of one subject under one rule; only while something is the matter.

    Attributes:
        since_s: Since when the number has been over (not open yet), or clear (open). None while it
            is neither.
        opened_s: When the alert opened; None where it has not.
        value: The last number that was known.
        told_s: When people were last told of it; None where they were not.
    """

    since_s: float | None = None
    opened_s: float | None = None
    value: float = 0.0
    told_s: float | None = None


@dataclass(frozen=True)
class Facts:
    """What is known at one moment.

    Attributes:
        rules: By name.
        readings: Of every subject that exists; one that is missing is gone.
    """

    rules: Mapping[str, Rule]
    readings: Mapping[Key, Reading]


@dataclass(frozen=True)
class Open:
    """An alert is to be kept as open."""

    key: Key
    value: float
    reading: Reading


@dataclass(frozen=True)
class Close:
    """An alert is to be kept as closed; ``why`` is for people."""

    key: Key
    value: float
    why: str


@dataclass(frozen=True)
class Tell:
    """People are to be told.

    Attributes:
        key: Of the alert.
        event: What happened.
        value: The last number that was known.
        opened_s: When it opened.
        reading: The subject now; None where it is gone.
        why: Why it closed.
    """

    key: Key
    event: Literal["open", "still", "closed"]
    value: float
    opened_s: float
    reading: Reading | None = None
    why: str = ""


Action: TypeAlias = Open | Close | Tell
State: TypeAlias = Mapping[Key, Entry]

CLEAR, GONE, UNKNOWN = (
    "it is well again",
    "what it was about is gone",
    "it is not measured any more",
)


def step(state: State, facts: Facts, now_s: float) -> tuple[State, tuple[Action, ...]]:
    """Decide what opens, what closes and who is told.

    Args:
        state: Of all subjects.
        facts: What is known now.
        now_s: Unix time in seconds, by the server.

    Returns:
        The new state, and what to do, in this order.
    """
    entries: dict[Key, Entry] = {}
    actions: list[Action] = []
    for key in sorted({*state, *_over(facts)}):
        entry, rule, reading = state.get(key), facts.rules.get(key.rule), facts.readings.get(key)
        if rule is None or reading is None:
            if entry is not None and entry.opened_s is not None:
                actions += _closing(key, entry, entry.opened_s, reading, GONE)
            continue
        after, done = _one(key, entry or Entry(), rule, reading, now_s)
        actions += done
        if after != Entry(value=after.value):
            entries[key] = after
    return entries, tuple(actions)


def _over(facts: Facts) -> Iterator[Key]:
    """Yield the subjects whose number is over; of most there is nothing to remember."""
    for key, reading in facts.readings.items():
        rule = facts.rules.get(key.rule)
        if rule is not None and reading.value is not None and reading.value > rule.above:
            yield key


def _one(
    key: Key, entry: Entry, rule: Rule, reading: Reading, now_s: float
) -> tuple[Entry, list[Action]]:
    known = reading.value is not None
    value = entry.value if reading.value is None else reading.value
    entry = replace(entry, value=value)
    if entry.opened_s is None:
        if not known or not value > rule.above:
            return Entry(value=value), []
        since_s = _since(entry.since_s, now_s)
        if now_s - since_s < rule.for_s:
            return replace(entry, since_s=since_s), []
        opened = Entry(opened_s=now_s, value=value)
        after, told = _telling(key, opened, now_s, rule, reading)
        return after, [Open(key, value, reading), *told]
    if known and value > rule.clear:
        return _telling(key, replace(entry, since_s=None), entry.opened_s, rule, reading, now_s)
    since_s = _since(entry.since_s, now_s)
    if now_s - since_s >= rule.clear_for_s:
        why = CLEAR if known else UNKNOWN
        return Entry(), _closing(key, entry, entry.opened_s, reading, why)
    return _telling(key, replace(entry, since_s=since_s), entry.opened_s, rule, reading, now_s)


def _since(since_s: float | None, now_s: float) -> float:
    # A clock that was set back: the wait begins anew.
    return now_s if since_s is None or since_s > now_s else since_s


def _telling(
    key: Key,
    entry: Entry,
    opened_s: float,
    rule: Rule,
    reading: Reading,
    now_s: float | None = None,
) -> tuple[Entry, list[Action]]:
    """Tell people of an open alert where they do not know, or not for long enough."""
    at_s = opened_s if now_s is None else now_s
    if reading.silenced:
        return entry, []
    if entry.told_s is None:
        return replace(entry, told_s=at_s), [Tell(key, "open", entry.value, opened_s, reading)]
    if rule.repeat_s and at_s - entry.told_s >= rule.repeat_s:
        return replace(entry, told_s=at_s), [Tell(key, "still", entry.value, opened_s, reading)]
    return entry, []


def _closing(
    key: Key, entry: Entry, opened_s: float, reading: Reading | None, why: str
) -> list[Action]:
    closing: list[Action] = [Close(key, entry.value, why)]
    if entry.told_s is not None:
        closing.append(Tell(key, "closed", entry.value, opened_s, reading, why))
    return closing
