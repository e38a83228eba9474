"""fleet.toml: read strictly, and as it is written."""

from __future__ import annotations

import pytest

from edgekit.fleet.home import FleetHome
from edgekit.fleet.settings import Settings, load_settings, write_settings
from edgekit.wire.errors import ConfigError


@pytest.fixture
def home(tmp_path) -> FleetHome:
    return FleetHome.create(tmp_path)


def test_settings_are_read_as_they_were_written(home):
    settings = Settings(name="north", http_port=9000, broker_port=2000, retention_days=1.5)
    write_settings(home, settings)
    assert load_settings(home) == settings
    assert load_settings(home).base_url == "http://127.0.0.1:9000"


def test_an_empty_file_means_the_defaults(home):
    home.settings_file.write_text("")
    assert load_settings(home) == Settings()


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ('nme = "north"', "unknown key", 1),
        ('name = "North Sea"', "is no fleet for a topic", 1),
        ("[http]\nport = 70000", "70000 is no port", 2),
        ("[http]\nport = true", "expected int", 2),
        ('[http]\nurl = "ftp://x"', "neither http:// nor https://", 2),
        ('[broker]\nkind = "rabbit"', 'no broker is named "rabbit"', 2),
        ("[retention]\ndays = 0", "days must be above 0", 2),
        ("[retention]\ngib = inf", "gib must be above 0", 2),
        ("[retention", "TOML", 1),
    ],
)
def test_what_is_wrong_is_named_with_its_line(home, text, message, line):
    home.settings_file.write_text(text)
    with pytest.raises(ConfigError, match=message) as raised:
        load_settings(home)
    assert str(raised.value.where).endswith(f"fleet.toml:{line}")
