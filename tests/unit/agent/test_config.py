"""agent.json: every documented key is read, and nothing else is."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from edgekit.agent.config import (
    KEYS,
    Capture,
    HomeAssistantSettings,
    HttpTls,
    SparkplugSettings,
    load_config,
)
from edgekit.wire.errors import ConfigError
from edgekit.wire.signing import generate_key

PEM = generate_key().public.to_pem().decode()
FULL: dict[str, Any] = {
    "schema": "edgekit.agent/1",
    "fleet": "lab",
    "device": "board-1",
    "target": "rpi5",
    "state_dir": "state",
    "trusted_keys": [PEM],
    "http": {
        "host": "127.0.0.1",
        "port": 8081,
        "token_file": "token",
        "tls": {"cert_file": "http.pem", "key_file": "http.key"},
    },
    "broker": {
        "host": "broker.lan",
        "port": 8884,
        "tls": {"ca_file": "ca.pem", "cert_file": "cert.pem", "key_file": "key.pem"},
        "username": "board-1",
        "password_file": "password",
    },
    "telemetry": {"period_s": 5, "outbox_mib": 8},
    "trial": {"duration_s": 60, "min_requests": 5, "max_duration_s": 120},
    "capture": {"allowed": True, "max_mib": 8},
    "mappings": {
        "home_assistant": {"prefix": "ha", "period_s": 30},
        "sparkplug": {"group": "plant-7", "node": "line-2", "period_s": 5},
    },
    "bundles": ["a.ekb"],
    "flows": [{"input": {"kind": "stdin"}, "model": "m", "outputs": [{"kind": "file"}]}],
    "pipelines": {"ocr": {"steps": [{"model": "det"}]}},
}
NEEDED = ("schema", "fleet", "device", "target", "state_dir", "trusted_keys")


@pytest.fixture
def load(tmp_path: Path):
    (tmp_path / "token").write_text("hush-token\n")
    (tmp_path / "password").write_text("hush-word\n")

    def go(settings: Any) -> Any:
        path = tmp_path / "agent.json"
        path.write_text(settings if isinstance(settings, str) else json.dumps(settings))
        return load_config(path)

    return go


def keys_of(settings: dict[str, Any], prefix: str = "") -> set[str]:
    found = set()
    for key, value in settings.items():
        is_group = isinstance(value, dict) and key != "pipelines"
        found |= keys_of(value, f"{prefix}{key}.") if is_group else {prefix + key}
    return found


def test_the_documented_keys_are_all_there_is():
    assert keys_of(FULL) == set(KEYS)


def test_mappings_and_captures_are_off_and_have_defaults(load):
    plain = {key: FULL[key] for key in NEEDED}
    config = load(plain)
    assert config.home_assistant is None
    assert config.sparkplug is None
    assert not config.capture.allowed
    assert not load(plain | {"capture": {}}).capture.allowed
    config = load(plain | {"mappings": {"home_assistant": {}, "sparkplug": {}}})
    assert config.home_assistant == HomeAssistantSettings("homeassistant", 10.0)
    assert config.sparkplug == SparkplugSettings(FULL["fleet"], FULL["device"], 10.0)


def test_everything_is_read(load, tmp_path):
    config = load(FULL)
    assert config.state_dir == tmp_path / "state"
    assert config.trusted_keys[0].to_pem().decode() == PEM
    assert (config.http.port, config.http.token) == (8081, "hush-token")
    assert (config.broker.port, config.broker.password) == (8884, "hush-word")
    assert config.broker.tls.key == tmp_path / "key.pem"
    assert (config.period_s, config.outbox_bytes) == (5.0, 8 << 20)
    assert (config.trial.duration_s, config.trial.min_requests) == (60.0, 5)
    assert config.http.tls == HttpTls(tmp_path / "http.pem", tmp_path / "http.key")
    assert config.capture == Capture(allowed=True, max_bytes=8 << 20)
    assert config.home_assistant == HomeAssistantSettings("ha", 30.0)
    assert config.sparkplug == SparkplugSettings("plant-7", "line-2", 5.0)
    assert config.bundles == (tmp_path / "a.ekb",)
    assert config.flows[0].source == {"kind": "stdin"}
    assert set(config.pipelines) == {"ocr"}


def test_no_secret_is_shown(load):
    assert "hush" not in repr(load(FULL))


def test_what_has_a_default_may_be_left_out_or_null(load):
    config = load({key: FULL[key] for key in NEEDED} | {"broker": None})
    assert config.broker is None
    assert (config.http.host, config.http.port, config.http.token) == ("127.0.0.1", 8080, None)
    plain = load({key: FULL[key] for key in NEEDED} | {"broker": {"host": "b"}})
    assert plain.broker.port == 1883


@pytest.mark.parametrize("key", [*NEEDED])
def test_what_is_needed_is_named(load, key):
    with pytest.raises(ConfigError, match=key) as caught:
        load({k: v for k, v in FULL.items() if k != key})
    assert "agent.json" in str(caught.value.where)


@pytest.mark.parametrize("place", ["", "http", "broker", "broker.tls", "telemetry", "trial"])
def test_a_key_that_nobody_knows_is_named(load, place):
    settings = copy.deepcopy(FULL)
    group = settings
    for part in filter(None, place.split(".")):
        group = group[part]
    group["colour"] = 1
    with pytest.raises(ConfigError, match="colour"):
        load(settings)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fleet", "a/b"),
        ("device", "#"),
        ("trusted_keys", ["no key"]),
        ("trusted_keys", [7]),
        ("http", {"port": 70_000}),
        ("http", {"token_file": "missing"}),
        ("broker", {"host": "b", "port": 0}),
        ("telemetry", {"period_s": 0}),
        ("trial", {"min_requests": -1}),
        ("flows", [{"model": "m"}]),
        ("pipelines", {"A B": {}}),
        ("pipelines", {"ocr": 1}),
        ("schema", "edgekit.agent/2"),
    ],
)
def test_a_wrong_value_is_an_error_of_the_settings(load, key, value):
    with pytest.raises(ConfigError):
        load(FULL | {key: value})


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00", '{"schema": "edgekit.agent/1"'])
def test_what_is_no_json_object_is_one_too(load, text):
    with pytest.raises(ConfigError):
        load(text)
