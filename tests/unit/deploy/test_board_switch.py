"""The switch on the board: a disk that is full or loses power leaves an agent that runs."""

from __future__ import annotations

import errno
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from edgekit.deploy.board import activate as switch
from edgekit.deploy.board import agent as process
from edgekit.deploy.board import environment
from edgekit.deploy.board.channel import BoardError, Channel
from edgekit.deploy.board.files import file_path, prepare
from edgekit.deploy.board.look import COMPLETE

SHA256 = "ab" * 32
OLD, NEW = "0" * 12, "1" * 12


class Board:
    """A prefix with an agent that "runs"."""

    def __init__(self, folder: Path) -> None:
        self.prefix = folder / "edgekit"
        prepare(self.prefix)
        self.config = self.prefix / "agent.json"
        self.config.write_text('{"old": 1}')
        for name in (OLD, NEW):
            (self.prefix / "venvs" / name).mkdir()
        (self.prefix / "current").symlink_to(f"venvs/{OLD}")
        self.bundle = file_path(self.prefix, SHA256, "m.ekb")
        self.bundle.parent.mkdir()
        self.bundle.write_bytes(b"a bundle")
        self.runs: str | None = OLD

    def request(self, settings: str = '{"new": 1}') -> dict[str, Any]:
        return {
            "prefix": str(self.prefix), "config": str(self.config), "user": None,
            "state_dir": str(self.prefix / "state"), "environment": NEW, "settings": settings,
            "model": "m", "sha256": SHA256, "bundle_name": "m.ekb", "wait_s": 1.0,
        }  # fmt: skip

    def start(self, place: process.Place) -> int:
        self.runs = place.current.readlink().name
        return 7

    def stop(self, _place: process.Place) -> bool:
        ran, self.runs = self.runs is not None, None
        return ran


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    made = Board(tmp_path)
    monkeypatch.setattr(switch, "start", made.start)
    monkeypatch.setattr(switch, "stop", made.stop)
    monkeypatch.setattr(switch, "main_pid", lambda _place: 7 if made.runs else None)
    monkeypatch.setattr(switch, "_check", lambda *_args: None)
    monkeypatch.setattr(switch, "wait_until_serving", lambda *_args: "trial")
    return made


def channel() -> Channel:
    return Channel(io.BytesIO(), io.BytesIO())


def full(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)


def test_a_disk_that_is_full_leaves_the_old_agent_running(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    full(monkeypatch)
    with pytest.raises(BoardError, match="No space left"):
        switch.activate(board.request(), channel())
    assert board.runs == OLD
    assert json.loads(board.config.read_text()) == {"old": 1}
    assert sorted(p.name for p in board.prefix.iterdir() if "new" in p.name) == []


def test_a_disk_that_fills_up_while_the_new_agent_starts_brings_the_old_one_back(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_up(*_args: object) -> str:
        full(monkeypatch)
        raise BoardError("the agent does not serve the bundle")

    monkeypatch.setattr(switch, "wait_until_serving", fill_up)
    with pytest.raises(BoardError, match="does not serve"):
        switch.activate(board.request(settings='{"old": 1}'), channel())
    assert board.runs == OLD


def test_what_is_switched_to_outlives_a_power_cut(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new name counts once its folder is on the medium."""
    synced: list[tuple[str, str]] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append((path.name, (board.prefix / "current").readlink().name))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    switch.activate(board.request(), channel())
    assert board.runs == NEW
    assert synced[-1] == (board.prefix.name, NEW)


def test_an_environment_is_whole_on_the_medium_before_it_is_called_so(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = board.prefix / "venvs" / NEW
    marks = []
    for name in ("_make", "_install", "_try_out"):
        monkeypatch.setattr(environment, name, lambda *_args: path.mkdir(exist_ok=True))
    monkeypatch.setattr(os, "sync", lambda: marks.append((path / COMPLETE).exists()))
    request = board.request() | {"extras": [], "wheel": {}, "wheels": [], "offline": True}
    assert environment.make_environment(request, channel()) == {"changed": True}
    assert marks[0] is False


def test_a_large_bundle_may_be_read_for_a_while_before_it_is_taken(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.truncate(board.bundle, 2 << 30)
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    def status(_folder: Path) -> dict[str, Any]:
        slot = {"phase": "trial", "serves_sha256": SHA256} if clock[0] > 120 else {"phase": "idle"}
        return {"pid": 7, "running": True, "models": {"m": slot}}

    monkeypatch.setattr(process.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(process.time, "sleep", sleep)
    monkeypatch.setattr(process, "main_pid", lambda _place: 7)
    monkeypatch.setattr(process, "read_status", status)
    monkeypatch.setattr(process, "last_words", lambda _place: [])
    place = process.Place.of(board.request())
    request = board.request() | {"wait_s": 300.0}
    assert process.wait_until_serving(place, 7, request) == "trial"
