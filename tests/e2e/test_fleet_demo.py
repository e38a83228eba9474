"""``edgekit fleet demo``: a newcomer sees devices that live, and all of it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgekit.fleet.home import FleetHome
from edgekit.fleet.ports import read_pid
from edgekit.fleet.store import open_store, queries
from edgekit.fleet.store.reader import Reader

from ..agent_broker import find_mosquitto, free_port  # noqa: TID252 - helpers of all agent tests

pytestmark = [
    pytest.mark.mosquitto,
    pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed"),
]


def test_devices_are_online_and_ctrl_c_ends_everything(tmp_path: Path) -> None:
    home = FleetHome(tmp_path / "demo")
    line = [sys.executable, "-m", "edgekit", "fleet", "demo", "--devices", "8"]
    line += ["--home", str(home.path), "--port", str(free_port())]
    line += ["--broker-port", str(free_port())]
    with (tmp_path / "log").open("wb") as log:
        demo = subprocess.Popen(line, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        online = 0
        while online < 7 and time.monotonic() < deadline:
            assert demo.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.5)
            if home.database.exists():
                engine = open_store(home.database)
                seen = queries.summary(Reader(engine, home.raw))
                online = seen.online
                engine.dispose()
        assert online >= 7, (tmp_path / "log").read_text()
        assert seen.total == 8
    finally:
        demo.send_signal(signal.SIGINT)
        assert demo.wait(60) == 0
    assert [name for name in ("up", "broker", "ingest", "web") if read_pid(home, name)] == []
