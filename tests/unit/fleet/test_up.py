"""``edgekit fleet up``: parts that die come back, what is taken is said, nobody else is stopped."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.fleet import up
from edgekit.fleet.home import LOG_BYTES, FleetHome
from edgekit.fleet.ports import read_pid, read_ports, write_pid, write_ports
from edgekit.fleet.settings import Settings, load_settings, write_settings
from edgekit.fleet.up import Part, Supervisor, keep, running, stop_running, wait_s
from edgekit.wire.errors import ConfigError, DeviceError

from ...agent_board import until  # noqa: TID252
from ...agent_broker import free_port  # noqa: TID252

WAITS = "import time; time.sleep(600)"
DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); "


class Clock:
    """Stands still unless it is told."""

    def __init__(self, step_s: float = 0.0) -> None:
        self.now_s, self.step_s = 1000.0, step_s

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s


@pytest.fixture
def home(tmp_path) -> FleetHome:
    home = FleetHome.create(tmp_path / "fleet")
    write_settings(home, Settings(http_port=free_port(), broker_port=free_port()))
    return home


@pytest.fixture
def supervise(home) -> Iterator[Callable[..., Supervisor]]:
    made: list[Supervisor] = []

    def make(*parts: Part, clock: Callable[[], float] = time.monotonic) -> Supervisor:
        made.append(Supervisor(home, parts, clock))
        return made[-1]

    yield make
    for one in made:
        for child in one.children:
            if child.process is not None:
                child.process.kill()
                child.process.wait()


def part(name: str, code: str = WAITS, is_ready: Callable[[], bool] = lambda: True) -> Part:
    return Part(name, [sys.executable, "-S", "-c", code], is_ready)


def end(child: up.Child, number: int = signal.SIGKILL) -> None:
    assert child.process is not None
    child.process.send_signal(number)
    child.process.wait()


# ---- starting again


@given(st.integers(1, 10**9))
def test_the_wait_doubles_and_ends_at_half_a_minute(failures):
    assert wait_s(1) == 0.5
    assert wait_s(failures) <= wait_s(failures + 1) <= 30.0
    assert wait_s(failures + 1) == min(2 * wait_s(failures), 30.0)


def test_a_part_that_keeps_dying_is_started_less_and_less_often(supervise):
    clock = Clock()
    fleet = supervise(part("web"), clock=clock)
    fleet.start()
    (child,) = fleet.children
    assert fleet.tick() == []
    for n, wait in enumerate([0.5, 1, 2, 4, 8, 16, 30, 30]):
        end(child)
        assert fleet.tick() == ["web ended (-9); it starts again"]
        assert fleet.states() == {"web": "down"}
        clock.now_s += wait - 0.01
        assert fleet.tick() == [], "not before its time, and said once"
        assert not child.runs
        clock.now_s += 0.02
        assert fleet.tick() == ["web runs again"]
        assert child.runs
        assert child.restarts == n + 1
    assert fleet.states() == {"web": "ready"}


def test_a_part_that_ran_for_long_is_started_soon_again(supervise):
    clock = Clock()
    fleet = supervise(part("web"), clock=clock)
    fleet.start()
    (child,) = fleet.children
    for _ in range(4):
        end(child)
        fleet.tick()
        clock.now_s = child.due_s
        fleet.tick()
    clock.now_s += up.STEADY_S - 1
    fleet.tick()
    assert child.failures == 4
    clock.now_s += 2
    fleet.tick()
    assert child.failures == 0
    end(child)
    fleet.tick()
    assert child.due_s == clock.now_s + 0.5


def test_one_part_that_dies_leaves_the_others(supervise, home):
    clock = Clock()
    fleet = supervise(part("broker"), part("ingest"), clock=clock)
    fleet.start()
    broker, ingest = fleet.children
    assert broker.process is not None
    pid = broker.process.pid
    end(ingest)
    fleet.tick()
    clock.now_s = ingest.due_s
    fleet.tick()
    assert ingest.process is not None
    assert (broker.process.pid, read_pid(home, "broker")) == (pid, pid)
    assert read_pid(home, "ingest") == ingest.process.pid != pid


def test_a_part_that_cannot_be_started_again_does_not_end_the_others(supervise, tmp_path):
    clock = Clock()
    program = tmp_path / "program"
    program.symlink_to(sys.executable)
    fleet = supervise(part("broker"), Part("web", [str(program)], lambda: True), clock=clock)
    fleet.start()
    broker, web = fleet.children
    program.unlink()
    end(web)
    fleet.tick()
    for wait in (1.0, 2.0):
        clock.now_s = web.due_s
        (said,) = fleet.tick()
        assert said.startswith("web does not start: ")
        assert "No such file" in said
        assert web.due_s == clock.now_s + wait
    assert broker.runs


# ---- the first start


def test_a_part_waits_for_the_one_before(supervise):
    order: list[str] = []
    answers = iter([False, False, True])

    def first_ready() -> bool:
        order.append("broker asked")
        return next(answers)

    def second_ready() -> bool:
        order.append("web asked")
        return True

    supervise(part("broker", is_ready=first_ready), part("web", is_ready=second_ready)).start()
    assert order == ["broker asked"] * 3 + ["web asked"]


def test_a_part_that_ends_says_its_last_words(supervise, home):
    fleet = supervise(
        part("broker", "print('x'); print('disk full'); raise SystemExit(3)", lambda: False)
    )
    with pytest.raises(DeviceError, match="the broker has ended") as raised:
        fleet.start()
    assert raised.value.hint == "disk full"
    assert raised.value.where == str(home.run / "broker.log")
    assert (home.run / "broker.log").stat().st_mode & 0o777 == 0o600


def test_a_part_that_is_never_ready(supervise):
    fleet = supervise(part("web", WAITS, lambda: False), clock=Clock(step_s=1.0))
    with pytest.raises(DeviceError, match="the web is not ready"):
        fleet.start(timeout_s=3)
    assert fleet.states() == {"web": "starting"}


def test_ctrl_c_does_not_wait_for_a_part_that_is_never_ready(supervise):
    asked = iter([False, False, True])
    fleet = supervise(part("web", WAITS, lambda: False), part("alerts"))
    with pytest.raises(KeyboardInterrupt):
        fleet.start(is_stopped=lambda: next(asked))
    assert [child.process is not None for child in fleet.children] == [True, False]
    fleet.stop()
    assert fleet.states() == {"web": "down", "alerts": "down"}


def test_a_program_that_is_not_there(supervise):
    fleet = supervise(Part("broker", ["/nowhere/mosquitto"], lambda: True))
    with pytest.raises(DeviceError, match="the broker cannot be started: No such file") as raised:
        fleet.start()
    assert raised.value.where == "/nowhere/mosquitto"


# ---- stopping


def test_parts_are_stopped_in_turn_and_nobody_else_is(supervise, home, tmp_path):
    log = tmp_path / "log"
    says = (
        "import signal, sys, time\n"
        f"def end(*_): open({str(log)!r}, 'a').write(NAME); sys.exit()\n"
        "signal.signal(15, end); print('set', flush=True); time.sleep(600)"
    )
    names = ("broker", "ingest", "web")
    ready = {name: home.run / f"{name}.log" for name in names}
    fleet = supervise(
        *(
            part(name, f"NAME = {name[0]!r}\n{says}", lambda at=ready[name]: at.stat().st_size > 0)
            for name in names
        )
    )
    bystander = subprocess.Popen(part("web").command)
    try:
        fleet.start()
        pids = {read_pid(home, name) for name in names}
        assert None not in pids
        assert all(os.getsid(pid) == pid for pid in pids), "Ctrl-C reaches their parent alone"
        fleet.stop()
        assert log.read_text() == "wib"
        assert fleet.states() == dict.fromkeys(names, "down")
        assert not list(home.run.glob("*.pid"))
        assert bystander.poll() is None
        fleet.stop()
    finally:
        bystander.kill()
        bystander.wait()


def test_a_part_that_does_not_listen_is_killed(supervise, home, monkeypatch):
    monkeypatch.setattr(up, "STOP_S", 0.2)
    log = home.run / "web.log"
    fleet = supervise(part("web", DEAF + WAITS, lambda: log.stat().st_size > 0))
    fleet.start()
    fleet.stop()
    (child,) = fleet.children
    assert child.process is not None
    assert child.process.returncode == -signal.SIGKILL


def test_the_log_of_a_part_that_runs_for_years_stays_small(supervise, home):
    log = home.run / "web.log"
    talks = "import time\nprint('x' * (5 << 20), flush=True)\n"
    talks += "while True:\n print('on', flush=True); time.sleep(0.02)\n"
    fleet = supervise(part("web", talks, lambda: log.stat().st_size > LOG_BYTES))
    fleet.start()
    fleet.tick()
    until(lambda: fleet.last_words("web") == "on")
    assert log.stat().st_size < LOG_BYTES
    assert (home.run / "web.log.1").stat().st_size > LOG_BYTES
    assert (home.run / "web.log.1").stat().st_mode & 0o777 == 0o600


# ---- a whole fleet, of parts that do nothing


@pytest.fixture
def idle(monkeypatch) -> list[str]:
    names = ["broker", "ingest"]
    monkeypatch.setattr(up, "parts_of", lambda *_: [part(name) for name in names])
    return names


def test_a_fleet_leaves_nothing_behind_that_is_true_only_while_it_runs(home, idle):
    given_ = {"http_port": free_port()}
    with running(home, given_) as fleet:
        assert fleet.settings.http_port == given_["http_port"]
        assert load_settings(home) == fleet.settings, "others see what the command line says"
        assert read_ports(home)["http"] == f"127.0.0.1:{given_['http_port']}"
        assert read_pid(home, "up") == os.getpid()
        pids = [read_pid(home, name) for name in idle]
        assert all(pids)
        with pytest.raises(ConfigError, match=f"runs already, as process {os.getpid()}") as raised:
            running(home, {}).__enter__()
        assert "edgekit fleet down" in str(raised.value.hint)
        assert [read_pid(home, name) for name in idle] == pids
    assert read_ports(home) == {}
    assert load_settings(home).http_port != given_["http_port"]
    assert not list(home.run.glob("*.pid"))
    key = (home.keys / "orders.pem").read_bytes()
    with running(home, {}):
        assert (home.keys / "orders.pem").read_bytes() == key


@pytest.mark.parametrize("which", ["broker", "http", "tls"])
def test_a_port_that_is_taken_is_said_before_anything_starts(home, idle, which):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        given_: dict[str, str | int] = {}
        if which == "tls":
            text = home.settings_file.read_text()
            home.settings_file.write_text(text.replace("[broker]", f"[broker]\ntls_port = {port}"))
            given_ = {"broker_listen": "127.0.0.1"}
        else:
            given_ = {f"{which}_port": port}
        with (
            pytest.raises(DeviceError, match=rf"port {port} of 127\.0\.0\.1 is taken") as raised,
            running(home, given_),
        ):
            pass
    hints = {"broker": "--broker-port", "http": "--port", "tls": "broker.tls_port in fleet.toml"}
    assert raised.value.hint == f"free it, or choose another one: {hints[which]}"
    assert sorted(path.name for path in home.run.iterdir()) == ["up.lock"]
    with running(home, {}):
        pass


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"http_port": 7001, "broker_port": 7001}, "port 7001 is asked for twice"),
        ({"http_port": 8883, "broker_listen": "127.0.0.1"}, "port 8883 is asked for twice"),
        ({"broker_port": 8883, "broker_listen": "0.0.0.0"}, "port 8883 is asked for twice"),  # noqa: S104
        ({"http_host": "192.0.2.1"}, r"nothing can listen on 192\.0\.2\.1"),
    ],
)
def test_parts_that_cannot_all_listen(home, idle, given_, message):
    with pytest.raises(ConfigError, match=message) as raised, running(home, given_):
        pass
    assert "port" in str(raised.value.hint)
    assert not list(home.run.glob("*.pid"))


def test_a_part_that_does_not_start_stops_those_that_do(home, monkeypatch):
    parts = [part("broker"), part("web", "raise SystemExit(1)", lambda: False)]
    monkeypatch.setattr(up, "parts_of", lambda *_: parts)
    seen: list[int] = []
    before = Supervisor._launch

    def launch(self: Supervisor, child: up.Child) -> None:
        before(self, child)
        assert child.process is not None
        seen.append(child.process.pid)

    monkeypatch.setattr(Supervisor, "_launch", launch)
    with pytest.raises(DeviceError, match="the web has ended"), running(home, {}):
        pass
    assert len(seen) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in seen)
    assert not list(home.run.glob("*.pid"))


def test_what_a_parent_that_was_killed_left_is_stopped_and_nobody_else(home, idle, monkeypatch):
    monkeypatch.setattr(up, "STOP_S", 0.2)
    left = subprocess.Popen(part("web").command, start_new_session=True)
    deaf = subprocess.Popen(
        [sys.executable, "-S", "-c", DEAF + WAITS], stdout=subprocess.PIPE, start_new_session=True
    )
    stranger = subprocess.Popen(part("alerts").command)
    assert deaf.stdout is not None
    deaf.stdout.readline()
    try:
        write_pid(home, "web", left.pid)
        write_pid(home, "ingest", deaf.pid)
        # A number from before the machine was started anew, which is another's now.
        document = json.dumps({"pid": stranger.pid, "started": "1"})
        (home.run / "alerts.pid").write_text(document)
        with running(home, {}):
            assert (left.wait(20), deaf.wait(20)) == (-signal.SIGTERM, -signal.SIGKILL)
            assert stranger.poll() is None
    finally:
        for process in (left, deaf, stranger):
            process.kill()
            process.communicate()


def test_what_is_left_of_a_fleet_is_stopped_from_outside(home):
    assert not up.stop_running(home)
    with subprocess.Popen(part("web").command, start_new_session=True) as left:
        try:
            write_pid(home, "web", left.pid)
            write_ports(home, {"http": "127.0.0.1:8600"})
            assert up.stop_running(home)
            assert left.wait(20) == -signal.SIGTERM
        finally:
            left.kill()
    assert read_ports(home) == {}
    assert not list(home.run.glob("*.pid"))


def test_a_fleet_is_watched_until_it_is_told_to_stop(home, idle):
    stop, said = threading.Event(), []

    def on_change(text: str) -> None:
        said.append(text)
        if "runs again" in text:
            stop.set()

    with running(home, {}) as fleet:
        end(fleet.supervisor.children[1])
        keep(fleet, stop, on_change, period_s=0.0)
    assert [text for text in said if text] == [
        "ingest ended (-9); it starts again",
        "ingest runs again",
    ]
    assert "" in said


def test_a_fleet_is_stopped_from_outside(home):
    assert not stop_running(home)
    code = "import os, signal; signal.signal(15, lambda *_: os._exit(0)); print(1, flush=True); "
    command = [sys.executable, "-S", "-c", code + WAITS]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        write_pid(home, "up", process.pid)
        assert stop_running(home)
        assert process.wait(20) == 0
    with subprocess.Popen([*command[:3], DEAF + WAITS], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        write_pid(home, "up", process.pid)
        with pytest.raises(DeviceError, match=f"process {process.pid} does not stop"):
            stop_running(home, timeout_s=0.1)
        process.kill()


def test_ctrl_c_stops_all_by_their_own_numbers(home):
    """The real command, with parts that do nothing; a bystander has the same command line."""
    code = (
        "import sys, threading\n"
        "from edgekit.cli.main import run\n"
        "from edgekit.fleet import up\n"
        f"parts = [up.Part(n, [{sys.executable!r}, '-S', '-c', {WAITS!r}], lambda: True)\n"
        "         for n in ('broker', 'ingest')]\n"
        "up.parts_of = lambda *_: parts\n"
        f"sys.exit(run(['fleet', 'up', '--home', {str(home.path)!r}, '--json']))\n"
    )
    bystander = subprocess.Popen(part("broker").command)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            until(lambda: read_ports(home) or process.poll() is not None)
            pids = [read_pid(home, name) for name in ("broker", "ingest")]
            assert None not in pids
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=60)
            assert process.returncode == 0
            assert set(json.loads(out)["parts"].values()) == set(pids)
            assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
            assert bystander.poll() is None
            assert not list(home.run.glob("*.pid"))
        finally:
            process.kill()
            bystander.kill()
            bystander.wait()
