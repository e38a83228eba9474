"""From what is known of devices to one number for each rule and subject: pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from edgekit.fleet.alerts.kinds import show
from edgekit.fleet.alerts.machine import Facts, Key, Reading
from edgekit.fleet.alerts.rules import Rule, Silence


@dataclass(frozen=True)
class Window:
    """What a model did over some time.

    Attributes:
        requests: Answered or failed.
        errors: Of these, failed.
        p95_ms: Of the latencies; None without any.
    """

    requests: int = 0
    errors: int = 0
    p95_ms: float | None = None


@dataclass(frozen=True)
class ModelFacts:
    """A model on a device.

    Attributes:
        windows: By length in seconds.
        limit_ms: The p95 limit of its bundle's contract; None where it has none.
        psi: Largest population stability index beyond chance; 0 where chance explains it; None
            where it is not measured.
    """

    windows: Mapping[float, Window] = field(default_factory=dict)
    limit_ms: float | None = None
    psi: float | None = None


@dataclass(frozen=True)
class DeviceFacts:
    """A device.

    Attributes:
        name: Of the device.
        labels: Of the device.
        online: By the broker; None where it was never seen.
        temp_c: The hottest zone; None where it is not measured, or not lately.
        throttled: The firmware slows it down; None likewise.
        missing: Messages that are missing; None where nothing ever came.
        models: By name.
    """

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    online: bool | None = None
    temp_c: float | None = None
    throttled: bool | None = None
    missing: int | None = None
    models: Mapping[str, ModelFacts] = field(default_factory=dict)


@dataclass(frozen=True)
class ServerFacts:
    """The fleet's server; None where it is not known.

    Attributes:
        ingest_silent_s: Seconds since ingest said that it works, and does not wait.
        disk_used_share: Of the store's file system, 0..1.
    """

    ingest_silent_s: float | None = None
    disk_used_share: float | None = None


def facts(
    rules: Mapping[str, Rule],
    silences: Iterable[Silence],
    devices: Iterable[DeviceFacts],
    server: ServerFacts,
    now_s: float,
) -> Facts:
    """Return what :func:`~edgekit.fleet.alerts.machine.step` decides on.

    Args:
        rules: By name.
        silences: Those of the settings and of the store.
        devices: All of the fleet.
        server: The server.
        now_s: Unix time in seconds.
    """
    live = [silence for silence in silences if now_s < silence.until_s]
    readings: dict[Key, Reading] = {}
    for rule in rules.values():
        if rule.kind.scope == "server":
            value = _SERVER[rule.kind.name](server)
            silenced = any(silence.covers(rule.name, "", {}, now_s) for silence in live)
            readings[Key(rule.name)] = Reading(value, silenced)
    per_device = [rule for rule in rules.values() if rule.kind.scope != "server"]
    for device in devices:
        for rule in per_device:
            silenced = bool(live) and any(
                silence.covers(rule.name, device.name, device.labels, now_s) for silence in live
            )
            readings.update(_of_device(rule, device, silenced=silenced))
    return Facts(rules, readings)


def _of_device(rule: Rule, device: DeviceFacts, *, silenced: bool) -> Iterator[tuple[Key, Reading]]:
    if rule.kind.scope == "device":
        if rule.covers(device.name, device.labels):
            value = _DEVICE[rule.kind.name](device)
            yield Key(rule.name, device.name), Reading(value, silenced)
        return
    for name, model in device.models.items():
        if rule.covers(device.name, device.labels, name):
            reading = _MODEL[rule.kind.name](rule, model, silenced)
            yield Key(rule.name, device.name, name), reading


def _number(value: bool | float | None) -> float | None:
    return None if value is None else float(value)


def _latency(rule: Rule, model: ModelFacts, silenced: bool) -> Reading:
    limit_ms = rule.limit_ms or model.limit_ms
    window = model.windows.get(rule.window_s, Window())
    if not limit_ms or window.p95_ms is None or window.requests < rule.min_requests:
        return Reading(None, silenced)
    return Reading(
        window.p95_ms / limit_ms,
        silenced,
        show(window.p95_ms, "ms"),
        show(rule.above * limit_ms, "ms"),
    )


def _errors(rule: Rule, model: ModelFacts, silenced: bool) -> Reading:
    window = model.windows.get(rule.window_s, Window())
    enough = window.requests >= max(1, rule.min_requests)
    return Reading(window.errors / window.requests if enough else None, silenced)


def _drift(_rule: Rule, model: ModelFacts, silenced: bool) -> Reading:
    return Reading(model.psi, silenced)


_SERVER: Mapping[str, Callable[[ServerFacts], float | None]] = {
    "ingest": lambda server: server.ingest_silent_s,
    "disk": lambda server: server.disk_used_share,
}
_DEVICE: Mapping[str, Callable[[DeviceFacts], float | None]] = {
    "offline": lambda device: None if device.online is None else float(not device.online),
    "temperature": lambda device: device.temp_c,
    "throttled": lambda device: _number(device.throttled),
    "gap": lambda device: _number(device.missing),
}
_MODEL: Mapping[str, Callable[[Rule, ModelFacts, bool], Reading]] = {
    "latency": _latency,
    "errors": _errors,
    "drift": _drift,
}
