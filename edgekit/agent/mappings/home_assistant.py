"""Home Assistant: the device and its models appear there by themselves.

One message says what there is (device discovery, from Home Assistant 2024.11 on); one brings all
values each period. Whether the device is there, Home Assistant reads from its ``state``. All three
are retained: a Home Assistant that starts again has everything at once, and nobody needs to hear
that it has.
Format: https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from edgekit.agent.config import HomeAssistantSettings
from edgekit.agent.mappings import Publication
from edgekit.agent.mappings.readings import MAX_MODELS, Readings, Scalar
from edgekit.wire.topics import topic

TOLD_FILE = "home-assistant-models.json"

_Values = Mapping[str, Mapping[str, Scalar]]

# What a value is: platform, name, and what Home Assistant should know of it.
_BYTES = {"device_class": "data_size", "unit_of_measurement": "B", "state_class": "measurement"}
_PROBLEM = {"device_class": "problem", "payload_on": "True", "payload_off": "False"}
_VITALS: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "cpu_share": ("sensor", "CPU", {"unit_of_measurement": "%", "state_class": "measurement"}),
    "temp_c": (
        "sensor",
        "Temperature",
        {
            "device_class": "temperature",
            "unit_of_measurement": "°C",
            "state_class": "measurement",
        },
    ),
    "clock_mhz": (
        "sensor",
        "Clock",
        {"device_class": "frequency", "unit_of_measurement": "MHz", "state_class": "measurement"},
    ),
    "memory_available_bytes": ("sensor", "Memory available", _BYTES),
    "disk_free_bytes": ("sensor", "Disk free", _BYTES),
    "rss_bytes": ("sensor", "Memory of the agent", _BYTES),
    "uptime_s": (
        "sensor",
        "Uptime",
        {
            "device_class": "duration",
            "unit_of_measurement": "s",
            "state_class": "measurement",
            "suggested_display_precision": 0,
        },
    ),
    "under_voltage": ("binary_sensor", "Under-voltage", _PROBLEM),
    "throttled": ("binary_sensor", "Throttled", _PROBLEM),
}
_MODELS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "requests": ("requests", {"state_class": "total_increasing"}),
    "errors": ("errors", {"state_class": "total_increasing"}),
    "p95_ms": (
        "latency p95",
        {
            "device_class": "duration",
            "unit_of_measurement": "ms",
            "state_class": "measurement",
            # Milliseconds are shown without a decimal otherwise: small models answer in one.
            "suggested_display_precision": 1,
        },
    ),
    "last_class": ("last class", {}),
}


class HomeAssistant:
    """What is to be published for Home Assistant.

    Args:
        settings: Its part of the settings.
        device: Fleet and name of the device.
        about: Version of the agent and target.
        readings: What there is to show.
        expected: Returns the models that the device has, whether they serve now or not.
        folder: Where the models that were announced are noted, for the next process.
        monotonic_s: Seconds that never jump.
    """

    def __init__(
        self,
        settings: HomeAssistantSettings,
        device: tuple[str, str],
        about: tuple[str, str],
        readings: Readings,
        *,
        expected: Callable[[], Collection[str]],
        folder: Path,
        monotonic_s: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._device = device
        self._about = about
        self._readings = readings
        self._expected = expected
        self._file = folder / TOLD_FILE
        self._monotonic_s = monotonic_s
        self._known: dict[str, dict[str, Any]] = {}
        self._models = _noted(self._file)
        self._gone: frozenset[str] = frozenset()
        self._next_s = 0.0
        self._serving: frozenset[str] = frozenset()
        self._place = f"{settings.prefix}/device/{'/'.join(map(_plain, device))}"

    def publications(self, *, fresh: bool) -> list[Publication]:
        """Return what is due.

        Args:
            fresh: Whether the connection has just been made.
        """
        now_s = self._monotonic_s()
        serving = self._readings.models
        if not fresh and now_s < self._next_s and serving == self._serving:
            return []
        values = self._readings.values()
        if not any(values.values()):  # the first sample is still to come
            return []
        self._next_s, self._serving = now_s + self._settings.period_s, serving
        due = []
        if self._learn(values) or fresh:
            config = json.dumps(self._config(), ensure_ascii=False, sort_keys=True)
            due.append(Publication(f"{self._place}/config", config.encode(), 1, retain=True))
        shown = json.dumps(_shown(values)).encode()
        due.append(Publication(f"{self._place}/values", shown, retain=True))
        return due

    def _learn(self, values: _Values) -> bool:
        """Take in what there is now; returns whether Home Assistant must be told."""
        # A model that does not serve for once is kept, one that the device has no more is gone.
        models = frozenset(filter(None, values)) | self._models.intersection(self._expected())
        self._gone = (self._gone | self._models) - models
        if models != self._models:
            self._models = models
            with contextlib.suppress(OSError):  # a full disk must not end the mapping
                self._file.write_text(json.dumps(sorted(models)), encoding="utf-8")
        before = self._known
        # A vital may be absent for once, too.
        vitals = {key: known for key, known in before.items() if key in _VITALS}
        device = f"edgekit/{'/'.join(self._device)}"
        self._known = vitals | _vitals(values[""], device)
        for model in sorted(models):
            self._known |= _model(model, device)
        for model in sorted(self._gone):
            # A component of which only the platform is left is taken away there.
            self._known |= {key: {"platform": "sensor"} for key in _model(model, device)}
        return before != self._known

    def _config(self) -> dict[str, Any]:
        fleet, device = self._device
        version, target = self._about
        return {
            "device": {
                "identifiers": [f"edgekit/{fleet}/{device}"],
                "name": device,
                "manufacturer": "edgekit",
                "model": target,
                "sw_version": version,
            },
            "origin": {"name": "edgekit", "sw_version": version},
            "availability_topic": topic(fleet, device, "state"),
            "availability_template": "{{ value_json.status }}",
            "payload_available": "online",
            "payload_not_available": "offline",
            "state_topic": f"{self._place}/values",
            "components": self._known,
        }


def _vitals(keys: Collection[str], device: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for key in keys:
        platform, name, facts = _VITALS[key]
        found[key] = {
            "platform": platform,
            "name": name,
            "unique_id": f"{device}/{key}",
            "value_template": f"{{{{ value_json.vitals.{key} | default('None') }}}}",
            "entity_category": "diagnostic",
            **facts,
        }
    return found


def _model(model: str, device: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for key, (name, facts) in _MODELS.items():
        # Home Assistant reads "None" as not known: no latency before the first request. A model
        # that is not there at all is an error in its log without the other default.
        place = f"(value_json.models[{json.dumps(model)}] | default({{}})).{key}"
        found[f"{_plain(model)}-{key}"] = {
            "platform": "sensor",
            "name": f"{model} {name}",
            "unique_id": f"{device}/{model}/{key}",
            "value_template": f"{{{{ {place} | default('None') }}}}",
            **facts,
        }
    return found


def _noted(file: Path) -> frozenset[str]:
    """Return the models that an earlier process has announced; none where that is not known."""
    try:
        names = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return frozenset()
    known = names[:MAX_MODELS] if isinstance(names, list) else []
    return frozenset(name for name in known if isinstance(name, str) and name)


def _plain(name: str) -> str:
    """Return a name as Home Assistant's ids take it: no dot may stand there, no capital here."""
    return name.replace(".", "D")


def _shown(values: _Values) -> dict[str, Any]:
    vitals = dict(values[""])
    if "cpu_share" in vitals:
        vitals["cpu_share"] = round(100 * float(vitals["cpu_share"]), 1)
    return {"vitals": vitals, "models": {name: values[name] for name in values if name}}
