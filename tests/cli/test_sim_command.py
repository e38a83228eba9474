"""``edgekit sim``: what it prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgekit.cli.main import run


def test_a_virtual_run_is_one_document_and_the_same_for_the_same_seed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = ["sim", "--devices", "3", "--virtual", "--for", "60", "--fault", "hot=0.3", "--json"]
    documents = []
    for _ in range(2):
        assert run(line) == 0
        documents.append(json.loads(capsys.readouterr().out))
    assert documents[0] == documents[1]
    assert documents[0]["schema"] == "edgekit.sim/1"
    assert documents[0]["messages"] == documents[0]["acked"] == 180


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--fault", "hott=0.1"], "did you mean hot?"),
        (["--fault", "hot=2"], "--fault hot=0.05"),
        (["--broker", "nowhere"], "--broker 127.0.0.1:1883"),
        (["--virtual"], "--for 3600"),
    ],
)
def test_a_wrong_line_says_what_is_right(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sim", *words]) == 2
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[]", '{"a": 1}', "{", ""])
def test_passwords_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "devices.json"
    path.write_text(text)
    assert run(["sim", "--passwords", str(path), "--for", "1"]) == 3


def test_without_a_fleet_it_ends_and_says_that_nobody_answers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = ["sim", "--devices", "1", "--samples", "1", "--for", "1.5", "--drain", "0", "--json"]
    assert run([*line, "--broker", "127.0.0.1:1"]) == 8
    said = capsys.readouterr()
    assert json.loads(said.out)["held"] >= 1
    assert "not acknowledged" in said.err
