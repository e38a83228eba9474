"""Reading what an agent says of itself, from outside and bounded: for `edgekit agent status`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.agent.status import FILE, SCHEMA
from edgekit.runtime.trial_state import Phase
from edgekit.wire.canonical import Json
from edgekit.wire.errors import ConfigError, DeviceError, EdgekitError
from edgekit.wire.strict import Fields, parse_object

MAX_BYTES = 1 << 20
MAX_MODELS = 1024
LOG_FILE = "agent.log"
_LATE_S = 15.0
_MAX_PID = 1 << 22
_LOCKS = Path("/proc/locks")


@dataclass(frozen=True)
class ModelStatus:
    """One model of an agent.

    Attributes:
        name: The model.
        phase: Of its slot.
        serves: Digest of what serves, if anything.
        next: Digest of what waits, if anything.
        reason: Why the slot is in this phase; empty where there is nothing to say.
        since_s: How long it has been in it, where the agent says so.
        self_test: What the last self-test said; None where there was none.
    """

    name: str
    phase: str
    serves: str | None
    next: str | None
    reason: str
    since_s: float | None = None
    self_test: str | None = None


@dataclass(frozen=True)
class AgentStatus:
    """An agent, as its status file has it.

    Attributes:
        document: The file as it is.
        running: It runs.
        silent_s: Seconds since the file was written, where that is suspiciously long.
        pid: Of its process.
        version: Of edgekit.
        fleet: Its fleet.
        device: Its name.
        target: Its target.
        uptime_s: Of the process.
        http: Address of its page.
        broker: The link, for people.
        outbox: What waits there, for people.
        models: By name.
    """

    document: dict[str, Json] = field(repr=False)
    running: bool
    silent_s: float | None
    pid: int
    version: str
    fleet: str
    device: str
    target: str
    uptime_s: float
    http: str
    broker: str
    outbox: str
    models: tuple[ModelStatus, ...]


def state_dir_of(config: Path) -> Path:
    """Return the state folder that settings name, without reading the secrets beside them.

    Raises:
        ConfigError: The settings cannot be read, or name none.
    """
    data = _read(config, hint="`edgekit agent install` writes them; --config names others")
    try:
        fields = Fields(parse_object(data, str(config), most_bytes=MAX_BYTES), str(config))
        return config.parent.absolute() / fields.text("state_dir")
    except EdgekitError as error:
        raise ConfigError(error.message, hint=error.hint, where=str(config)) from error


def read_status(
    state_dir: Path, *, now_s: Callable[[], float] = time.time, locks: Path = _LOCKS
) -> AgentStatus:
    """Read the status of the agent that has a state folder.

    Args:
        state_dir: Its folder.
        now_s: Unix time in seconds.
        locks: What the kernel says of file locks.

    Raises:
        DeviceError: There is none, it cannot be read or is no status.
    """
    path = state_dir / FILE
    try:
        data = _read(path, hint="`edgekit agent run` or `systemctl start edgekit-agent` starts it")
        document = parse_object(data, str(path), most_bytes=MAX_BYTES)
        return _status(document, state_dir, _age_s(path, now_s), locks)
    except ConfigError as error:
        raise DeviceError(error.message, hint=error.hint, where=error.where) from error
    except EdgekitError as error:
        if isinstance(error, DeviceError):
            raise
        raise DeviceError(f"no status: {error.message}", where=str(path)) from error


def _status(document: dict[str, Json], state_dir: Path, age_s: float, locks: Path) -> AgentStatus:
    where = str(state_dir / FILE)
    fields = Fields(document, where)
    if fields.text("schema") != SCHEMA:
        raise DeviceError("written by another edgekit", hint="update edgekit", where=where)
    pid = fields.integer("pid", 1, _MAX_PID)
    running = fields.boolean("running") and holds_slots(state_dir, pid, locks)
    return AgentStatus(
        document=document,
        running=running,
        silent_s=age_s if running and age_s > _LATE_S else None,
        pid=pid,
        version=fields.text("version", most=64),
        fleet=fields.text("fleet", most=64),
        device=fields.text("device", most=64),
        target=fields.text("target", most=64),
        uptime_s=fields.number("uptime_s", 0.0),
        http=fields.text("http", most=300),
        broker=_broker(fields),
        outbox=_outbox(fields.object("outbox")),
        models=_models(fields.object("models")),
    )


def holds_slots(state_dir: Path, pid: int, locks: Path = _LOCKS) -> bool:
    """Tell whether a process holds the lock of an agent's slots.

    The kernel is asked, not the lock: taking it, even for a moment, could keep an agent from
    starting.

    Args:
        state_dir: The agent's.
        pid: The process that says so.
        locks: /proc/locks.
    """
    lock = state_dir / "slots" / "lock"
    try:
        inode = lock.stat().st_ino
        lines = locks.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return _is_alive(pid)
    for line in lines:
        words = line.split()
        if "FLOCK" in words and "WRITE" in words:
            place = words.index("WRITE")
            holder, file = (*words[place + 1 : place + 3], "", "")[:2]
            if file.rpartition(":")[2] == str(inode) and holder == str(pid):
                return True
    return False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _broker(fields: Fields) -> str:
    if not fields.has("broker") or fields.null("broker"):
        return "no broker"
    own = fields.object("broker")
    if own.boolean("connected"):
        protocol = own.text("protocol", most=20) if _is_given(own, "protocol") else ""
        return f"broker connected, MQTT {protocol}".rstrip()
    problem = own.text("problem", most=MAX_BYTES) or "not connected yet"
    return f"no connection to the broker: {problem[:200]}"


def _outbox(fields: Fields) -> str:
    messages = fields.integer("messages")
    text = f"{messages} messages wait, {fields.integer('size_bytes') / 1024:.1f} KiB"
    problem = fields.text("problem") if fields.has("problem") else ""
    return f"{text}: {problem}" if problem else text


def _models(fields: Fields) -> tuple[ModelStatus, ...]:
    names = sorted(fields.names())[:MAX_MODELS]
    return tuple(_model(name, fields.object(name)) for name in names if name.isprintable())


def _model(name: str, fields: Fields) -> ModelStatus:
    return ModelStatus(
        name=name[:100],
        phase=fields.choice("phase", tuple(phase.value for phase in Phase)),
        serves=fields.sha256("serves_sha256") if _is_given(fields, "serves_sha256") else None,
        next=fields.sha256("next_sha256") if _is_given(fields, "next_sha256") else None,
        reason=fields.text("reason"),
        since_s=fields.number("elapsed_s", 0.0) if _is_given(fields, "elapsed_s") else None,
        self_test=_self_test(fields),
    )


def _self_test(fields: Fields) -> str | None:
    if not _is_given(fields, "self_test"):
        return None
    own = fields.object("self_test")
    passed, reason = own.boolean("passed"), own.text("reason")
    return f"passed in {own.number('duration_s', 0.0):.1f} s" if passed else f"failed: {reason}"


def _is_given(fields: Fields, key: str) -> bool:
    return fields.has(key) and not fields.null(key)


def _age_s(path: Path, now_s: Callable[[], float]) -> float:
    try:
        return now_s() - path.stat().st_mtime
    except OSError:
        return 0.0


def _read(path: Path, *, hint: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError("not there", hint=hint, where=str(path)) from error
    except PermissionError as error:
        raise ConfigError(
            "not yours to read", hint="run it as root: sudo", where=str(path)
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from error
