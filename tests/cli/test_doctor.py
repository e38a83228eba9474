from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgekit.cli.main import run


def test_json_groups_the_checks(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "edgekit.doctor/1"
    assert document["ready"] is True
    groups = {group["name"]: group for group in document["groups"]}
    assert {"machine", "core", "build", "tasks", "export", "emulate"} <= set(groups)
    assert all(
        set(check) == {"name", "state", "found", "install"}
        for group in groups.values()
        for check in group["checks"]
    )


def test_people_see_purposes_and_the_next_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "  this machine"
    assert lines[-1].endswith("edgekit build --target rpi5")
    assert max(map(len, lines)) <= 100


def test_a_broken_key_is_exit_4_with_the_command_that_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "dev.pem"
    key.write_text("-----BEGIN PRIVATE KEY-----\n")
    key.chmod(0o644)
    monkeypatch.setenv("EDGEKIT_KEY_FILE", str(key))
    assert run(["doctor"]) == 4
    assert f"chmod 600 {key}" in capsys.readouterr().out
