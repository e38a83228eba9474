"""A channel that the fleet's own broker would swallow is refused when the settings are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.fleet.alerts.rules import AlertSettings, read_alerts
from edgekit.fleet.broker.access import may_publish
from edgekit.wire.errors import ConfigError
from edgekit.wire.located import parse_toml


def read(text: str) -> AlertSettings:
    return read_alerts(parse_toml(text, "alerts.toml"), Path())


@pytest.mark.parametrize("topic", ["alerts/lab", "edgekit-alerts", "edgekit-alertsx/a", "x"])
def test_the_own_broker_takes_no_alert_there(topic):
    assert not may_publish("lab", ".alerts", topic)
    with pytest.raises(ConfigError) as caught:
        read(f"[channels.a]\nkind = 'mqtt'\ntopic = '{topic}'")
    assert "edgekit-alerts/" in caught.value.message
    assert caught.value.where == "alerts.toml:3"
    text = f"[channels.a]\nkind = 'mqtt'\ntopic = '{topic}'\nhost = 'mqtt.example'"
    assert read(text).channels["a"].topic == topic


@pytest.mark.parametrize("topic", ["edgekit-alerts/lab", "edgekit-alerts/a/b"])
def test_the_own_broker_takes_alerts_below_its_topic(topic):
    assert may_publish("lab", ".alerts", topic)
    assert read(f"[channels.a]\nkind = 'mqtt'\ntopic = '{topic}'").channels["a"].topic == topic
