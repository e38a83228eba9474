"""The agent as a service of this machine: its user, settings, folders, modes, unit and .pyc.

Every step looks first and changes only what differs, so a second run changes nothing; each says
what it did. Nothing is started here before everything is in place.
"""

from __future__ import annotations

import compileall
import contextlib
import importlib.util
import io
import json
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.agent.config import SCHEMA, Config, load_config
from edgekit.agent.machine import COMMENT, Change, Identity, Machine
from edgekit.agent.unit import GROUPS, NAME, UnitSettings, check_user, render_unit
from edgekit.wire.canonical import Json
from edgekit.wire.errors import ConfigError, UsageError

CONFIG = Path("/etc/edgekit/agent.json")
STATE = Path("/var/lib/edgekit")
UNITS = Path("/etc/systemd/system")
_FOLDER_MODE = 0o755
_CONFIG_MODE = 0o640
_SECRET_MODE = 0o600
_STATE_MODE = 0o750
_UNIT_MODE = 0o644


@dataclass(frozen=True)
class Request:
    """What is to be installed.

    Attributes:
        python: The interpreter of the environment that edgekit is installed in.
        config: The settings; written where they are not there yet.
        settings: What is written then; None where they must be there.
        user: The service's user; made where it is not there yet.
        memory_max_mib: Limit of memory, if any.
        writable: Folders that flows write to.
        start: Start the service, or start it anew where something has changed.
    """

    python: Path
    config: Path = CONFIG
    settings: bytes | None = None
    user: str = "edgekit"
    memory_max_mib: int | None = None
    writable: tuple[Path, ...] = ()
    start: bool = True


def first_settings(*, device: str, target: str, keys: Sequence[str], fleet: str) -> dict[str, Json]:
    """Return the settings of a new device.

    Args:
        device: Its name.
        target: Its target.
        keys: Public keys to trust, PEM.
        fleet: The fleet's name.
    """
    return {
        "schema": SCHEMA,
        "fleet": fleet,
        "device": device,
        "target": target,
        "state_dir": str(STATE),
        "trusted_keys": list(keys),
        "http": {"host": "127.0.0.1", "port": 8080, "token_file": None},
        "broker": None,
        "bundles": [],
    }


def install(request: Request, machine: Machine) -> Iterator[Change]:
    """Install the service, step by step.

    Args:
        request: What is to be installed.
        machine: This machine, or one that only says what it would do.

    Yields:
        What each step did.

    Raises:
        ConfigError: The settings are wrong, or the service could not reach its own program.
        DeviceError: A step failed.
        MissingToolError: A program is missing.
    """
    check_user(request.user)
    yield _ensure_user(request.user, machine)
    who = machine.identity(request.user)
    yield from _ensure_settings(request, machine, who)
    config = _settings(request, machine)
    _check_reach(request, machine, config)
    if machine.real(request.config).exists():  # not in a dry run
        yield from _guard_secrets(request.config, machine, who)
    yield _ensure_folder("state", config.state_dir, _STATE_MODE, who, machine)
    settings = UnitSettings(
        python=request.python,
        config=request.config,
        state_dir=config.state_dir,
        user=request.user,
        groups=tuple(group for group in GROUPS if machine.has_group(group)),
        writable=request.writable,
        memory_max_mib=request.memory_max_mib,
    )
    unit = _ensure_file("unit", UNITS / NAME, render_unit(settings).encode(), _UNIT_MODE, machine)
    yield unit
    yield _compile(machine)
    yield from machine.enable(NAME, has_changed=unit.outcome != "unchanged", start=request.start)


def uninstall(config: Path, user: str, machine: Machine, *, purge: bool) -> Iterator[Change]:
    """Take the service away, step by step; the state folder only with ``purge``.

    Args:
        config: The settings.
        user: The service's user.
        machine: This machine, or one that only says what it would do.
        purge: Remove the state folder and the user, too.

    Raises:
        DeviceError: A step failed.
    """
    check_user(user)
    state_dir = STATE
    with contextlib.suppress(ConfigError):
        state_dir = load_config(machine.real(config)).state_dir
    yield from machine.disable(NAME)
    yield machine.remove_file("unit", UNITS / NAME)
    yield from machine.reload()
    yield machine.remove_file("settings", config)
    yield machine.remove_folder_if_empty("folder", config.parent)
    if not purge:
        yield Change("state", "kept", str(state_dir), "--purge removes it, and the user")
        return
    if not _is_state(machine.real(state_dir)):
        yield Change("state", "kept", str(state_dir), "not a folder of an agent's state")
    else:
        yield machine.remove_tree("state", state_dir)
    yield machine.remove_user(user)


def _is_state(folder: Path) -> bool:
    """Tell whether a folder can be an agent's state: the settings may name any."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return not names or "slots" in names


def _ensure_user(user: str, machine: Machine) -> Change:
    if machine.has_user(user):
        return Change("user", "unchanged", user)
    machine.add_user(user, STATE)
    return Change("user", "created", user, f"a system user without a shell, {COMMENT}")


def _ensure_settings(request: Request, machine: Machine, who: Identity) -> Iterator[Change]:
    path = request.config
    if not machine.real(path.parent).exists():
        yield _ensure_folder("folder", path.parent, _FOLDER_MODE, Identity(0, 0), machine)
    owner = Identity(0, who.gid)
    if machine.real(path).exists():
        yield _ensure_mode("settings", path, _CONFIG_MODE, owner, machine)
        return
    if request.settings is None:
        raise UsageError(
            "there are no settings yet, and none can be made without a target and a key",
            hint="add --target NAME and --key PUB.pem; `edgekit keys export` writes the key",
            where=str(path),
        )
    yield machine.write("settings", path, request.settings, _CONFIG_MODE, owner)


def _settings(request: Request, machine: Machine) -> Config:
    path = machine.real(request.config)
    if not path.exists() and request.settings is not None:  # a dry run: not written yet
        return load_config_bytes(request.settings)
    return load_config(path)


def load_config_bytes(data: bytes) -> Config:
    """Read settings that are not in a file yet; relative paths are of no use there.

    Raises:
        ConfigError: They are malformed.
    """
    import tempfile

    with tempfile.NamedTemporaryFile(prefix="edgekit-", suffix=".json") as file:
        file.write(data)
        file.flush()
        return load_config(Path(file.name))


def _check_reach(request: Request, machine: Machine, config: Config) -> None:
    """Refuse what would leave the service with a program or folders out of its reach."""
    for folder in request.writable:
        if not machine.real(folder).is_dir():
            raise ConfigError("no such folder", where=str(folder), hint="make it first")
    for path in (request.python, config.state_dir):
        for parent in path.parents:
            closed = machine.closed_to(parent, request.user)
            if closed:
                raise ConfigError(
                    f"the user {request.user} cannot enter {parent}",
                    where=str(path),
                    hint="install edgekit under /opt/edgekit, or run it as the owner: --user NAME",
                )


def _guard_secrets(config: Path, machine: Machine, who: Identity) -> Iterator[Change]:
    """Keep files with secrets to the service's user; the settings have just been read."""
    document = json.loads(machine.real(config).read_bytes())
    http, broker = document.get("http") or {}, document.get("broker") or {}
    named = (
        http.get("token_file"),
        (http.get("tls") or {}).get("key_file"),
        broker.get("password_file"),
        (broker.get("tls") or {}).get("key_file"),
    )
    for name in named:
        if name is not None:
            path = config.parent / str(name)
            yield _ensure_mode("private", path, _SECRET_MODE, who, machine)


def _ensure_folder(what: str, path: Path, mode: int, owner: Identity, machine: Machine) -> Change:
    if machine.real(path).is_dir():
        return _ensure_mode(what, path, mode, owner, machine)
    return machine.make_folder(what, path, mode, owner)


def _ensure_file(what: str, path: Path, data: bytes, mode: int, machine: Machine) -> Change:
    real = machine.real(path)
    with contextlib.suppress(OSError):
        if real.read_bytes() == data:
            return _ensure_mode(what, path, mode, Identity(0, 0), machine)
    return machine.write(what, path, data, mode, Identity(0, 0))


def _ensure_mode(what: str, path: Path, mode: int, owner: Identity, machine: Machine) -> Change:
    found = machine.real(path).lstat()
    if stat.S_ISLNK(found.st_mode):
        raise ConfigError("a link; its mode cannot be kept", where=str(path), hint="name the file")
    old = stat.S_IMODE(found.st_mode)
    if old == mode and machine.owns(found, owner):
        return Change(what, "unchanged", str(path))
    machine.guard(path, mode, owner)
    return Change(what, "changed", str(path), f"mode {old:04o} → {mode:04o}, owner")


def _compile(machine: Machine) -> Change:
    """Compile edgekit itself: its user cannot, and pip has done so for everything else."""
    spec = importlib.util.find_spec("edgekit")
    folder = Path(str(spec.origin)).parent if spec else Path()
    stale = [path for path in folder.rglob("*.py") if not _is_compiled(path)]
    if not stale:
        return Change("pyc", "unchanged", str(folder))
    if not machine.dry_run:
        with contextlib.redirect_stdout(io.StringIO()):
            compileall.compile_dir(folder, quiet=2)
    return Change("pyc", "changed", str(folder), f"{len(stale)} modules compiled")


def _is_compiled(path: Path) -> bool:
    compiled = Path(importlib.util.cache_from_source(str(path)))
    with contextlib.suppress(OSError):
        return os.stat(compiled).st_mtime >= path.stat().st_mtime  # noqa: PTH116 - both the same way
    return False
