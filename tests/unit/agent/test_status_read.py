"""Reading an agent's status: what runs is told from what ran, and hostile files do no harm."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest

from edgekit.agent.status import SCHEMA
from edgekit.agent.status_read import MAX_BYTES, read_status, state_dir_of
from edgekit.wire.errors import ConfigError, DeviceError

STATUS: dict[str, Any] = {
    "schema": SCHEMA,
    "running": True,
    "pid": os.getpid(),
    "version": "0.1.0",
    "fleet": "lab",
    "device": "board-1",
    "target": "rpi5",
    "boot_id": "00" * 8,
    "uptime_s": 61.5,
    "http": "http://127.0.0.1:8080",
    "models": {
        "digits": {
            "phase": "confirmed",
            "serves_sha256": "ab" * 32,
            "confirmed_sha256": "ab" * 32,
            "next_sha256": None,
            "reason": "",
            "self_test": {"passed": True, "reason": "", "duration_s": 2.5},
        }
    },
    "broker": {"connected": True, "protocol": "5", "problem": "", "attempts": 0},
    "outbox": {"messages": 3, "size_bytes": 2048, "problem": ""},
}


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    (tmp_path / "slots").mkdir()
    (tmp_path / "slots" / "lock").touch()
    return tmp_path


def write(state_dir: Path, **changed: Any) -> None:
    (state_dir / "status.json").write_text(json.dumps(STATUS | changed))


def test_it_runs_while_it_holds_its_slots(state_dir: Path) -> None:
    write(state_dir, pid=os.getpid())
    assert not read_status(state_dir).running
    with (state_dir / "slots" / "lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        status = read_status(state_dir)
        assert status.running
        write(state_dir, pid=os.getpid() + 1)  # of an agent before it
        assert not read_status(state_dir).running
        write(state_dir, running=False)
        assert not read_status(state_dir).running
    assert (status.broker, status.outbox) == (
        "broker connected, MQTT 5",
        "3 messages wait, 2.0 KiB",
    )
    (model,) = status.models
    assert (model.phase, model.serves, model.self_test) == (
        "confirmed",
        "ab" * 32,
        "passed in 2.5 s",
    )


def test_silence_is_told(state_dir: Path) -> None:
    write(state_dir)
    written_s = (state_dir / "status.json").stat().st_mtime
    with (state_dir / "slots" / "lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert read_status(state_dir, now_s=lambda: written_s + 5).silent_s is None
        assert read_status(state_dir, now_s=lambda: written_s + 60).silent_s == 60


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b" " * (MAX_BYTES + 2),
        json.dumps(STATUS | {"pid": -1}).encode(),
        json.dumps(STATUS | {"pid": 10**30}).encode(),
        json.dumps(STATUS | {"device": "\x1b[2J"}).encode(),
        json.dumps(STATUS | {"models": {"x": {}}}).encode(),
        json.dumps(STATUS | {"models": []}).encode(),
        json.dumps(STATUS | {"schema": "edgekit.agent-status/2"}).encode(),
    ],
    ids=range(12),
)
def test_what_is_no_status_is_an_error(state_dir: Path, data: bytes) -> None:
    (state_dir / "status.json").write_bytes(data)
    with pytest.raises(DeviceError):
        read_status(state_dir)


def test_fields_that_are_not_known_yet_are_passed_over(state_dir: Path) -> None:
    write(state_dir, later={"x": 1})
    assert read_status(state_dir).document["later"] == {"x": 1}


def test_no_status_names_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(DeviceError) as caught:
        read_status(tmp_path)
    assert "systemctl start" in str(caught.value.hint)


def test_the_state_folder_is_read_from_the_settings_alone(tmp_path: Path) -> None:
    config = tmp_path / "agent.json"
    config.write_text(json.dumps({"state_dir": "state", "http": {"token_file": "not-ours"}}))
    assert state_dir_of(config) == tmp_path / "state"
    config.write_text("{}")
    with pytest.raises(ConfigError):
        state_dir_of(config)
