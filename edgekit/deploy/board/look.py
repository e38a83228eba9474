"""What the board is, and what is on it already. Nothing is changed here."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
import pwd
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from edgekit.deploy.board.channel import BoardError, Request, printable, read_small, version
from edgekit.deploy.board.files import MARKER

COMPLETE = ".complete"
MAX_SETTINGS_BYTES = 1 << 20
_SYSTEMD = Path("/run/systemd/system")


def probe(request: Request) -> dict[str, Any]:
    """Describe the board."""
    there = Path(request["prefix"])
    while not there.exists():
        there = there.parent
    return {
        "python": version(),
        "bits": 64 if sys.maxsize > 1 << 32 else 32,
        "machine": platform.machine(),
        "system": printable(_pretty_name()),
        "hostname": printable(socket.gethostname()),
        "user": _user_name(),
        "is_root": os.geteuid() == 0,
        "has_sudo": _has_sudo(),
        "has_systemd": _SYSTEMD.is_dir(),
        "has_venv": all(map(importlib.util.find_spec, ("venv", "ensurepip"))),
        "free_bytes": shutil.disk_usage(there).free,
        "is_writable": os.access(there, os.W_OK | os.X_OK),
    }


def look(request: Request) -> dict[str, Any]:
    """Describe what an earlier deployment has left."""
    prefix, config = Path(request["prefix"]), Path(request["config"])
    link = prefix / "current"
    settings = read_small(config, MAX_SETTINGS_BYTES)
    if settings is None and config.exists():
        raise BoardError(f"{config} cannot be read", kind="config", hint="is it a file?")
    state_dir = _state_dir(settings, config, request["state_dir"])
    foreign = prefix.exists() and not (prefix / MARKER).exists() and any(prefix.iterdir())
    return {
        "is_foreign": foreign,
        "current": link.readlink().name if link.is_symlink() else None,
        "complete": sorted(path.parent.name for path in prefix.glob(f"venvs/*/{COMPLETE}")),
        "extras": _extras(link),
        "settings": None if settings is None else settings.decode(errors="replace"),
        "state_dir": str(state_dir),
        "serves": serving(state_dir),
        "unit": Path("/etc/systemd/system/edgekit-agent.service").exists(),
    }


def _extras(environment: Path) -> list[str]:
    """Return what the environment that runs was installed with: other models may need it."""
    with contextlib.suppress(ValueError, AttributeError):
        found = json.loads(read_small(environment / COMPLETE, 4096) or b"{}").get("extras", [])
        return [str(extra) for extra in found] if isinstance(found, list) else []
    return []


def _state_dir(settings: bytes | None, config: Path, default: str) -> Path:
    """Return the state folder of the settings that are here; what is wrong is told later."""
    with contextlib.suppress(ValueError, AttributeError):
        named = json.loads(settings or b"{}").get("state_dir")
        if isinstance(named, str):
            return config.parent / named
    return Path(default)


def serving(state_dir: Path) -> dict[str, str]:
    """Return what a running agent serves: models and digests; nothing where none runs."""
    status = read_status(state_dir)
    if not status.get("running") or not _is_agent(status.get("pid")):
        return {}
    models = status.get("models")
    found = models.items() if isinstance(models, dict) else ()
    return {
        str(name): str(model["serves_sha256"])
        for name, model in found
        if isinstance(model, dict) and model.get("serves_sha256")
    }


def read_status(state_dir: Path) -> dict[str, Any]:
    """Read the agent's status; an empty one where there is none."""
    try:
        status = json.loads(read_small(state_dir / "status.json", 1 << 20) or b"{}")
    except ValueError:
        return {}
    return status if isinstance(status, dict) else {}


def _is_agent(pid: object) -> bool:
    if not isinstance(pid, int) or isinstance(pid, bool):
        return False
    return b"edgekit" in (read_small(Path(f"/proc/{pid}/cmdline"), 1 << 16) or b"")


def _has_sudo() -> bool:
    if os.geteuid() == 0 or shutil.which("sudo") is None:
        return False
    done = subprocess.run(
        ["sudo", "-n", "true"], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    return done.returncode == 0


def _pretty_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
