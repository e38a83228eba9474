"""What runs and listens: pid files that name no stranger, ports that are taken."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.fleet import ports
from edgekit.fleet.home import FleetHome
from edgekit.fleet.ports import (
    addresses,
    check_free,
    forget_pid,
    listens,
    login_token,
    read_pid,
    read_ports,
    write_pid,
    write_ports,
)
from edgekit.fleet.settings import Settings, load_settings, write_settings
from edgekit.wire.errors import ConfigError, DeviceError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=7), inner),
    max_leaves=5,
)
PIDS = st.fixed_dictionaries({"pid": JSON, "started": JSON}).map(json.dumps).map(str.encode)


@pytest.fixture
def home(tmp_path) -> FleetHome:
    return FleetHome.create(tmp_path / "fleet")


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server


def test_a_pid_is_read_while_its_process_runs(home):
    assert read_pid(home, "web") is None
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        write_pid(home, "web", process.pid)
        assert read_pid(home, "web") == process.pid
        assert read_pid(home, "broker") is None
        process.communicate(b"\n")
    assert read_pid(home, "web") is None
    forget_pid(home, "web")
    forget_pid(home, "web")
    assert not list(home.run.iterdir())


def test_a_process_that_has_ended_and_was_not_waited_for_does_not_run(home):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    write_pid(home, "web", process.pid)
    assert process.stdin is not None
    process.stdin.close()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert read_pid(home, "web") is None
    process.wait()


def test_a_number_that_is_used_again_is_anothers(home):
    write_pid(home, "web", os.getpid())
    path = home.run / "web.pid"
    assert read_pid(home, "web") == os.getpid()
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"started": str(int(document["started"]) - 1)}))
    assert read_pid(home, "web") is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=100) | JSON.map(json.dumps).map(str.encode) | PIDS)
def test_what_is_no_pid_file_names_no_process(home, data):
    (home.run / "web.pid").write_bytes(data)
    assert read_pid(home, "web") is None
    (home.run / "ports.json").write_bytes(data)
    assert all(isinstance(part, str) for pair in read_ports(home).items() for part in pair)


@pytest.mark.parametrize("text", ["[" * 4096, '{"pid": 1e999, "started": "1"}', "{" * 9999])
def test_what_is_hard_to_read_names_no_process(home, text):
    (home.run / "web.pid").write_text(text)
    (home.run / "ports.json").write_text(text)
    assert read_pid(home, "web") is None
    assert set(read_ports(home)) <= {"pid", "started"}


@pytest.mark.parametrize(
    ("settings_", "devices", "here"),
    [
        (Settings(), "http://127.0.0.1:8600", "http://127.0.0.1:8600"),
        (Settings(http_host="::1"), "http://[::1]:8600", "http://[::1]:8600"),
        (
            Settings(http_host="0.0.0.0", broker_name="fleet.example"),  # noqa: S104
            "http://fleet.example:8600",
            "http://127.0.0.1:8600",
        ),
        (
            Settings(http_host="::"),
            f"http://{socket.gethostname()}:8600",
            "http://[::1]:8600",
        ),
        (Settings(http_url="https://x.example/"), "https://x.example", "http://127.0.0.1:8600"),
    ],
)
def test_devices_and_people_are_told_an_address_that_leads_here(settings_, devices, here):
    assert (settings_.base_url, settings_.local_url) == (devices, here)


def test_all_that_can_be_set_is_written_down(home):
    everything = Settings(
        name="north",
        http_host="10.0.0.1",
        http_port=1,
        http_url='https://x.example/"a"',
        broker_kind="mosquitto",
        broker_host="127.0.0.2",
        broker_port=2,
        broker_listen="10.0.0.1",
        broker_tls_port=3,
        broker_name="x.example",
        retention_days=1.0,
        retention_bytes=1 << 30,
    )
    write_settings(home, everything)
    assert load_settings(home) == everything


@pytest.mark.parametrize("pid", [0, 1, -1])
def test_nobody_is_told_to_stop_process_1_or_a_group(home, pid, monkeypatch):
    monkeypatch.setattr(ports, "_started", lambda _: "7")
    (home.run / "web.pid").write_text(json.dumps({"pid": pid, "started": "7"}))
    assert read_pid(home, "web") is None


def test_ports_are_there_while_something_listens(home):
    assert read_ports(home) == {}
    write_ports(home, {"http": "127.0.0.1:8600"})
    assert read_ports(home) == {"http": "127.0.0.1:8600"}
    write_ports(home, {})
    write_ports(home, {})
    assert read_ports(home) == {}


def test_each_start_has_a_login_of_its_own(home):
    first, second = login_token(home), login_token(home)
    path = home.run / "login.token"
    assert first != second == path.read_text()
    assert len(first) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_port_that_is_taken_is_said_with_what_chooses_another(taken):
    port = taken.getsockname()[1]
    for host in ("127.0.0.1", "0.0.0.0"):  # noqa: S104
        with pytest.raises(DeviceError) as raised:
            check_free(host, port, "--port")
        assert raised.value.message == f"port {port} of {host} is taken"
        assert raised.value.hint == "free it, or choose another one: --port"
        assert raised.value.exit_code == 8
    assert listens("127.0.0.1", port)
    assert listens("0.0.0.0", port)  # noqa: S104
    taken.close()
    check_free("127.0.0.1", port, "--port")
    assert not listens("127.0.0.1", port)


def test_an_address_of_another_machine_is_said():
    with pytest.raises(
        ConfigError, match=r"nothing can listen on 192\.0\.2\.1 port 8600"
    ) as raised:
        check_free("192.0.2.1", 8600, "http.host in fleet.toml")
    assert raised.value.hint == "http.host in fleet.toml"


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="no IPv6")
def test_ipv6():
    with socket.socket(socket.AF_INET6) as server:
        try:
            server.bind(("::1", 0))
        except OSError:
            pytest.skip("no ::1")
        server.listen()
        port = server.getsockname()[1]
        assert listens("::1", port)
        with pytest.raises(DeviceError, match=f"port {port} of ::1 is taken"):
            check_free("::1", port, "--port")
        found = addresses(Settings(http_host="::1", broker_host="::1", broker_listen="::1"))
        assert found == {"mqtt": "[::1]:1883", "mqtts": "[::1]:8883", "http": "[::1]:8600"}
