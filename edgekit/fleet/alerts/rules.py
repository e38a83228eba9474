"""The rules of a fleet's alerts: ``alerts.toml``, read strictly.

    [rules.hot]
    kind = "temperature"
    above = 70
    labels = { site = "roof" }

    [channels.phone]
    kind = "ntfy"
    url = "https://ntfy.example/fleet"

Each kind of :data:`~edgekit.fleet.alerts.kinds.KINDS` has a rule of its own name unless the file
says ``defaults = false``; one of the same name replaces it. :data:`KEYS` names all there is.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from edgekit.fleet.alerts.channels import CHANNEL_KEYS, Channel, read_channel
from edgekit.fleet.alerts.kinds import KINDS, Kind, Severity
from edgekit.wire.errors import ConfigError, did_you_mean
from edgekit.wire.located import Table, load_toml, parse_toml

MAX_RULES = 200
MAX_SILENCES = 1000
MAX_SECONDS = 365 * 86_400.0
_NAME = re.compile(r"[a-z0-9_][a-z0-9_-]{0,63}", re.ASCII)

# Every key with what it means; the documentation is held against it.
KEYS: Mapping[str, str] = {
    "defaults": "whether each kind has a rule of its own name, true by default",
    "rules.NAME.kind": "what is watched; the rule's own name by default",
    "rules.NAME.enabled": "false switches the rule off",
    "rules.NAME.above": "an alert opens when the number is over this; in the kind's unit",
    "rules.NAME.clear": "it closes when the number is at most this; not over `above`",
    "rules.NAME.for_s": "seconds that the number must have been over before the alert opens",
    "rules.NAME.clear_for_s": "seconds that it must have been clear before the alert closes",
    "rules.NAME.window_s": "seconds over which the number is taken, for `latency` and `errors`",
    "rules.NAME.min_requests": "fewer requests in the window tell nothing, 20 by default",
    "rules.NAME.limit_ms": "for `latency`: this in place of the contract's limit",
    "rules.NAME.severity": "`warning` or `critical`",
    "rules.NAME.repeat_s": "tell again after so many seconds while it is open; 0 by default: never",
    "rules.NAME.labels": "labels that a device must have for the rule to count",
    "rules.NAME.devices": "names of devices, with `*` and `?`; all by default",
    "rules.NAME.models": "names of models likewise",
    "rules.NAME.channels": "names of channels that are told; all by default",
    **{f"channels.NAME.{key}": meaning for key, meaning in CHANNEL_KEYS.items()},
    "silence.rule": "name of a rule, with `*` and `?`; all by default",
    "silence.device": "name of a device likewise",
    "silence.labels": "labels that a device must have",
    "silence.until": "date and time with a zone: 2026-12-24T08:00:00Z; without it, for good",
    "silence.reason": "for people",
}


@dataclass(frozen=True)
class Rule:
    """One rule; see :data:`KEYS`."""

    name: str
    kind: Kind
    above: float
    clear: float
    for_s: float
    clear_for_s: float
    window_s: float = 0.0
    min_requests: int = 20
    limit_ms: float | None = None
    severity: Severity = "warning"
    repeat_s: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)
    devices: tuple[str, ...] = ("*",)
    models: tuple[str, ...] = ("*",)
    channels: tuple[str, ...] | None = None

    def covers(self, device: str, labels: Mapping[str, str], model: str = "") -> bool:
        """Tell whether a device, or a model on it, falls under the rule."""
        return (
            has_labels(labels, self.labels)
            and _fits(device, self.devices)
            and _fits(model, self.models)
        )


@dataclass(frozen=True)
class Silence:
    """Nobody is told of what falls under it.

    Attributes:
        rule: Name of a rule, with ``*`` and ``?``.
        device: Name of a device likewise.
        labels: That a device must have.
        until_s: Unix time from which on it does not count.
        reason: For people.
    """

    rule: str = "*"
    device: str = "*"
    labels: Mapping[str, str] = field(default_factory=dict)
    until_s: float = float("inf")
    reason: str = ""

    def covers(self, rule: str, device: str, labels: Mapping[str, str], now_s: float) -> bool:
        """Tell whether an alert of a rule on a device is silenced now."""
        return (
            now_s < self.until_s
            and fnmatchcase(rule, self.rule)
            and fnmatchcase(device, self.device)
            and has_labels(labels, self.labels)
        )


@dataclass(frozen=True)
class AlertSettings:
    """All of ``alerts.toml``."""

    rules: Mapping[str, Rule]
    channels: Mapping[str, Channel] = field(default_factory=dict)
    silences: tuple[Silence, ...] = ()


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return patterns == ("*",) or any(fnmatchcase(name, pattern) for pattern in patterns)


def has_labels(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Tell whether all wanted labels are there with the wanted values."""
    return all(labels.get(key) == value for key, value in wanted.items())


def default_rule(kind: Kind) -> Rule:
    """Return the rule that watches a kind where nobody says otherwise."""
    return Rule(
        kind.name,
        kind,
        kind.above,
        kind.clear,
        kind.for_s,
        kind.clear_for_s,
        kind.window_s,
        severity=kind.severity,
    )


def load_alerts(path: Path) -> AlertSettings:
    """Read the rules; a file that is not there means the defaults, and nobody to tell.

    Raises:
        ConfigError: The file is malformed, names an unknown key, or a secret cannot be read.
    """
    if not path.exists():
        return read_alerts(parse_toml("", path.name), path.parent)
    return read_alerts(load_toml(path), path.parent)


def read_alerts(table: Table, folder: Path) -> AlertSettings:
    """Read the rules from a parsed file.

    Args:
        table: The file's root.
        folder: Where relative paths of secrets start.

    Raises:
        ConfigError: As of :func:`load_alerts`.
    """
    rules: dict[str, Rule] = {}
    if table.get("defaults", bool, True):
        rules = {name: default_rule(kind) for name, kind in KINDS.items()}
    channels = {
        name: read_channel(name, own, folder) for name, own in _named(table.table("channels"))
    }
    for name, own in _named(table.table("rules")):
        rule = _rule(name, own, channels)
        rules.pop(name, None)
        if rule is not None:
            rules[name] = rule
    silences = tuple(_silence(own) for own in table.tables("silence"))
    table.close()
    for what, most in ((rules, MAX_RULES), (silences, MAX_SILENCES)):
        if len(what) > most:
            raise ConfigError(f"over {most} rules or silences", where=table.where())
    return AlertSettings(rules, channels, silences)


def _named(table: Table) -> list[tuple[str, Table]]:
    for name in table.names():
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f'"{name[:65]}" is no name',
                hint="1 to 64 of a-z 0-9 _ - and no hyphen in front",
                where=table.where(name),
            )
    return [(name, table.table(name)) for name in table.names()]


def _rule(name: str, own: Table, channels: Mapping[str, Channel]) -> Rule | None:
    kind = _kind(name, own)
    if kind.is_switch and (own.has("above") or own.has("clear")):
        key = "above" if own.has("above") else "clear"
        raise ConfigError(
            f"{kind.name} is yes or no: there is no threshold to set",
            hint=f"leave {key} out; for_s says how long it must last",
            where=own.where(key),
        )
    above = own.get("above", float, kind.above)
    # A threshold that was moved takes the gap between the two along.
    clear = own.get("clear", float, _clear_for(kind, above))
    if not clear <= above:
        raise ConfigError(f"clear = {clear:g} is over above = {above:g}", where=own.where("clear"))
    severity = own.get("severity", str, kind.severity)
    if severity not in {"warning", "critical"}:
        raise ConfigError(
            f"no severity {severity[:40]!r}",
            hint="warning, critical",
            where=own.where("severity"),
        )
    rule = Rule(
        name=name,
        kind=kind,
        above=above,
        clear=clear,
        for_s=_seconds(own, "for_s", kind.for_s),
        clear_for_s=_seconds(own, "clear_for_s", kind.clear_for_s),
        window_s=_seconds(own, "window_s", kind.window_s),
        min_requests=own.get("min_requests", int, 20),
        limit_ms=own.optional("limit_ms", float),
        severity="critical" if severity == "critical" else "warning",
        repeat_s=_seconds(own, "repeat_s", 0.0),
        labels=read_labels(own),
        devices=own.strings("devices", ("*",)),
        models=own.strings("models", ("*",)),
        channels=_channels(own, channels),
    )
    enabled = own.get("enabled", bool, True)
    own.close()
    return rule if enabled else None


def _kind(name: str, own: Table) -> Kind:
    wanted = own.get("kind", str, name)
    if wanted not in KINDS:
        close = did_you_mean(wanted, KINDS)
        raise ConfigError(
            f"nothing called {wanted[:80]!r} can be watched",
            hint=f"did you mean {close}?" if close else f"kinds: {', '.join(KINDS)}",
            where=own.where("kind"),
        )
    return KINDS[wanted]


def _clear_for(kind: Kind, above: float) -> float:
    if above == kind.above:
        return kind.clear
    if kind.unit == "°C":
        return above - (kind.above - kind.clear)
    return above * (kind.clear / kind.above) if kind.above else above


def _channels(own: Table, channels: Mapping[str, Channel]) -> tuple[str, ...] | None:
    if not own.has("channels"):
        return None
    names = own.strings("channels")
    for name in names:
        if name not in channels:
            close = did_you_mean(name, channels)
            raise ConfigError(
                f"no channel is named {name[:80]!r}",
                hint=f"did you mean {close}?" if close else "[channels.NAME] makes one",
                where=own.where("channels"),
            )
    return names


def _silence(own: Table) -> Silence:
    until: Any = own.optional("until", object)
    until_s = float("inf")
    if until is not None:
        if not isinstance(until, dt.datetime) or until.tzinfo is None:
            raise ConfigError(
                '"until" must be a date and time with a zone',
                hint="until = 2026-12-24T08:00:00Z",
                where=own.where("until"),
            )
        until_s = until.timestamp()
    silence = Silence(
        rule=own.get("rule", str, "*"),
        device=own.get("device", str, "*"),
        labels=read_labels(own),
        until_s=until_s,
        reason=own.get("reason", str, ""),
    )
    own.close()
    return silence


def read_labels(own: Table) -> dict[str, str]:
    """Read a table's ``labels``.

    Raises:
        ConfigError: A value is no string.
    """
    labels = own.table("labels").rest()
    if not all(isinstance(value, str) for value in labels.values()):
        raise ConfigError('"labels" must hold strings', where=own.where("labels"))
    return labels


def _seconds(own: Table, key: str, default: float) -> float:
    value = own.get(key, float, default)
    if not 0 <= value <= MAX_SECONDS:
        raise ConfigError(f'"{key}" must be within 0 and {MAX_SECONDS:.0f}', where=own.where(key))
    return value
