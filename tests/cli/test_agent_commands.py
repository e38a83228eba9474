"""`edgekit agent install`, `status` and `logs` as a user calls them."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit.agent.status import SCHEMA
from edgekit.cli.commands import agent_logs
from edgekit.cli.commands.agent_install import lasting, plain_name
from edgekit.cli.commands.agent_status import span
from edgekit.wire.signing import generate_key


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "dev.pub.pem"
    path.write_bytes(generate_key("dev").public.to_pem())
    return path


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings of an agent that has run here, without a service."""
    monkeypatch.setattr(agent_logs, "_UNIT_FILE", tmp_path / "no.service")
    (tmp_path / "state" / "slots").mkdir(parents=True)
    (tmp_path / "state" / "slots" / "lock").touch()
    status = {
        "schema": SCHEMA,
        "running": True,
        "pid": os.getpid(),
        "version": "0.1.0",
        "fleet": "lab",
        "device": "board-1",
        "target": "rpi5",
        "boot_id": "00" * 8,
        "uptime_s": 7500.0,
        "http": "http://127.0.0.1:8080/",
        "broker": None,
        "models": {},
        "outbox": {"messages": 0, "size_bytes": 0, "problem": ""},
    }
    (tmp_path / "state" / "status.json").write_text(json.dumps(status))
    path = tmp_path / "agent.json"
    path.write_text(json.dumps({"state_dir": "state"}))
    return path


def test_a_dry_run_shows_what_would_be_written(
    edgekit: Callable[..., Any], key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # This checkout may lie below /tmp itself, where no service may.
    monkeypatch.setattr("edgekit.agent.unit._FLEETING", ())
    place = tmp_path / "etc" / "agent.json"
    line = ("agent", "install", "--config", "/etc/edgekit-test/agent.json", "--target", "rpi5")
    ran = edgekit(*line, "--key", key, "--device", "oven", "--dry-run")
    assert ran.code == 0, ran.err
    assert "ExecStart=" in ran.out
    assert '"device": "oven"' in ran.out
    assert "nothing was changed" in ran.out
    document = edgekit(*line, "--key", key, "--dry-run", "--json").document
    assert document["dry_run"]
    assert {"user", "settings", "unit"} <= {change["what"] for change in document["changes"]}
    assert not place.exists()
    assert not Path("/etc/edgekit-test").exists()


def test_what_is_missing_for_new_settings_is_named(edgekit: Callable[..., Any]) -> None:
    ran = edgekit("agent", "install", "--config", "/etc/edgekit-test/a.json", "--dry-run")
    assert ran.code == 2
    assert "--target NAME and --key PUB.pem" in ran.err


def test_status_shows_an_agent_that_runs_and_ends_with_8_where_none_does(
    edgekit: Callable[..., Any], config: Path
) -> None:
    ran = edgekit("agent", "status", "--config", config)
    assert ran.code == 8
    assert "is not running" in ran.err
    assert "systemctl start edgekit-agent" in ran.err
    with (config.parent / "state" / "slots" / "lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ran = edgekit("agent", "status", "--config", config)
        assert ran.code == 0, ran.err
        assert "board-1 in lab" in ran.out
        assert "up 2 h 5 min" in ran.out
        document = edgekit("agent", "status", "--config", config, "--json").document
    assert document["schema"] == "edgekit.agent.status/1"
    assert document["pid"] == os.getpid()


def test_logs_of_a_file_and_of_nothing(edgekit: Callable[..., Any], config: Path) -> None:
    ran = edgekit("agent", "logs", "--config", config)
    assert ran.code == 8
    assert "no log here" in ran.err
    lines = [f"line {number}" for number in range(100)] + ["\x1b[2Jx"]
    (config.parent / "state" / "agent.log").write_text("\n".join(lines) + "\n")
    ran = edgekit("agent", "logs", "--config", config, "-n", "2")
    assert ran.out.splitlines() == ["line 99", "\\u001b[2Jx"]
    document = edgekit("agent", "logs", "--config", config, "-n", "2", "--json").document
    assert document["lines"] == ["line 99", "\\u001b[2Jx"]
    assert edgekit("agent", "logs", "-f", "--json", "--config", config).code == 2


def test_a_service_is_started_by_the_link_that_lasts(tmp_path: Path) -> None:
    python = tmp_path / "venvs" / "abc" / "bin" / "python"
    python.parent.mkdir(parents=True)
    assert lasting(python) == python
    (tmp_path / "current").symlink_to("venvs/abc")
    assert lasting(python) == tmp_path / "current" / "bin" / "python"


def test_names_and_spans() -> None:
    assert plain_name("Kitchen_Pi.local") == "kitchen_pi"
    assert [span(s) for s in (5, 65, 3700, 90_000)] == ["5 s", "1 min", "1 h 1 min", "1 d 1 h"]
