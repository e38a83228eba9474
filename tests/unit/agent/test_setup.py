"""The set-up of the service, below a folder that stands in for the machine."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.agent.machine import Change, Identity, Machine, run_program
from edgekit.agent.setup import CONFIG, STATE, UNITS, Request, first_settings, install, uninstall
from edgekit.wire.errors import ConfigError, DeviceError, MissingToolError, UsageError
from edgekit.wire.signing import generate_key

REQUEST = Request(python=Path("/opt/edgekit/current/bin/python"))


class Board(Machine):
    """A machine whose files lie in a folder, and whose programs are a list of what was called."""

    def __init__(self, root: Path, *, dry_run: bool = False) -> None:
        super().__init__(root=root, run=self.note, dry_run=dry_run)
        (root / "run/systemd/system").mkdir(parents=True, exist_ok=True)
        self.called: list[str] = []
        self.is_up = False

    def note(self, argv: Sequence[str]) -> str:
        self.called.append(" ".join(argv))
        if argv[1].startswith("is-") and not self.is_up:
            raise DeviceError("no")
        self.is_up |= "restart" in argv
        return ""

    def has_user(self, name: str) -> bool:
        return any(line.startswith("useradd") and line.endswith(f" {name}") for line in self.called)

    def identity(self, name: str) -> Identity:  # noqa: ARG002 - as every user
        return Identity(os.geteuid(), 12345 if os.geteuid() == 0 else os.getegid())


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path / "root")


def request_with_settings(**changed: object) -> Request:
    key = generate_key().public.to_pem().decode()
    settings = first_settings(device="board-1", target="rpi5", keys=[key], fleet="lab")
    return replace(REQUEST, settings=json.dumps(settings | changed).encode())


def outcomes(changes: Sequence[Change]) -> dict[str, str]:
    return {change.what: change.outcome for change in changes if change.what != "pyc"}


def test_everything_is_put_in_place_and_a_second_run_changes_nothing(board: Board) -> None:
    request = request_with_settings()
    first = list(install(request, board))
    assert outcomes(first) == {
        "user": "created",
        "folder": "created",
        "settings": "created",
        "state": "created",
        "unit": "created",
        "boot": "changed",
        "service": "changed",
    }
    settings = board.real(CONFIG)
    assert stat.S_IMODE(settings.stat().st_mode) == 0o640
    assert stat.S_IMODE(board.real(STATE).stat().st_mode) == 0o750
    assert b"User=edgekit" in board.real(UNITS / "edgekit-agent.service").read_bytes()
    assert board.called[-1] == "systemctl restart edgekit-agent.service"
    if os.geteuid() == 0:
        assert (settings.stat().st_uid, settings.stat().st_gid) == (0, 12345)

    before = len(board.called)
    assert set(outcomes(list(install(request, board))).values()) == {"unchanged"}
    assert not [line for line in board.called[before:] if "restart" in line or "enable " in line]


def test_what_is_off_is_put_right(board: Board) -> None:
    request = request_with_settings()
    list(install(request, board))
    board.real(CONFIG).chmod(0o644)
    changed = list(install(replace(request, memory_max_mib=300), board))
    found = outcomes(changed)
    assert (found["settings"], found["unit"], found["service"]) == ("changed",) * 3
    assert next(c for c in changed if c.what == "settings").detail.startswith("mode 0644 → 0640")
    assert board.called[-1] == "systemctl restart edgekit-agent.service"


def test_settings_that_are_there_stay(board: Board) -> None:
    list(install(request_with_settings(device="mine"), board))
    list(install(request_with_settings(device="another"), board))
    assert json.loads(board.real(CONFIG).read_bytes())["device"] == "mine"


def test_files_with_secrets_are_closed(board: Board) -> None:
    token = board.real(CONFIG.parent / "token")
    token.parent.mkdir(parents=True)
    token.write_text("secret")
    token.chmod(0o644)
    key = token.with_name("http.key")
    key.write_text("secret")
    key.chmod(0o644)
    tls = {"cert_file": "http.pem", "key_file": "http.key"}
    http = {"host": "127.0.0.1", "port": 8080, "token_file": "token", "tls": tls}
    board.real(CONFIG).write_bytes(request_with_settings(http=http).settings or b"")
    found = outcomes(list(install(REQUEST, board)))
    assert found["private"] == "changed"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_without_settings_and_a_key_the_next_step_is_named(board: Board) -> None:
    with pytest.raises(UsageError) as caught:
        list(install(REQUEST, board))
    assert "--key" in str(caught.value.hint)


def test_a_dry_run_changes_nothing_and_shows_what_would_be_written(tmp_path: Path) -> None:
    board = Board(tmp_path / "root", dry_run=True)
    changes = list(install(request_with_settings(), board))
    assert outcomes(changes)["unit"] == "created"
    assert "ProtectSystem=strict" in next(c.text for c in changes if c.what == "unit")
    assert [p.name for p in (tmp_path / "root").iterdir()] == ["run"]
    assert not [line for line in board.called if "is-" not in line]


def test_uninstall_leaves_the_state_unless_it_is_to_go(board: Board) -> None:
    list(install(request_with_settings(), board))
    (board.real(STATE) / "slots").mkdir()
    found = outcomes(list(uninstall(CONFIG, "edgekit", board, purge=False)))
    assert (found["unit"], found["settings"], found["state"]) == ("removed", "removed", "kept")
    assert "systemctl disable --now edgekit-agent.service" in board.called
    assert board.real(STATE).is_dir()
    assert not board.real(CONFIG.parent).exists()
    assert outcomes(list(uninstall(CONFIG, "edgekit", board, purge=True)))["state"] == "removed"
    assert not board.real(STATE).exists()


def test_purge_takes_no_folder_of_others(board: Board) -> None:
    (board.real(Path("/srv/photos")) / "holiday").mkdir(parents=True)
    list(install(request_with_settings(state_dir="/srv/photos"), board))
    found = outcomes(list(uninstall(CONFIG, "edgekit", board, purge=True)))
    assert found["state"] == "kept"
    assert (board.real(Path("/srv/photos")) / "holiday").is_dir()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("runuser"), reason="needs root")
def test_a_program_out_of_the_users_reach_is_refused(board: Board) -> None:
    home = board.real(Path("/home/pi"))
    home.mkdir(parents=True)
    home.chmod(0o700)
    request = replace(request_with_settings(), user="nobody", python=Path("/home/pi/v/bin/python"))
    with pytest.raises(ConfigError, match="cannot enter /home/pi"):
        list(install(request, board))


def test_a_missing_program_and_a_failing_one_are_told_apart() -> None:
    with pytest.raises(MissingToolError, match="no-such-program is not installed"):
        run_program(["no-such-program"])
    with pytest.raises(DeviceError, match="it broke"):
        run_program(["sh", "-c", "echo it broke >&2; exit 3"])
