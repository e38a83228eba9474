"""What Home Assistant should have made of an announcement."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paho.mqtt import publish, subscribe

from edgekit.agent.config import HomeAssistantSettings
from edgekit.agent.mappings.home_assistant import HomeAssistant as Mapping_
from edgekit.agent.mappings.readings import Readings
from edgekit.runtime.sketches import LatencyHistogram
from edgekit.wire.topics import topic
from mapping_hosts.checks import Checks
from mapping_hosts.home_assistant import State

_FACTS = ("device_class", "state_class", "unit_of_measurement")
_FLEET, _DEVICE, _MODEL = "lab", "cam.1", "pets.v2"
# Entity, state and unit; of a board that can measure everything.
_EXPECTED = {
    "sensor.cam_1_cpu": ("25.0", "%"),
    "sensor.cam_1_temperature": ("61.8", "°C"),
    "sensor.cam_1_clock": ("1800.0", "MHz"),
    "sensor.cam_1_memory_available": ("1000000.0", "B"),
    "sensor.cam_1_disk_free": ("2000000.0", "B"),
    "sensor.cam_1_memory_of_the_agent": ("3000000.0", "B"),
    "sensor.cam_1_uptime": ("4000.0", "s"),
    "binary_sensor.cam_1_under_voltage": ("on", None),
    "binary_sensor.cam_1_throttled": ("off", None),
    "sensor.cam_1_pets_v2_requests": ("3", None),
    "sensor.cam_1_pets_v2_errors": ("1", None),
    "sensor.cam_1_pets_v2_last_class": ("cat", None),
}


def announced(port: int, place: str) -> dict[str, Any]:
    """Return the device's retained announcement."""
    message = subscribe.simple(f"{place}/config", hostname="127.0.0.1", port=port)
    found: dict[str, Any] = json.loads(message.payload)
    return found


def check(
    checks: Checks,
    config: Mapping[str, Any],
    states: Mapping[str, State],
    devices: Sequence[Mapping[str, Any]],
    entries: Sequence[Mapping[str, Any]],
) -> None:
    """Check an announcement against what there was, and what was kept.

    Args:
        checks: Takes the result.
        config: The announcement.
        states: While the agent ran.
        devices: Of the registry.
        entries: Entities of the registry.
    """
    told = config["device"]
    same = ("name", "manufacturer", "model", "sw_version")
    device = [one for one in devices if one["identifiers"] == [["mqtt", told["identifiers"][0]]]]
    checks.holds(
        "there is one device, with name, maker, model and version",
        len(device) == len(devices) == 1 and all(device[0][key] == told[key] for key in same),
        devices,
    )
    by_id = {one["unique_id"]: one for one in entries}
    parts = {part["unique_id"]: part for part in config["components"].values()}
    checks.add("every component is an entity", *(set(parts) - set(by_id)))
    checks.add("and nothing else is", *(set(by_id) - set(parts)))
    wrong, category, bare = [], [], []
    for unique_id in set(parts) & set(by_id):
        entry, part = by_id[unique_id], parts[unique_id]
        state, attributes = states.get(entry["entity_id"], ("absent", {}))
        facts = {key: part.get(key) for key in _FACTS}
        if {key: attributes.get(key) for key in _FACTS} != facts:
            wrong.append(f"{entry['entity_id']}: {dict(attributes)}")
        if entry["entity_category"] != part.get("entity_category"):
            category.append(entry["entity_id"])
        if state in {"absent", "unknown", "unavailable"}:
            bare.append(f"{entry['entity_id']} {state}")
    checks.add("units, device and state classes are as announced", *wrong)
    checks.add("what tells of the board is diagnostic, what tells of models is not", *category)
    checks.add("every entity had a value", *bare)


def publish_all_kinds(port: int) -> None:
    """Publish what a board would that measures everything, by the mapping itself."""
    readings = Readings({_MODEL: "cat"}.get)
    latency = LatencyHistogram()
    latency.add(0.8)
    vitals: dict[str, Any] = {
        "cpu_share": 0.25,
        "temp_c": 61.8,
        "clock_mhz": 1800,
        "memory_available_bytes": 1_000_000,
        "disk_free_bytes": 2_000_000,
        "rss_bytes": 3_000_000,
        "uptime_s": 4000,
        "under_voltage": True,
        "throttled": False,
    }
    said = {"requests": 3, "errors": 1, "latency_ms": latency.to_json()}
    readings.take({"vitals": vitals, "models": {_MODEL: said}})
    mapping = Mapping_(
        HomeAssistantSettings(),
        (_FLEET, _DEVICE),
        ("0", "rpi5"),
        readings,
        expected=set,
        folder=Path("/nowhere"),
        monotonic_s=lambda: 0.0,
    )
    state = topic(_FLEET, _DEVICE, "state")
    messages = [(state, json.dumps({"status": "online"}), 1, True)]
    messages += [(p.topic, p.payload, p.qos, p.retain) for p in mapping.publications(fresh=True)]
    publish.multiple(messages, hostname="127.0.0.1", port=port)


def missing(states: Mapping[str, State]) -> list[str]:
    """Return what is not shown as it should be."""
    found = {name: (s, facts.get("unit_of_measurement")) for name, (s, facts) in states.items()}
    return [f"{k}: {found.get(k)}" for k, value in _EXPECTED.items() if found.get(k) != value]


def remove_device(port: int) -> None:
    """Take that board away again, as the documentation says."""
    place = f"homeassistant/device/{_FLEET}/{_DEVICE.replace('.', 'D')}/config"
    publish.single(place, b"", qos=1, retain=True, hostname="127.0.0.1", port=port)
