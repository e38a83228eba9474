"""The agent's process on this board: a service of systemd, or started directly without it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.deploy.board.channel import (
    BoardError,
    Request,
    plain_environment,
    printable,
    python_of,
    read_small,
)
from edgekit.deploy.board.files import file_path
from edgekit.deploy.board.look import read_status

UNIT = "edgekit-agent.service"
_STOP_S = 25.0
_POLL_S = 0.25
_SETTLED_S = 15.0
# The agent reads a bundle of its settings twice before it takes it, from a card that may be slow.
_READ_BYTES_PER_S = 10e6
_GONE_S = 2.0
_LOG_BYTES = 1 << 22
_RESTING = ("idle", "confirmed", "reverted")


@dataclass(frozen=True)
class Place:
    """Where everything of one deployment lies.

    Attributes:
        prefix: Its own folder.
        config: The settings.
        state_dir: The agent's folder.
        user: The service's user; None where it is started directly.
    """

    prefix: Path
    config: Path
    state_dir: Path
    user: str | None

    @classmethod
    def of(cls, request: Request) -> Place:
        """Read it from a request."""
        return cls(
            Path(request["prefix"]),
            Path(request["config"]),
            Path(request["state_dir"]),
            request["user"],
        )

    @property
    def current(self) -> Path:
        """The link to the environment that runs."""
        return self.prefix / "current"

    @property
    def log(self) -> Path:
        """What the agent says, where it is started directly."""
        return self.state_dir / "agent.log"

    @property
    def pid_file(self) -> Path:
        """Its process, where it is started directly."""
        return self.prefix / "agent.pid"


def start(place: Place) -> int | None:
    """Start the agent that `current` leads to, or the one of the unit; none runs.

    Returns:
        Its process.

    Raises:
        BoardError: It cannot be started.
    """
    if place.user is not None:
        try:
            system("systemctl", "restart", UNIT)
        except BoardError:
            message = "the agent ended as soon as it was started"
            raise BoardError(message, said=last_words(place)) from None
        return main_pid(place)
    place.state_dir.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):
        if place.log.stat().st_size > _LOG_BYTES:
            place.log.replace(place.log.with_name("agent.log.1"))
    with place.log.open("ab") as log:
        child = subprocess.Popen(
            _command(place),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=place.state_dir,
            env={**os.environ, **plain_environment(), "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
    place.pid_file.write_text(f"{child.pid}\n", encoding="ascii")
    # A process that has just been started has no name for a moment, and could not be stopped.
    until = time.monotonic() + _GONE_S
    while main_pid(place) is None and child.poll() is None and time.monotonic() < until:
        time.sleep(_POLL_S / 10)
    return child.pid


def _command(place: Place) -> list[str]:
    module = [python_of(place.current), "-m", "edgekit.agent.main"]
    return [*module, "--config", str(place.config)]


def install_service(place: Place) -> list[dict[str, Any]]:
    """Let the new edgekit itself write user, modes and unit; it starts nothing."""
    said = system(*_installer(place), "--no-start")
    changes: list[dict[str, Any]] = json.loads(said)["changes"]
    return changes


def remove_service(place: Place, *, purge: bool) -> None:
    """Let edgekit itself take its service away."""
    system(*_installer(place), "--uninstall", *(["--purge"] if purge else []))


def _installer(place: Place) -> list[str]:
    module = [python_of(place.current), "-m", "edgekit", "agent", "install", "--json"]
    return [*module, "--config", str(place.config), "--user", str(place.user)]


def stop(place: Place) -> bool:
    """Stop the agent, if it runs.

    Returns:
        Whether it ran.
    """
    if place.user is not None:
        ran = main_pid(place) is not None
        if Path("/etc/systemd/system", UNIT).exists():
            system("systemctl", "stop", UNIT)
        return ran
    pid = main_pid(place)
    if pid is not None:
        until = time.monotonic() + _STOP_S
        with contextlib.suppress(ProcessLookupError):  # it may end by itself meanwhile
            os.kill(pid, signal.SIGTERM)
            while main_pid(place) == pid:
                if time.monotonic() > until:
                    os.kill(pid, signal.SIGKILL)
                time.sleep(_POLL_S)
    place.pid_file.unlink(missing_ok=True)
    return pid is not None


def main_pid(place: Place) -> int | None:
    """Return the agent's process; None where it does not run."""
    if place.user is not None:
        argv = ["systemctl", "show", "--property=MainPID", "--value", UNIT]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        return int(done.stdout.strip() or 0) or None
    words = (read_small(place.pid_file, 64) or b"").split()
    if not words or not words[0].isdigit():
        return None
    process = Path("/proc") / words[0].decode()
    # After a restart of the board, the number may be another program's.
    if str(place.config).encode() not in (read_small(process / "cmdline", 1 << 16) or b""):
        return None
    with contextlib.suppress(ChildProcessError, OSError):
        os.waitpid(int(words[0]), os.WNOHANG)  # one that we have started ourselves
    state = (read_small(process / "stat", 4096) or b"").rpartition(b")")[2].split()
    return int(words[0]) if state and state[0] != b"Z" else None


def wait_until_serving(place: Place, pid: int | None, request: Request) -> str:
    """Wait until the agent that was started serves the bundle.

    Args:
        place: Where it lies.
        pid: Its process.
        request: With ``model``, ``sha256``, ``bundle_name`` and ``wait_s``.

    Returns:
        The phase of the model's slot.

    Raises:
        BoardError: It ended, refused the bundle, or took too long.
    """
    model, sha256 = request["model"], request["sha256"]
    bundle = file_path(place.prefix, sha256, request["bundle_name"])
    most_settled_s = _SETTLED_S + bundle.stat().st_size / _READ_BYTES_PER_S
    until = time.monotonic() + request["wait_s"]
    settled_at = seen_at = time.monotonic()
    while time.monotonic() < until:
        now_pid = main_pid(place)
        if now_pid is not None and (place.user is not None or now_pid == pid):
            seen_at = time.monotonic()
        elif time.monotonic() - seen_at > _GONE_S:
            raise BoardError("the agent ended as soon as it was started", said=last_words(place))
        status = read_status(place.state_dir)
        slot: dict[str, Any] = {}
        if status.get("pid") == now_pid and status.get("running"):
            slot = (status.get("models") or {}).get(model) or {"phase": "idle"}
        if slot.get("serves_sha256") == sha256:
            return str(slot["phase"])
        if slot.get("phase") in _RESTING and not _is_coming(slot, sha256):
            if time.monotonic() - settled_at > most_settled_s:
                reason = printable(str(slot.get("reason") or "it was not taken"))
                raise BoardError(
                    f"the agent does not serve the bundle: {reason}", said=last_words(place)
                )
        else:
            settled_at = time.monotonic()
        time.sleep(_POLL_S)
    raise BoardError(
        f"the agent does not serve the bundle after {request['wait_s']:g} s",
        hint="--wait gives a slow board more time",
        said=last_words(place),
    )


def _is_coming(slot: dict[str, Any], sha256: str) -> bool:
    """Tell whether a slot at rest has the bundle already, and only loads it."""
    return slot.get("phase") == "confirmed" and slot.get("confirmed_sha256") == sha256


def last_words(place: Place) -> Sequence[str]:
    """Return the last lines of the agent's log."""
    if place.user is not None:
        argv = ["journalctl", f"--unit={UNIT}", "--lines=6", "--no-pager", "--output=cat"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, errors="replace")
        lines = done.stdout.splitlines()
    else:
        with contextlib.suppress(OSError), place.log.open("rb") as file:
            file.seek(max(0, place.log.stat().st_size - 8192))
            lines = file.read().decode(errors="replace").splitlines()
    return [printable(line) for line in lines[-6:]]


def system(*argv: str) -> str:
    """Run a program of the board, or of its edgekit, to its end.

    Raises:
        BoardError: It failed.
    """
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        errors="replace",
        timeout=180,
        env={**os.environ, **plain_environment()},
    )
    if done.returncode:
        said = [printable(line) for line in (done.stdout + done.stderr).splitlines()[-6:]]
        name = " ".join(argv[:4])
        raise BoardError(f"`{name}` failed with {done.returncode}", said=said)
    return done.stdout
