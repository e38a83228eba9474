"""What can be watched: one row a kind, with its unit, its defaults and what to do about it.

A kind turns what the store knows into one number a subject; the rules say which numbers are too
high. Defaults are those of a fleet that nobody has tuned: rather late than at every blip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Scope = Literal["device", "model", "server"]
Severity = Literal["warning", "critical"]


@dataclass(frozen=True)
class Kind:
    """One thing to watch.

    Attributes:
        name: As a rule's ``kind`` names it.
        scope: What a subject is: a device, a model on a device, or the fleet's server.
        meaning: What the number is, for the documentation.
        unit: Of the number; empty for a yes or no, ``share`` for 0..1.
        above: An alert opens when the number is over this.
        clear: It closes when the number is at most this.
        for_s: It has to be over for so long first.
        clear_for_s: And to be clear for so long.
        window_s: Time over which the number is taken; 0 where it is the last one.
        severity: ``warning`` or ``critical``.
        says: What is wrong: ``{device}``, ``{model}``, ``{value}`` and ``{limit}`` are filled in.
        todo: What to do next, filled in likewise.
    """

    name: str
    scope: Scope
    meaning: str
    unit: str
    above: float
    clear: float
    for_s: float
    clear_for_s: float
    window_s: float
    severity: Severity
    says: str
    todo: str

    @property
    def is_switch(self) -> bool:
        """Whether the number is only yes or no, so that no threshold can be set."""
        return not self.unit


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "offline", "device", "the broker says that the device is not connected",
            "", 0.5, 0.5, 120.0, 30.0, 0.0, "critical",
            "{device} is offline",
            "`edgekit fleet show {device}` says since when and why; look at its power and network,"
            " then `edgekit agent logs` there",
        ),
        Kind(
            "latency", "model", "p95 of the latency divided by the limit of the bundle's contract",
            "× the contract", 1.0, 0.95, 600.0, 600.0, 900.0, "warning",
            "{model} on {device} has a p95 latency of {value}, over {limit}",
            "`edgekit fleet show {device}` shows its temperature, clock and queue; if the board is"
            " well, `edgekit bench` there tells whether the bundle fits it",
        ),
        Kind(
            "temperature", "device", "the hottest zone of the board",
            "°C", 80.0, 75.0, 60.0, 120.0, 0.0, "warning",
            "{device} is at {value}, over {limit}",
            "look at its fan, its case and the air around it; the firmware slows it down soon",
        ),
        Kind(
            "throttled", "device", "the firmware slows the board down: heat or too little voltage",
            "", 0.5, 0.5, 60.0, 300.0, 0.0, "warning",
            "{device} is throttled",
            "`edgekit fleet show {device}` says whether it is heat (cool it) or under-voltage"
            " (another supply or cable)",
        ),
        Kind(
            "drift", "model", "largest population stability index, 0 where chance explains it",
            "PSI", 0.25, 0.1, 1800.0, 1800.0, 0.0, "warning",
            "what {model} on {device} sees or answers has moved: {value}, over {limit}",
            "look at the camera or the sensor first; if the world has changed, collect new"
            " samples and build the model again",
        ),
        Kind(
            "errors", "model", "failed requests divided by all",
            "share", 0.05, 0.01, 120.0, 300.0, 300.0, "critical",
            "{model} on {device} fails {value} of its requests, over {limit}",
            "`edgekit agent logs` on {device} names the errors; `edgekit fleet deploy` of the"
            " bundle before brings the last good one back",
        ),
        Kind(
            "gap", "device", "messages that were neither received nor reported as dropped",
            "messages", 0.0, 0.0, 900.0, 0.0, 0.0, "warning",
            "{value} of {device} are missing",
            "was the device's disk changed or its state folder removed? `edgekit fleet show"
            " {device}` lists the numbers",
        ),
        Kind(
            "ingest", "server", "time since ingest last said that it works",
            "s", 30.0, 10.0, 0.0, 10.0, 0.0, "critical",
            "ingest has stored nothing for {value}",
            "devices keep what they send. run/ingest.log in the fleet's folder says why it waits: a"
            " full disk needs room; if `edgekit fleet status` says that it is gone, start it again",
        ),
        Kind(
            "disk", "server", "used part of the file system that holds the store",
            "share", 0.95, 0.9, 60.0, 60.0, 0.0, "critical",
            "the disk of the store is {value} full, over {limit}",
            "make room, or lower retention.gib or retention.days in fleet.toml and start the fleet"
            " again; with 64 MiB left ingest waits, and devices keep what they have",
        ),
    )
}  # fmt: skip


def show(value: float, unit: str) -> str:
    """Write a number with its unit: ``81.5 °C``, ``12 %``, ``3 messages``."""
    if unit == "share":
        return f"{100 * value:.3g} %"
    return f"{value:.4g} {unit}".strip()
