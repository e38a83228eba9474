"""Install a CPU build of torch into an environment, or none: never CUDA.

pip's own choice is taken where it brings no CUDA package; else PyTorch's CPU index is tried; else
torch is left out, and with it the recipes that need an export.

By itself: ``python tools/install_torch.py PYTHON`` prints what it did as JSON.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VERSION = "2.13.0"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CUDA = re.compile(r"^(nvidia|cuda|pytorch-triton|triton)\b", re.IGNORECASE)
EXPORTED = ("hf:", "torch:")  # schemes of sources that torch must export
# Settings of the user's that would send packages past the environment.
STRAY = ("PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_ROOT", "PYTHONPATH", "PYTHONHOME")


class TorchError(Exception):
    """CUDA packages are in the environment."""


@dataclass(frozen=True)
class Torch:
    """What came of it.

    Attributes:
        version: The installed version (``2.13.0+cpu``), or None.
        reason: Why there is none; empty otherwise.
    """

    version: str | None
    reason: str = ""


def install(python: Path, *, log: Callable[[str], None]) -> Torch:
    """Install torch, unless that version is there.

    Args:
        python: The environment's Python; its pip writes reports (≥ 23.2).
        log: Hears of the progress.

    Raises:
        TorchError: CUDA packages came all the same.
    """
    there = installed(python)
    if there and there.partition("+")[0] == VERSION:
        return Torch(there)
    cuda, problem = offered_cuda(python)
    if not cuda and not problem:
        log(f"torch {VERSION}: a CPU build, from the package index")
        if _pip(python, "install", f"torch=={VERSION}").returncode == 0:
            refuse_cuda(python)
            return Torch(installed(python))
        problem = "it did not install"
    why = f"pip would bring {cuda[0]} and {len(cuda) - 1} more" if cuda else problem
    log(f"torch {VERSION}: {why}; trying PyTorch's CPU index")
    # Its dependencies come from the package index with everything else.
    done = _pip(
        python,
        *("install", "--no-deps", "--timeout", "10", "--retries", "0"),
        *("--index-url", CPU_INDEX, f"torch=={VERSION}+cpu"),
        quiet=True,
    )
    if done.returncode == 0:
        refuse_cuda(python)
        return Torch(installed(python))
    version = _run(python, "-c", "import platform; print(platform.python_version())").stdout.strip()
    return Torch(
        None,
        f"no CPU build of torch {VERSION} for Python {version} can be had here: {why}, "
        "and PyTorch's CPU index does not answer",
    )


def offered_cuda(python: Path) -> tuple[list[str], str]:
    """Ask pip what it would install, and download nothing.

    Returns:
        Names of CUDA packages among it, and what went wrong if anything did.
    """
    # Its own metadata first: resolving CUDA's packages takes long and may download some.
    for options in (["--no-deps"], []):
        with tempfile.TemporaryDirectory(prefix="edgekit-torch-") as folder:
            report = Path(folder) / "report.json"
            done = _pip(
                python,
                *("install", "--dry-run", "--ignore-installed", *options),
                *("--report", str(report), f"torch=={VERSION}"),
                quiet=True,
            )
            if done.returncode != 0 or not report.is_file():
                lines = [x for x in done.stderr.splitlines() if x.startswith("ERROR")]
                return [], lines[-1].removeprefix("ERROR: ") if lines else "pip found none"
            names = report_names(python, json.loads(report.read_text()))
        if found := sorted(name for name in names if CUDA.match(name)):
            return found, ""
    return [], ""


def report_names(python: Path, report: dict[str, Any]) -> set[str]:
    """Return what an installation report would install, and what that asks for on this machine."""
    names = {item["metadata"]["name"] for item in report["install"]}
    required = [r for item in report["install"] for r in item["metadata"].get("requires_dist", [])]
    # The environment's own pip judges the markers: it knows that environment.
    script = (
        "import json, sys\n"
        "from pip._vendor.packaging.requirements import Requirement\n"
        "for text in json.load(sys.stdin):\n"
        "    r = Requirement(text)\n"
        "    if r.marker is None or r.marker.evaluate({'extra': ''}):\n"
        "        print(r.name)\n"
    )
    done = _run(python, "-c", script, stdin=json.dumps(required))
    if done.returncode != 0:  # an unknown pip: take every marker as true
        return names | {re.split(r"[\s\[<>=!~;(]", text, maxsplit=1)[0] for text in required}
    return names | set(done.stdout.split())


def installed(python: Path) -> str | None:
    """Return the installed version of torch, local part included, without importing it."""
    done = _run(python, "-c", "import importlib.metadata as m; print(m.version('torch'))")
    return done.stdout.strip() or None if done.returncode == 0 else None


def refuse_cuda(python: Path) -> None:
    """Make sure of it.

    Raises:
        TorchError: CUDA packages are installed.
    """
    script = "import importlib.metadata as m\nfor d in m.distributions(): print(d.name)"
    found = [x for x in _run(python, "-c", script).stdout.split() if CUDA.match(x)]
    if found:
        raise TorchError(f"CUDA packages were installed: {', '.join(sorted(found))}")


def left_out_notice(models: Path, reason: str) -> str:
    """Say which recipes cannot be built without torch, and how to get it later."""
    recipes = []
    for file in sorted(models.glob("*.toml")):
        uri = tomllib.loads(file.read_text(encoding="utf-8")).get("source", {}).get("uri", "")
        if uri.startswith(EXPORTED):
            recipes.append(file.stem)
    return (
        f"  left out: {reason}.\n"
        f"  Recipes that need an export are not built: {', '.join(recipes) or 'none of these'}.\n"
        "  All others are. `make clean demo PYTHON=python3.11` may change that."
    )


def clean_environment() -> dict[str, str]:
    """Return this process's environment without what would lead pip astray."""
    environment = {k: v for k, v in os.environ.items() if k not in STRAY}
    return environment | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}


def _pip(python: Path, *arguments: str, quiet: bool = False) -> subprocess.CompletedProcess[str]:
    watched = sys.stdout.isatty() and not quiet
    command = [str(python), "-m", "pip", *([] if watched else ["-qq"]), *arguments]
    return subprocess.run(
        command, env=clean_environment(), capture_output=quiet, text=True, check=False
    )


def _run(python: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(python), *arguments],
        env=clean_environment(),
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )


if __name__ == "__main__":
    outcome = install(Path(sys.argv[1]), log=lambda text: print(text, file=sys.stderr))
    print(json.dumps({"version": outcome.version, "reason": outcome.reason}))
