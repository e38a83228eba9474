"""The switch: settings, environment and process change together, or stay as they were.

It goes on to its end when the connection breaks meanwhile; the next run then finds it done, or
undone. What it may have to put back is in memory only for the seconds in which the agent starts.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.deploy.board.agent import (
    UNIT,
    Place,
    install_service,
    main_pid,
    remove_service,
    start,
    stop,
    system,
    wait_until_serving,
)
from edgekit.deploy.board.channel import (
    BoardError,
    Channel,
    Request,
    plain_environment,
    python_of,
    read_small,
)
from edgekit.deploy.board.environment import environment_path
from edgekit.deploy.board.files import (
    MARKER,
    alone,
    explaining,
    file_path,
    prepare,
    sync_folder,
)
from edgekit.deploy.board.look import MAX_SETTINGS_BYTES, serving

_UNIT = Path("/etc/systemd/system") / UNIT
_CHECK = """
import pathlib, sys
from edgekit.agent.config import load_config
from edgekit.wire.errors import EdgekitError
try:
    load_config(pathlib.Path(sys.argv[1]))
except EdgekitError as error:
    sys.exit(f"{error.message}" + (f" ({error.hint})" if error.hint else ""))
"""


@dataclass(frozen=True)
class _Before:
    """What runs until now; None for what was not there."""

    link: str | None
    settings: bytes | None
    unit: bytes | None
    ran: bool


def activate(request: Request, channel: Channel) -> dict[str, Any]:
    """Let the new environment serve the bundle; if it does not, let the old one go on."""
    place = Place.of(request)
    prepare(place.prefix)
    with alone(place.prefix):
        path = environment_path(place.prefix, request["environment"])
        settings = request["settings"].encode()
        before = _before(place)
        same = before.link == _link_text(path) and before.settings == settings and before.ran
        if same and serving(place.state_dir).get(request["model"]) == request["sha256"]:
            return {"changed": False, "phase": None}
        _check(path, place, settings, channel)
        bundle = file_path(place.prefix, request["sha256"], request["bundle_name"])
        # The agent takes a file's time as the time of its order: this one is given now.
        os.utime(bundle)
        try:
            _put(place, _link_text(path), settings)
            stop(place)
            if place.user is not None:
                install_service(place)
            phase = wait_until_serving(place, start(place), request)
        except (BoardError, OSError) as error:
            _undo(place, before)
            if isinstance(error, BoardError):
                raise
            where = error.filename or place.prefix
            raise BoardError(f"{where}: {error.strerror}") from error
        _tidy(place, path, settings, before)
    return {"changed": True, "phase": phase}


def _before(place: Place) -> _Before:
    link = str(place.current.readlink()) if place.current.is_symlink() else None
    settings = read_small(place.config, MAX_SETTINGS_BYTES)
    unit = read_small(_UNIT, MAX_SETTINGS_BYTES) if place.user is not None else None
    return _Before(link, settings, unit, main_pid(place) is not None)


def _check(path: Path, place: Place, settings: bytes, channel: Channel) -> None:
    """Let the new edgekit read the new settings before anything of the old ones is touched."""
    with explaining(place.config):
        place.config.parent.mkdir(parents=True, exist_ok=True)
        candidate = place.config.with_name(f".{place.config.name}.candidate")
        _write(candidate, settings)
    try:
        code, said = channel.run(
            [python_of(path), "-c", _CHECK, str(candidate)],
            timeout_s=60,
            env=plain_environment(),
        )
    finally:
        candidate.unlink(missing_ok=True)
    if code:
        raise BoardError(
            f"the settings are wrong: {said[-1] if said else code}",
            kind="config",
            hint=f"put {place.config} on the board right, or give --settings FILE",
        )


def _put(place: Place, link: str, settings: bytes) -> None:
    _write(place.config, settings)
    _switch(place, link)


def _switch(place: Place, link: str) -> None:
    partial = place.prefix / ".current.new"
    partial.unlink(missing_ok=True)
    partial.symlink_to(link)
    partial.replace(place.current)
    sync_folder(place.prefix)


def _undo(place: Place, before: _Before) -> None:
    """Put back what was there, and let it run as it ran. What fails here is told nowhere else.

    Whatever cannot be put back, the rest is: a disk that is full must not cost the board its agent.
    """
    parts: list[Callable[[], object]] = [lambda: stop(place)]
    if place.user is not None:
        parts.append(lambda: _undo_unit(place, before.unit))
    parts.append(lambda: _undo_settings(place, before.settings))
    parts.append(lambda: _undo_link(place, before.link))
    if before.ran:
        parts.append(lambda: start(place))
    for put_back in parts:
        with contextlib.suppress(BoardError, OSError):
            put_back()


def _undo_unit(place: Place, unit: bytes | None) -> None:
    if unit is None:
        remove_service(place, purge=False)
    elif read_small(_UNIT, MAX_SETTINGS_BYTES) != unit:
        _write(_UNIT, unit)
        system("systemctl", "daemon-reload")


def _undo_settings(place: Place, settings: bytes | None) -> None:
    if settings is None:
        place.config.unlink(missing_ok=True)
    elif read_small(place.config, MAX_SETTINGS_BYTES) != settings:
        _write(place.config, settings)


def _undo_link(place: Place, link: str | None) -> None:
    if link is None:
        place.current.unlink(missing_ok=True)
    elif not place.current.is_symlink() or str(place.current.readlink()) != link:
        _switch(place, link)


def _write(path: Path, data: bytes) -> None:
    """Write a file whole, with the owner and mode that it has, or for its owner alone."""
    like = path.stat() if path.exists() else None
    partial = path.with_name(f".{path.name}.new")
    partial.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            if like is not None:
                os.fchmod(file.fileno(), like.st_mode & 0o777)
                if os.geteuid() == 0:
                    os.fchown(file.fileno(), like.st_uid, like.st_gid)
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _link_text(path: Path) -> str:
    return f"venvs/{path.name}"


def _tidy(place: Place, path: Path, settings: bytes, before: _Before) -> None:
    """Keep what runs and what ran before it; remove the rest."""
    kept = {path.name, Path(before.link or "").name}
    for old in (place.prefix / "venvs").iterdir():
        if old.name not in kept:
            shutil.rmtree(old, ignore_errors=True)
    named = _bundles(settings) | _bundles(before.settings or b"{}")
    for folder in (place.prefix / "files").iterdir():
        if not any(Path(name).parent == folder for name in named):
            shutil.rmtree(folder, ignore_errors=True)
    for part in (place.prefix / "incoming").iterdir():
        part.unlink(missing_ok=True)


def _bundles(settings: bytes) -> set[str]:
    with contextlib.suppress(ValueError, AttributeError):
        return {str(name) for name in json.loads(settings).get("bundles", [])}
    return set()


def remove(request: Request) -> dict[str, Any]:
    """Take the agent away; the state folder only where that is asked for."""
    place = Place.of(request)
    removed = []
    if not (place.prefix / MARKER).exists():
        return {"removed": _purge_rest(place) if request["purge"] else []}
    with alone(place.prefix):
        if stop(place):
            removed.append("agent")
        if place.user is not None and Path(python_of(place.current)).exists():
            remove_service(place, purge=request["purge"])
            removed.append("service")
        with explaining(place.prefix):
            if place.user is None and place.config.exists():
                place.config.unlink()
                removed.append(str(place.config))
            if request["purge"] and place.user is None and place.state_dir.exists():
                shutil.rmtree(place.state_dir)
                removed.append(str(place.state_dir))
            place.current.unlink(missing_ok=True)
            for name in ("venvs", "files", "incoming"):
                if (place.prefix / name).exists():
                    shutil.rmtree(place.prefix / name)
                    removed.append(str(place.prefix / name))
    (place.prefix / ".lock").unlink(missing_ok=True)
    if not any(path.name != MARKER for path in place.prefix.iterdir()):
        (place.prefix / MARKER).unlink()
        place.prefix.rmdir()
    return {"removed": removed}


def _purge_rest(place: Place) -> list[str]:
    """Remove what an earlier removal has left on purpose, with no edgekit here to do it."""
    removed = []
    if place.user is not None and (place.state_dir / "slots").is_dir():
        shutil.rmtree(place.state_dir)
        removed.append(str(place.state_dir))
    with contextlib.suppress(KeyError):
        if place.user is not None and pwd.getpwnam(place.user).pw_gecos == "edgekit agent":
            system("userdel", place.user)
            removed.append(f"user {place.user}")
    return removed
