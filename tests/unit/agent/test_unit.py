"""The systemd unit: what it says, that systemd reads it as meant, and what it refuses."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.agent.unit import UnitSettings, render_unit
from edgekit.wire.errors import ConfigError

PLAIN = UnitSettings(
    python=Path("/opt/edgekit/current/bin/python"),
    config=Path("/etc/edgekit/agent.json"),
    state_dir=Path("/var/lib/edgekit"),
)
# Every sign that means something to systemd.
ODD = "a \"b' \\ 50% $HOME ${x};#"


def lines(settings: UnitSettings) -> list[str]:
    return render_unit(settings).splitlines()


def test_the_agent_is_watched_and_started_again_for_ever() -> None:
    found = lines(PLAIN)
    for line in (
        "Type=notify",
        "WatchdogSec=30",
        "Restart=always",
        "StartLimitIntervalSec=0",
        "User=edgekit",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "PrivateTmp=yes",
        "NoNewPrivileges=yes",
        "StateDirectory=edgekit",
        "OOMPolicy=continue",
        "SystemCallFilter=@system-service",
        "Environment=ORT_DISABLE_TELEMETRY=1 PYTHONUNBUFFERED=1",
    ):
        assert line in found
    program = "/opt/edgekit/current/bin/python -m edgekit.agent.main"
    assert f"ExecStart={program} --config /etc/edgekit/agent.json" in found
    assert not [line for line in found if line.startswith(("SupplementaryGroups", "MemoryMax"))]


def test_groups_and_a_limit_of_memory_are_options() -> None:
    found = lines(replace(PLAIN, groups=("video", "gpio"), memory_max_mib=512))
    assert "SupplementaryGroups=video gpio" in found
    assert "MemoryMax=512M" in found


def test_a_state_folder_elsewhere_is_made_writable() -> None:
    found = lines(replace(PLAIN, state_dir=Path("/srv/agent"), writable=(Path("/srv/in box"),)))
    assert 'ReadWritePaths=/srv/agent "/srv/in box"' in found
    assert not [line for line in found if line.startswith("StateDirectory")]


def test_homes_stay_closed_unless_something_lies_there() -> None:
    assert "ProtectHome=read-only" in lines(replace(PLAIN, python=Path("/home/pi/v/bin/python")))


def test_signs_that_mean_something_to_systemd_are_written_as_themselves() -> None:
    found = lines(
        replace(
            PLAIN,
            python=Path("/opt/$x %h/python"),
            config=Path("/etc/$HOME %h/agent.json"),
            state_dir=Path("/srv/%h"),
        )
    )
    program, config = '"/opt/$x %%h/python"', '"/etc/$$HOME %%h/agent.json"'
    assert f"ExecStart={program} -m edgekit.agent.main --config {config}" in found
    assert "WorkingDirectory=/srv/%%h" in found
    assert 'ReadWritePaths="/srv/%%h"' in found


@pytest.mark.parametrize(
    "bad",
    [
        {"config": Path("agent.json")},
        {"config": Path("/etc/x\nExecStartPre=/bin/sh")},
        {"config": Path("/etc/../tmp/x")},
        {"config": Path("/etc/agent.json ")},
        {"state_dir": Path("/run/state")},
        {"python": Path('/opt/a"b/python')},
        {"user": "root\nX=1"},
        {"user": "Root"},
        {"groups": ("video audio",)},
    ],
    ids=str,
)
def test_what_no_unit_can_hold_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        render_unit(replace(PLAIN, **bad))


@pytest.mark.parametrize("name", ["edgekit", ODD])
def test_systemd_reads_what_was_meant(tmp_path: Path, name: str) -> None:
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd-analyze is not here (package systemd)")
    settings = UnitSettings(
        python=Path("/bin/sh"),  # it must be there
        config=Path("/etc") / name / "agent.json",
        state_dir=Path("/var/lib") / name,
        writable=(Path("/srv") / name,),
        groups=("video",),
        memory_max_mib=256,
    )
    unit = tmp_path / "edgekit-agent.service"
    unit.write_text(render_unit(settings), encoding="utf-8")
    done = subprocess.run(
        [verify, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_systemd_would_say_what_is_wrong(tmp_path: Path) -> None:
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd-analyze is not here (package systemd)")
    unit = tmp_path / "edgekit-agent.service"
    text = render_unit(replace(PLAIN, python=Path("/bin/sh")))
    unit.write_text(text.replace("WatchdogSec=30", "WatchdogSec=often"), encoding="utf-8")
    done = subprocess.run(
        [verify, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    assert "often" in done.stderr
