"""``edgekit fleet up``: the parts of a fleet as processes, started, watched and started again."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.fleet.broker import process as broker_process
from edgekit.fleet.home import FleetHome, room_hint, shorten_log, write_private
from edgekit.fleet.ports import (
    addresses,
    check_ports,
    forget_pid,
    listens,
    login_token,
    read_pid,
    write_pid,
    write_ports,
)
from edgekit.fleet.settings import Settings, keep_given, load_settings, write_settings
from edgekit.wire.errors import ConfigError, DeviceError
from edgekit.wire.signing import generate_key

FIRST_WAIT_S, MAX_WAIT_S = 0.5, 30.0
STEADY_S = 30.0
STOP_S = 10.0
READY_S = 60.0
_TICK_S = 0.2
_LAST_FIRST = ("web", "alerts", "ingest", "broker")
ORDERS_KEY = "orders.pem"


@dataclass(frozen=True)
class Part:
    """A part of the fleet that is a process.

    Attributes:
        name: ``broker``, ``ingest``, ``web`` or ``alerts``.
        command: What starts it.
        is_ready: Tells whether it does its work.
    """

    name: str
    command: Sequence[str]
    is_ready: Callable[[], bool]


def wait_s(failures: int) -> float:
    """Return how long to wait before a part that died is started again.

    Args:
        failures: How often it died in a row, 1 for the first time.
    """
    return float(min(FIRST_WAIT_S * 2.0 ** min(failures - 1, 16), MAX_WAIT_S))


@dataclass
class Child:
    """A part and its process.

    Attributes:
        part: The part.
        process: Runs, or has ended; None before the first.
        started_s: When it was started, monotonic.
        failures: How often it died in a row.
        due_s: When it is to be started again.
        restarts: How often it was.
    """

    part: Part
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    failures: int = 0
    due_s: float = 0.0
    restarts: int = field(default=0)

    @property
    def runs(self) -> bool:
        """Whether the process is there."""
        return self.process is not None and self.process.poll() is None


class Supervisor:
    """Keeps the parts of a fleet running.

    Args:
        home: The fleet.
        parts: Started in this order, stopped in the other.
        clock: Monotonic, in seconds.
    """

    def __init__(
        self, home: FleetHome, parts: Sequence[Part], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._home = home
        self._clock = clock
        self.children = [Child(part) for part in parts]

    def start(
        self, timeout_s: float = READY_S, is_stopped: Callable[[], bool] = lambda: False
    ) -> None:
        """Start all parts, each when the one before is ready.

        Args:
            timeout_s: For each of them.
            is_stopped: Tells whether somebody does not want to wait for it.

        Raises:
            KeyboardInterrupt: Somebody does not.
            DeviceError: One ends, or is not ready in time; what it said stands in the hint.
        """
        for child in self.children:
            self._launch(child)
            deadline_s = self._clock() + timeout_s
            while not child.part.is_ready():
                if is_stopped():
                    raise KeyboardInterrupt
                if not child.runs or self._clock() > deadline_s:
                    what = "is not ready" if child.runs else "has ended"
                    raise DeviceError(
                        f"the {child.part.name} {what}",
                        hint=self.last_words(child.part.name) or room_hint(self._home.run),
                        where=str(self._log(child.part.name)),
                    )
                time.sleep(0.05)

    def tick(self) -> list[str]:
        """Start again what died, after a wait; return what happened, in words."""
        said, now_s = [], self._clock()
        for child in self.children:
            if child.runs:
                shorten_log(self._log(child.part.name))
                if child.failures and now_s - child.started_s > STEADY_S:
                    child.failures = 0
            elif child.due_s == 0.0:
                child.failures += 1
                child.due_s = now_s + wait_s(child.failures)
                code = None if child.process is None else child.process.returncode
                said.append(f"{child.part.name} ended ({code}); it starts again")
            elif now_s >= child.due_s:
                child.restarts += 1
                said.append(self._relaunch(child))
        return said

    def stop(self) -> None:
        """Stop all parts, the last first; those that do not go are killed."""
        for child in reversed(self.children):
            if child.process is not None and child.runs:
                child.process.terminate()
                try:
                    child.process.wait(STOP_S)
                except subprocess.TimeoutExpired:
                    child.process.kill()
                    child.process.wait()
            forget_pid(self._home, child.part.name)

    def states(self) -> dict[str, str]:
        """Return ``ready``, ``starting`` or ``down`` by name."""
        return {
            child.part.name: (
                "down" if not child.runs else "ready" if child.part.is_ready() else "starting"
            )
            for child in self.children
        }

    def last_words(self, name: str) -> str:
        """Return the last line that a part has logged."""
        try:
            with self._log(name).open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
                lines = file.read().decode(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1][:300] if lines else ""

    def _log(self, name: str) -> Path:
        return self._home.run / f"{name}.log"

    def _relaunch(self, child: Child) -> str:
        try:
            self._launch(child)
        except (DeviceError, ConfigError, OSError) as error:
            # A full disk or process table passes; those that run need not end with it.
            child.failures += 1
            child.due_s = self._clock() + wait_s(child.failures)
            return f"{child.part.name} does not start: {error}"
        return f"{child.part.name} runs again"

    def _launch(self, child: Child) -> None:
        log = self._log(child.part.name)
        shorten_log(log)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        descriptor = os.open(log, flags, 0o600)
        try:
            # Its own session: Ctrl-C of the terminal reaches the parent alone, which stops it.
            child.process = subprocess.Popen(
                list(child.part.command),
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                start_new_session=True,
            )
        except OSError as error:
            raise DeviceError(
                f"the {child.part.name} cannot be started: {error.strerror}",
                where=str(child.part.command[0]),
            ) from error
        finally:
            os.close(descriptor)
        child.started_s, child.due_s = self._clock(), 0.0
        write_pid(self._home, child.part.name, child.process.pid)


def parts_of(home: FleetHome, settings: Settings) -> list[Part]:
    """Return the parts of a fleet, in the order in which they start.

    Raises:
        ConfigError: A file of the broker cannot be written.
        MissingToolError: No broker is installed.
    """
    broker = broker_process.start_command(home, settings)
    parts = [Part("broker", broker, _broker_ready(settings))]
    for name in ("ingest", "web", "alerts"):
        command = [sys.executable, "-m", f"edgekit.fleet.{name}", str(home.path.resolve())]
        ready = _http_ready(settings) if name == "web" else (lambda: True)
        parts.append(Part(name, command, ready))
    return parts


def _broker_ready(settings: Settings) -> Callable[[], bool]:
    ports = [(settings.broker_host, settings.broker_port)]
    if settings.broker_listen:
        ports.append((settings.broker_listen, settings.broker_tls_port))
    return lambda: all(listens(*one) for one in ports)


def _http_ready(settings: Settings) -> Callable[[], bool]:
    return lambda: listens(settings.http_host, settings.http_port)


@dataclass(frozen=True)
class Running:
    """A fleet that runs.

    Attributes:
        supervisor: Of its parts.
        settings: As they are in force.
        url: Of the dashboard, with the token of the first login; None where there is none.
    """

    supervisor: Supervisor
    settings: Settings
    url: str | None


@contextmanager
def running(
    home: FleetHome,
    given: Mapping[str, str | int],
    is_stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Running]:
    """Have a fleet run.

    Args:
        home: Its folder.
        given: Settings of the command line, by attribute.
        is_stopped: Tells whether somebody does not want to wait until its parts are ready.

    Yields:
        The fleet, when all its parts are ready.

    Raises:
        KeyboardInterrupt: Somebody does not want to wait.
        ConfigError: It runs already, or its settings are wrong.
        DeviceError: A port is taken, or a part does not start.
        MissingToolError: No broker is installed.
    """
    with ExitStack() as stack:
        stack.enter_context(_alone(home))
        if not home.settings_file.exists():
            write_settings(home, Settings())
        _orders_key(home)
        stack.callback(keep_given, home, {})
        keep_given(home, given)
        settings = load_settings(home)
        check_ports(settings)
        parts = parts_of(home, settings)
        has_web = any(part.name == "web" for part in parts)
        token = login_token(home)
        supervisor = Supervisor(home, parts)
        stack.callback(write_ports, home, {})
        stack.callback(supervisor.stop)
        supervisor.start(is_stopped=is_stopped)
        write_ports(home, addresses(settings))
        url = f"{settings.local_url}/login?token={token}" if has_web else None
        yield Running(supervisor, settings, url)


def keep(
    fleet: Running, stop: threading.Event, on_change: Callable[[str], None], period_s: float = 1.0
) -> None:
    """Watch over a fleet until it is told to stop.

    Args:
        fleet: It.
        stop: Ends it.
        on_change: Gets what happens, in words; empty each period.
        period_s: Of ``on_change``.
    """
    next_s = 0.0
    while not stop.wait(_TICK_S):
        for text in fleet.supervisor.tick():
            on_change(text)
        if time.monotonic() >= next_s:
            next_s = time.monotonic() + period_s
            on_change("")


def stop_running(home: FleetHome, timeout_s: float = 60.0) -> bool:
    """Stop the fleet of a folder from outside, or what is left of it; False where nothing runs.

    Raises:
        ConfigError: It is just starting.
        DeviceError: It does not stop in time.
    """
    pid = read_pid(home, "up")
    if pid is None:
        return _stop_left(home)
    os.kill(pid, signal.SIGTERM)
    deadline_s = time.monotonic() + timeout_s
    while read_pid(home, "up") is not None:
        if time.monotonic() > deadline_s:
            raise DeviceError(f"process {pid} does not stop", where=str(home.path))
        time.sleep(0.05)
    return True


@contextmanager
def _alone(home: FleetHome) -> Iterator[None]:
    with (home.run / "up.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"this fleet runs already, as process {read_pid(home, 'up')}",
                hint="`edgekit fleet status` shows it, `edgekit fleet down` stops it",
                where=str(home.path),
            ) from error
        _stop_orphans(home)
        write_pid(home, "up", os.getpid())
        try:
            yield
        finally:
            forget_pid(home, "up")


def _stop_left(home: FleetHome) -> bool:
    if all(read_pid(home, name) is None for name in _LAST_FIRST):
        return False
    with _alone(home):
        write_ports(home, {})
        keep_given(home, {})
    return True


def _stop_orphans(home: FleetHome) -> None:
    """Stop what a parent that was killed has left behind: it holds ports and files."""
    for name in _LAST_FIRST:
        pid = read_pid(home, name)
        if pid is None:
            continue
        os.kill(pid, signal.SIGTERM)
        deadline_s = time.monotonic() + STOP_S
        while read_pid(home, name) is not None and time.monotonic() < deadline_s:
            time.sleep(0.05)
        if read_pid(home, name) is not None:
            os.kill(pid, signal.SIGKILL)
        forget_pid(home, name)


def _orders_key(home: FleetHome) -> None:
    path = home.keys / ORDERS_KEY
    if not path.exists():
        write_private(path, generate_key("orders").to_pem())
