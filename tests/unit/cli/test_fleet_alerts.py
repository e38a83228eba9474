"""``edgekit fleet alerts --silence``, and tables in a narrow terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from edgekit.cli.commands.fleet_devices import render
from edgekit.cli.main import run
from edgekit.fleet.home import FleetHome
from edgekit.fleet.settings import Settings, write_settings
from edgekit.fleet.store import open_store


@pytest.fixture
def home(tmp_path):
    made = FleetHome.create(tmp_path / "fleet")
    write_settings(made, Settings(name="north"))
    open_store(made.database).dispose()
    return made


@pytest.mark.parametrize(
    ("rule", "hint"), [("ofline", "did you mean offline?"), ("x*", "alerts --check")]
)
def test_a_silence_of_no_rule_is_refused(home, rule, hint, capsys):
    assert run(["fleet", "alerts", "--silence", rule, "--home", str(home.path)]) == 2
    assert hint in capsys.readouterr().err
    run(["fleet", "alerts", "--silences", "--home", str(home.path)])
    assert "nothing is silenced" in capsys.readouterr().out


def test_a_silence_of_rules_by_pattern_is_kept(home, capsys):
    assert run(["fleet", "alerts", "--silence", "off*", "--home", str(home.path)]) == 0
    assert "off*" in capsys.readouterr().out


def test_a_narrow_terminal_cuts_labels_before_names_and_states():
    row = {
        "name": "cam-0001",
        "online": True,
        "last_seen_s": 90.0,
        "models": {"digits-cnn": "12756eaa0b9d"},
        "labels": {"site": "roof", "room": "the one behind the stairs"},
    }
    drawn = io.StringIO()
    render(Console(file=drawn, width=80), [row], 100.0)
    line = next(line for line in drawn.getvalue().splitlines() if "cam-" in line)
    assert "cam-0001  online  10 s" in line
    assert "…" in line
    assert len(drawn.getvalue().strip().splitlines()) == 4
