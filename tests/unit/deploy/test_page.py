"""docs/deploy.md: its commands are commands, and what it says of the unit stands there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import click
import pytest

from edgekit.agent.unit import UnitSettings, render_unit
from edgekit.cli.main import cli
from edgekit.deploy.settings import check_overlay

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "deploy.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line[line.index("edgekit ") :]
    for block in BLOCKS
    for line in block.splitlines()
    if re.match(r"(sudo )?(\S*/)?edgekit ", line)
]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_one(line: str) -> None:
    words = shlex.split(line)[1:]
    group: click.Command = cli
    while isinstance(group, click.Group):
        name, *words = words
        context = click.Context(group)
        found = group.get_command(context, name)
        assert found is not None, name
        group = found
    group.make_context(group.name, words, resilient_parsing=False)


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 7


def test_the_settings_of_the_example_may_be_given() -> None:
    (example,) = re.findall(r"^\{.*\}$", PAGE, re.MULTILINE)
    check_overlay(json.loads(example))


def test_what_it_says_of_the_unit_stands_there() -> None:
    unit = render_unit(
        UnitSettings(
            Path("/opt/p/python"), Path("/etc/edgekit/agent.json"), Path("/var/lib/edgekit")
        )
    )
    for line in ("RestartSec=5", "WatchdogSec=30", "OOMPolicy=continue", "ProtectSystem=strict"):
        assert line in unit
    assert "OOMPolicy=continue" in PAGE
