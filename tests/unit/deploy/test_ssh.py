"""What ssh says in words that help, and what a board may answer."""

from __future__ import annotations

import ast
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.deploy.board import MODULES
from edgekit.deploy.ssh import Ssh, board_sources, remote_command
from edgekit.deploy.ssh_errors import NO_PYTHON, LostError, SshSettings, explain
from edgekit.wire.errors import ConfigError, DeviceError, MissingToolError, UsageError

BOARD = SshSettings("pi@board", 2222)


@pytest.mark.parametrize(
    ("said", "word", "step", "transient"),
    [
        ("Host key verification failed.", "not known here", "ssh -p 2222 pi@board once", False),
        (
            "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
            "another one than before",
            "ssh-keygen -R '[board]:2222'",
            False,
        ),
        ("pi@board: Permission denied (publickey).", "let us in", "ssh-copy-id -p 2222", False),
        ("ssh: Could not resolve hostname board", "no host of that name", "spelled", False),
        ("connect to host board port 2222: Connection refused", "nothing answers", "sshd", True),
        ("Connection to board closed by remote host.", "the connection broke", "again", True),
        ("", "the connection broke", "again", True),
    ],
)
def test_what_ssh_says_names_the_next_step(
    said: str, word: str, step: str, transient: bool
) -> None:
    error = explain(255, said, BOARD)
    assert word in error.message
    assert step in str(error.hint)
    assert isinstance(error, LostError) is transient
    assert error.exit_code == 8


def test_a_board_without_a_new_enough_python_is_told_apart() -> None:
    assert "Python 3.9.2 is on the board" in explain(NO_PYTHON, "Python 3.9.2\n", BOARD).message
    assert (
        "no Python is on the board" in explain(NO_PYTHON, "sh: python3: not found", BOARD).message
    )


@pytest.mark.parametrize("host", ["-oProxyCommand=x", "a b", "pi@", "a;b", "a\nb", "$(x)", ""])
def test_a_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(UsageError):
        Ssh(SshSettings(host))


def test_a_missing_ssh_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingToolError, match="ssh is not installed"):
        Ssh(BOARD)


def test_what_runs_on_the_board_needs_nothing_but_the_standard_library() -> None:
    assert [name.rpartition(".")[2] for name, _ in board_sources()] == list(MODULES)
    for _, source in board_sources():
        for node in ast.walk(ast.parse(source)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                is_ours = name.startswith("edgekit.deploy.board")
                assert is_ours or name.partition(".")[0] in sys.stdlib_module_names, name


@pytest.fixture
def fake_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An ssh that runs something in place of the board's side."""

    def make(script: str) -> Ssh:
        program = tmp_path / "ssh"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        return Ssh(BOARD)

    return make


def test_a_request_comes_back_through_a_shell(fake_ssh) -> None:
    with fake_ssh(f"exec {remote_command(as_root=False)}") as ssh:
        probe = ssh.call({"do": "probe", "prefix": "/opt/'; touch x; \"$(touch y)"})
    assert probe["python"].startswith("3.")
    assert probe["bits"] == 64


@pytest.mark.parametrize(
    ("said", "kind", "word"),
    [
        ("Welcome to my board", DeviceError, "said something unexpected"),
        ("[]", DeviceError, "said something unexpected"),
        ('{"result": 5}', DeviceError, "no object"),
        ('{"error": "no\\u001b[2J", "hint": "do"}', DeviceError, "no \\[2J"),
        ('{"error": "bad", "kind": "config"}', ConfigError, "bad"),
        ('{"result": {}', DeviceError, "connection broke|unexpected"),
    ],
    ids=range(6),
)
def test_a_hostile_board_does_no_harm(fake_ssh, said: str, kind: type, word: str) -> None:
    with (
        fake_ssh(f"printf '%s\\n' {shlex.quote(said)}; exit 255") as ssh,
        pytest.raises(kind, match=word),
    ):
        ssh.call({"do": "probe", "prefix": "/opt/x"})


def test_a_board_that_never_ends_a_line_is_given_up(fake_ssh) -> None:
    with (
        fake_ssh("head -c 9000000 /dev/zero; exit 255") as ssh,
        pytest.raises(DeviceError, match="connection broke"),
    ):
        ssh.call({"do": "probe", "prefix": "/opt/x"})


def test_the_line_for_the_board_has_nothing_from_outside() -> None:
    line = remote_command(as_root=True)
    assert "sudo -n -- " in line
    assert shlex.split(line)[:2] == ["sh", "-c"]
    checked = subprocess.run(
        ["sh", "-n", "-c", shlex.split(line)[2]], capture_output=True, check=False
    )
    assert checked.returncode == 0
