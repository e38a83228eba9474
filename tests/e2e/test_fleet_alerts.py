"""``python -m edgekit.fleet.alerts HOME`` as a process: a hot device rings, once, and is over."""

from __future__ import annotations

import http.server
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from edgekit.fleet.home import FleetHome, write_private
from edgekit.fleet.opened import Opened
from edgekit.fleet.settings import Settings, write_settings
from edgekit.fleet.store.schema import last_state
from edgekit.fleet.store.writes import add_device
from edgekit.wire.signing import generate_key

from ..agent_board import until  # noqa: TID252 - helpers of all tests
from ..agent_broker import free_port  # noqa: TID252

RULES = """
defaults = false
[rules.temperature]
for_s = 0
clear_for_s = 0
[channels.hook]
kind = "webhook"
url_file = "hook.url"
"""


class Hook:
    """Receives webhooks; fails the first time."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.calls = 0
        own = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                own.calls += 1
                if own.calls > 1:
                    own.got.append(body)
                self.send_response(200 if own.calls > 1 else 503)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    yield made
    made.server.shutdown()
    made.server.server_close()


def start(home: FleetHome, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "edgekit.fleet.alerts", str(home.path)], stdout=file, stderr=file
        )


def heat(opened: Opened, temp_c: float) -> None:
    sample = json.dumps({"vitals": {"temp_c": temp_c}})
    with opened.engine.begin() as connection:
        connection.execute(sa.delete(last_state))
        row = {"device": "cam-1", "online": True, "sample": sample, "sample_s": time.time()}
        connection.execute(sa.insert(last_state).values(**row))


def test_a_hot_device_rings_once_over_a_restart_and_is_over(tmp_path, hook):
    home = FleetHome.create(tmp_path / "fleet")
    write_settings(home, Settings(name="lab", broker_port=free_port()))
    write_private(home.keys / "orders.pem", generate_key("orders").to_pem())
    home.alerts_file.write_text(RULES)
    secret = f"http://127.0.0.1:{hook.server.server_port}/SECRET"
    write_private(home.path / "hook.url", secret.encode())
    log = tmp_path / "log"
    process = start(home, log)
    try:
        with Opened(home.path) as opened:
            add_device(opened.engine, "cam-1", {}, time.time())
            heat(opened, 91.0)
            until(lambda: [row for row in opened.alerts.list() if row.told_s is not None], 40)
            process.kill()
            process.wait(20)
            process = start(home, log)
            time.sleep(3)
            heat(opened, 40.0)
            until(lambda: len(hook.got) > 1, 40)
            (row,) = opened.alerts.list(is_open=False)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait(20)
    assert [got["event"] for got in hook.got] == ["open", "closed"], log.read_text()
    assert hook.got[0]["alert_id"] == hook.got[1]["alert_id"] == str(row.id)
    assert hook.got[0]["title"] == "[lab] cam-1 is at 91 °C, over 80 °C"
    assert "fan" in hook.got[0]["todo"]
    assert "again in 1 s" in log.read_text()
    assert "SECRET" not in log.read_text()


def test_a_folder_that_is_no_fleet_ends_with_3(tmp_path):
    log = tmp_path / "log"
    assert start(FleetHome(tmp_path), log).wait(30) == 3
    assert "no fleet" in log.read_text()
