"""What people are told: one alert as JSON, as a line, and as a few lines with the next step."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Literal

from edgekit.fleet.alerts.kinds import Severity, show
from edgekit.fleet.alerts.machine import Key, Reading
from edgekit.fleet.alerts.rules import Rule
from edgekit.wire.canonical import Json

SCHEMA = "edgekit.alert/1"
Event = Literal["open", "still", "closed", "test"]
_WORDS = {"open": "", "still": "still: ", "closed": "over: ", "test": "test: "}


@dataclass(frozen=True)
class Notice:
    """One thing to tell people.

    Attributes:
        alert_id: Of the alert; the same from its opening to its end.
        event: What happened to it.
        fleet: Name of the fleet.
        rule: Name of the rule.
        kind: What is watched.
        severity: How bad it is.
        device: Empty where it is about the server.
        model: Empty where it is not about one.
        value: The number.
        unit: Of the number.
        text: What is wrong, one line.
        todo: What to do next.
        opened_s: Unix time in seconds when it opened.
        at_s: When this happened.
    """

    alert_id: str
    event: Event
    fleet: str
    rule: str
    kind: str
    severity: Severity
    device: str
    model: str
    value: float
    unit: str
    text: str
    todo: str
    opened_s: float
    at_s: float

    @property
    def title(self) -> str:
        """One line that stands alone: ``[lab] cam-1 is at 84 °C, over 80 °C``."""
        return f"[{self.fleet}] {_WORDS[self.event]}{self.text}"

    @property
    def body(self) -> str:
        """A few lines."""
        lines = [self.title, ""]
        if self.event == "closed":
            lines.append(f"It lasted {span(self.at_s - self.opened_s)}.")
        else:
            lines += [f"Since {stamp(self.opened_s)}.", f"Next: {self.todo}"]
        return "\n".join([*lines, f"Rule {self.rule} ({self.severity}).", ""])

    def to_json(self) -> dict[str, Json]:
        """Return the JSON form."""
        return {"schema": SCHEMA, **vars(self), "title": self.title}


def texts(rule: Rule, key: Key, value: float, reading: Reading | None) -> tuple[str, str]:
    """Return what is wrong, and what to do next.

    Args:
        rule: The rule.
        key: The subject.
        value: Its number.
        reading: How the number is to be shown, where that is known.
    """
    unit = rule.kind.unit
    filled = {
        "device": key.device,
        "model": key.model,
        "value": (reading.value_text if reading else "") or show(value, unit),
        "limit": (reading.limit_text if reading else "") or show(rule.above, unit),
    }
    return rule.kind.says.format(**filled), rule.kind.todo.format(**filled)


def stamp(unix_s: float) -> str:
    """Write a moment in UTC."""
    return f"{dt.datetime.fromtimestamp(unix_s, dt.UTC):%Y-%m-%d %H:%M:%S} UTC"


def span(seconds: float) -> str:
    """Write a span of time: ``95 s``, ``12 min``, ``3.5 h``, ``2.1 d``."""
    for size_s, name in ((86_400, "d"), (3600, "h"), (120, "min")):
        if seconds >= size_s:
            each = 60 if name == "min" else size_s
            return f"{seconds / each:.3g} {name}"
    return f"{max(0.0, seconds):.0f} s"
