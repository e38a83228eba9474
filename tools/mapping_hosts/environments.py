"""Environments for the hosts, each with nothing else in it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

_VERSION = "import sys; print(*sys.version_info[:3])"
_MAX_PYTHON = (3, 14)  # no release of Home Assistant is newer than this one's


def newest_python() -> Path:
    """Return the newest Python here, for each release of Home Assistant asks for a newer one."""
    named = (shutil.which(f"python3.{minor}") for minor in range(11, _MAX_PYTHON[1] + 1))
    places = [Path(sys.executable), *map(Path, filter(None, named))]
    places += Path.home().glob(".pyenv/versions/*/bin/python")
    found: dict[tuple[int, ...], Path] = {}
    for place in places:
        done = subprocess.run([place, "-c", _VERSION], capture_output=True, text=True, check=False)
        version = tuple(map(int, done.stdout.split()))  # nothing of a shim that leads nowhere
        if version and version[:2] <= _MAX_PYTHON:
            found.setdefault(version, place)
    return found[max(found)]


def make(folder: Path, python: Path, *packages: str) -> Path:
    """Make an environment, unless it is there, and return its Python."""
    inside = folder / "bin" / "python"
    ready = folder / "ready"
    if not ready.exists():
        subprocess.run([python, "-m", "venv", "--clear", str(folder)], check=True)
        install(inside, *packages)
        ready.touch()
    return inside


def install(python: Path, *packages: str) -> None:
    """Install packages into an environment."""
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-compile"]
    subprocess.run([*pip, *packages], check=True, stderr=subprocess.DEVNULL)


def version_of(python: Path, package: str) -> str:
    """Return the version of a package in an environment."""
    script = f"import importlib.metadata as m; print(m.version({package!r}))"
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def complete_home_assistant(python: Path, requirement: str, *components: str) -> None:
    """Install what parts of it ask for, all at the versions that its makers have tried.

    Args:
        python: Of its environment.
        requirement: As it was installed.
        components: Parts that are used.
    """
    root = next(python.parents[1].glob("lib/python3*/site-packages/homeassistant"))
    manifests = [root / "components" / part / "manifest.json" for part in components]
    asked = [text for file in manifests for text in json.loads(file.read_bytes())["requirements"]]
    install(python, "-c", str(root / "package_constraints.txt"), requirement, *asked)
