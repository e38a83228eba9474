"""The fleet's benchmark, short: real mosquitto, real ingest, every message in the store once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ..agent_broker import find_mosquitto  # noqa: TID252 - helper of all agent tests

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.mosquitto,
    pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed"),
]


def load(folder: Path, *words: str) -> dict[str, Any]:
    """Run the benchmark; return the one run of its document."""
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "benchmarks" / "fleet.py"),
            *("--devices", "100", "--minutes", "0.2", "--keep", str(folder / "run")),
            *("--out", str(folder / "fleet.json"), *words),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    (result,) = json.loads((folder / "fleet.json").read_text())["runs"].values()
    assert isinstance(result, dict)
    return result


def test_every_message_of_every_device_is_stored_once(tmp_path: Path) -> None:
    result = load(tmp_path)
    assert result["devices"]["messages"] >= 500
    assert result["store"]["rows"] == result["devices"]["messages"]
    assert result["store"]["doubled"] == result["lost"] == result["undelivered"] == 0


def test_nothing_is_lost_or_doubled_by_devices_that_misbehave(tmp_path: Path) -> None:
    faults = [
        word
        for name in ("duplicate", "reorder", "malformed", "flood")
        for word in ("--fault", f"{name}=0.1")
    ]
    result = load(tmp_path, *faults)
    assert result["store"]["rows"] == result["devices"]["messages"]
    assert result["store"]["doubled"] == result["lost"] == 0


@pytest.mark.slow
def test_nothing_is_lost_or_doubled_when_broker_and_ingest_are_killed(tmp_path: Path) -> None:
    result = load(tmp_path, "--minutes", "1", "--kills", "4")
    assert sum(result["kills"].values()) == 4
    assert result["store"]["rows"] == result["devices"]["messages"]
    assert result["store"]["doubled"] == result["lost"] == 0
