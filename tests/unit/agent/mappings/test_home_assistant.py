"""Home Assistant: what is announced, what is taken away, and what the values look like."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment, StrictUndefined

from edgekit.agent.config import HomeAssistantSettings
from edgekit.agent.mappings.home_assistant import TOLD_FILE, HomeAssistant
from edgekit.agent.mappings.readings import VITALS, Readings
from edgekit.runtime.sketches import LatencyHistogram


def sample(*models: str, **vitals: Any) -> dict[str, Any]:
    latency = LatencyHistogram()
    for ms in (10.0, 20.0, 30.0):
        latency.add(ms)
    said = {"requests": 3, "errors": 1, "latency_ms": latency.to_json()}
    return {"vitals": {"cpu_share": 0.25} | vitals, "models": dict.fromkeys(models, said)}


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def made(
    device: tuple[str, str] = ("lab", "board-1"),
    folder: Path = Path("/nowhere"),
    expected: set[str] | frozenset[str] = frozenset(),
) -> tuple[HomeAssistant, Readings, Clock]:
    readings, clock = Readings({"pets": "cat"}.get), Clock()
    mapping = HomeAssistant(
        HomeAssistantSettings(),
        device,
        ("0.1.0", "rpi5"),
        readings,
        expected=lambda: expected,
        folder=folder,
        monotonic_s=clock,
    )
    return mapping, readings, clock


def components(mapping: HomeAssistant) -> dict[str, Any]:
    config, _ = mapping.publications(fresh=True)
    found: dict[str, Any] = json.loads(config.payload)["components"]
    return found


def test_one_retained_message_announces_everything() -> None:
    mapping, readings, _ = made()
    readings.take(sample("pets", temp_c=61.8, throttled=False, network_errors_per_s=0))
    config, values = mapping.publications(fresh=True)
    assert (config.topic, config.retain) == ("homeassistant/device/lab/board-1/config", True)
    told = json.loads(config.payload)
    # What Home Assistant demands of a device's discovery.
    assert told["device"]["identifiers"]
    assert told["origin"]["name"]
    parts = told["components"]
    assert all(part["platform"] and part["unique_id"] for part in parts.values())
    assert len({part["unique_id"] for part in parts.values()}) == len(parts)
    assert {"cpu_share", "temp_c", "throttled", "pets-p95_ms"} <= set(parts)
    assert "clock_mhz" not in parts, "it was not measured"
    assert told["availability_topic"] == "edgekit/1/lab/board-1/state"
    assert told["state_topic"] == values.topic
    assert values.retain, "a Home Assistant that starts again has them at once"
    shown = json.loads(values.payload)
    assert shown["vitals"] == {"cpu_share": 25.0, "temp_c": 61.8, "throttled": False}
    pets = shown["models"]["pets"]
    assert (pets["requests"], pets["errors"], pets["last_class"]) == (3, 1, "cat")
    assert 19 < pets["p95_ms"] < 31


# Of Home Assistant 2026.11: sensor/const.py and mqtt/schemas.py, sensor.py, binary_sensor.py in its
# components. A device class takes these units and state classes and no others.
UNITS = {
    "data_size": ({"B", "kB", "MB", "MiB"}, {"measurement", "total", "total_increasing"}),
    "duration": ({"d", "h", "min", "s", "ms", "μs"}, {"measurement", "total", "total_increasing"}),
    "frequency": ({"Hz", "kHz", "MHz", "GHz"}, {"measurement"}),
    "temperature": ({"°C", "°F", "K"}, {"measurement"}),
}
ENTITY = {"platform", "name", "unique_id", "value_template", "entity_category", "device_class"}
FACTS = {
    "sensor": ENTITY | {"unit_of_measurement", "state_class", "suggested_display_precision"},
    "binary_sensor": ENTITY | {"payload_on", "payload_off"},
}
DEVICE = {
    *("device", "origin", "components", "state_topic"),
    *("availability_topic", "availability_template"),
    *("payload_available", "payload_not_available"),
}


def test_what_is_announced_keeps_to_the_schema_of_home_assistant() -> None:
    mapping, readings, _ = made()
    readings.take(sample("pets", "v1.2", **dict.fromkeys(VITALS, 1)))
    told = json.loads(mapping.publications(fresh=True)[0].payload)
    assert set(told) == DEVICE
    assert set(told["device"]) <= {"identifiers", "name", "manufacturer", "model", "sw_version"}
    assert set(told["origin"]) <= {"name", "sw_version", "support_url"}
    for key, component in told["components"].items():
        assert re.fullmatch(r"[\w-]+", key, re.ASCII)
        assert set(component) <= FACTS[component["platform"]]
        assert component.get("entity_category", "diagnostic") == "diagnostic", "no setting"
        if component["platform"] == "binary_sensor":
            assert component["device_class"] == "problem"
        elif (kind := component.get("device_class")) is not None:
            units, state_classes = UNITS[kind]
            assert component["unit_of_measurement"] in units
            assert component["state_class"] in state_classes
        else:
            assert component.get("unit_of_measurement") in {None, "%"}
            assert component.get("state_class") in {None, "measurement", "total_increasing"}
    # Milliseconds are shown without decimals if nobody says otherwise.
    assert told["components"]["pets-p95_ms"]["suggested_display_precision"] > 0


def test_every_template_names_a_value_that_is_sent() -> None:
    mapping, readings, _ = made()
    readings.take(sample("pets", **dict.fromkeys(VITALS, 1)))
    config, values = mapping.publications(fresh=True)
    shown = json.loads(values.payload)
    parts = json.loads(config.payload)["components"]
    assert len(parts) == len(VITALS) + 4
    for component in parts.values():
        template = component["value_template"]
        path = re.fullmatch(r"\{\{ (.+) \| default\('None'\) \}\}", template)
        assert path, template
        found = shown
        for part in re.findall(r'\["([^"]+)"\]|\.(\w+)', path[1].removeprefix("(value_json")):
            found = found[part[0] or part[1]]


@pytest.mark.parametrize("shown", [{}, {"models": {}}, {"models": {"pets": {}}, "vitals": {}}])
def test_a_value_that_is_not_there_is_no_error_in_home_assistant(shown: dict[str, Any]) -> None:
    strict = Environment(undefined=StrictUndefined, autoescape=True)
    mapping, readings, _ = made()
    readings.take(sample("pets"))
    context = {"value_json": {"vitals": {}, "models": {}} | shown}
    for component in components(mapping).values():
        template = strict.from_string(component["value_template"])
        assert template.render(context) == "None"


def test_values_do_not_wait_for_the_period_when_a_model_begins_to_serve() -> None:
    mapping, readings, _ = made(expected={"pets"})
    readings.take(sample())
    mapping.publications(fresh=True)
    readings.take(sample("pets"))
    values = mapping.publications(fresh=False)[-1]
    assert json.loads(values.payload)["models"]["pets"]["requests"] == 3
    assert mapping.publications(fresh=False) == []


def test_totals_grow_and_the_announcement_is_not_repeated() -> None:
    mapping, readings, clock = made()
    readings.take(sample("pets"))
    mapping.publications(fresh=True)
    readings.take(sample("pets"))
    assert mapping.publications(fresh=False) == []
    clock.now_s += 10
    (values,) = mapping.publications(fresh=False)
    assert json.loads(values.payload)["models"]["pets"]["requests"] == 6


def test_a_model_that_is_gone_is_taken_away_and_a_vital_is_not() -> None:
    mapping, readings, clock = made()
    readings.take(sample("pets", temp_c=50.0))
    mapping.publications(fresh=True)
    clock.now_s += 10
    readings.take(sample())
    config, _ = mapping.publications(fresh=False)
    parts = json.loads(config.payload)["components"]
    assert parts["pets-requests"] == {"platform": "sensor"}
    assert parts["temp_c"]["name"] == "Temperature"


def test_nothing_is_said_before_the_first_sample() -> None:
    mapping, readings, _ = made()
    assert mapping.publications(fresh=True) == []
    readings.take(sample("pets"))
    config, values = mapping.publications(fresh=False)
    assert (config.retain, values.retain) == (True, True)


def test_a_model_that_loads_or_waits_is_kept(tmp_path: Path) -> None:
    before, readings, _ = made(folder=tmp_path)
    readings.take(sample("pets"))
    told = components(before)
    after, readings, _ = made(folder=tmp_path, expected={"pets", "ordered-only"})
    readings.take(sample())
    assert components(after) == told


def test_the_next_process_takes_away_what_the_device_has_no_more(tmp_path: Path) -> None:
    before, readings, _ = made(folder=tmp_path)
    readings.take(sample("pets", "crashes"))
    before.publications(fresh=True)
    after, readings, _ = made(folder=tmp_path, expected={"pets"})
    readings.take(sample())
    told = components(after)
    assert told["crashes-requests"] == {"platform": "sensor"}
    assert told["pets-requests"]["name"] == "pets requests"
    third, readings, _ = made(folder=tmp_path, expected={"pets"})
    readings.take(sample())
    assert "crashes-requests" not in components(third), "it was told"


@pytest.mark.parametrize("noted", ["", "{", '{"a": 1}', "[1, null]", "[[]]"])
def test_a_note_that_cannot_be_read_takes_nothing_away(tmp_path: Path, noted: str) -> None:
    (tmp_path / TOLD_FILE).write_text(noted)
    mapping, readings, _ = made(folder=tmp_path)
    readings.take(sample("pets"))
    assert "pets-requests" in components(mapping)


def test_names_with_dots_make_ids_that_home_assistant_takes() -> None:
    places = []
    for device in ("cam.1", "cam-1"):
        mapping, readings, _ = made(("lab", device))
        readings.take(sample())
        places.append(mapping.publications(fresh=True)[0].topic)
        assert re.fullmatch(r"homeassistant/device/[\w-]+/[\w-]+/config", places[-1], re.ASCII)
    assert places[0] != places[1]
