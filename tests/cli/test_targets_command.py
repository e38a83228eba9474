"""``edgekit targets``: list, show, check."""

from __future__ import annotations

import json

import pytest

from edgekit.cli.main import run
from edgekit.toolchain.project import packaged_folder
from edgekit.toolchain.targets import KEYS, list_targets

NAMES = list_targets([packaged_folder("targets")])


def as_json(capsys):
    return json.loads(capsys.readouterr().out)


def test_list_names_every_target(capsys):
    assert run(["targets", "list"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in NAMES)
    assert "refused: armv7" in text
    assert max(len(line) for line in text.splitlines()) <= 100


def test_list_as_json_is_one_document(capsys):
    assert run(["targets", "list", "--json"]) == 0
    document = as_json(capsys)
    assert document["schema"] == "edgekit.targets.list/1"
    assert [row["name"] for row in document["targets"]] == NAMES
    assert {row["name"] for row in document["targets"] if row["refused"]} == {"armv7", "riscv64"}


def test_list_quietly_prints_names_alone(capsys):
    assert run(["targets", "list", "--quiet"]) == 0
    assert capsys.readouterr().out.split() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_show_gives_each_value_its_origin(capsys, name):
    assert run(["targets", "show", name, "--json"]) == 0
    document = as_json(capsys)
    assert document["schema"] == "edgekit.targets.show/1"
    assert set(document["values"]) <= set(KEYS)
    for row in document["values"].values():
        file, _, line = row["origin"].partition(":")
        assert file in document["files"]
        assert int(line) > 0


def test_show_prints_origins_beside_values(capsys):
    assert run(["targets", "show", "rpi5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (core,) = [line for line in lines if line.startswith("cpu.core ")]
    assert "Cortex-A76" in core
    assert "targets/rpi5.toml:" in core


def test_an_unknown_target_is_a_config_error_with_a_guess(capsys):
    assert run(["targets", "show", "rpi55"]) == 3
    text = capsys.readouterr().err
    assert 'no target named "rpi55"' in text
    assert "did you mean rpi5?" in text
    assert f"shows all {len(NAMES)}." in text


def test_check_finds_every_broken_file_and_goes_on(capsys, tmp_path):
    folder = tmp_path / "targets"
    folder.mkdir()
    (folder / "one.toml").write_text('title = "One"\nextends = "rpi5"\n[cpu]\ncoers = 2\n')
    (folder / "two.toml").write_text("title = \n")
    (folder / "three.toml").write_text('title = "Three"\nextends = "rpi5"\n')
    assert run(["targets", "check", "--project", str(tmp_path), "--json"]) == 3
    document = as_json(capsys)
    assert document["ok"] is False
    broken = {row["name"]: row["where"] for row in document["targets"] if not row["ok"]}
    assert broken == {"one": "targets/one.toml:4", "two": "targets/two.toml:1"}


def test_check_of_the_packaged_targets_is_clean(capsys):
    assert run(["targets", "check"]) == 0
    assert f"{len(NAMES)} of {len(NAMES)} targets are sound" in capsys.readouterr().out
