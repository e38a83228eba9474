"""Make .venv and install edgekit into it with pinned dependencies.

Runs under the Python that .venv is made with and imports the standard library alone. Safe to
interrupt: a .venv whose set-up was killed is made anew, and the stamp that tells make "ready" is
written last.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import install_torch

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".edgekit-ready"
UNFINISHED = VENV / ".edgekit-unfinished"
PIP = "pip==26.3"  # an older one reads whole wheels where their metadata would do
OLDEST = (3, 11)


class SetUpError(Exception):
    """A step of the set-up failed; the message says what to do."""


def main() -> int:
    """Set up, and say what was left out.

    Returns:
        The exit code: 0, or 4 (a tool is missing or could not be installed).
    """
    if sys.version_info < OLDEST:
        print(f"error: Python {sys.version.split()[0]} is older than 3.11", file=sys.stderr)
        return 4
    started = time.monotonic()
    try:
        make_venv()
        UNFINISHED.touch()
        pip("install", PIP)
        torch = install_torch.install(PYTHON, log=say)
        extras = "all,dev" if torch.version else "audio,build,fleet,dev"
        say(f"edgekit[{extras}] with the versions of constraints.txt")
        pip("install", "-c", str(ROOT / "constraints.txt"), "-e", f"{ROOT}[{extras}]")
        install_torch.refuse_cuda(PYTHON)
    except (SetUpError, install_torch.TorchError) as error:
        # pip has undone its own step: what is there is whole, and the next run goes on from it.
        UNFINISHED.unlink(missing_ok=True)
        print(f"error: the set-up stopped: {error}", file=sys.stderr)
        return 4
    state = {"python": sys.version.split()[0], "torch": torch.version, "left_out": torch.reason}
    STAMP.write_text(json.dumps(state) + "\n")
    UNFINISHED.unlink(missing_ok=True)
    say(f"ready in {time.monotonic() - started:.0f} s")
    if not torch.version:
        print(install_torch.left_out_notice(ROOT / "models", torch.reason), file=sys.stderr)
    return 0


def make_venv() -> None:
    """Make .venv, unless a whole one with a Python that works is there."""
    if VENV.exists() and (UNFINISHED.exists() or not works()):
        if not (VENV / "pyvenv.cfg").exists() and any(VENV.iterdir()):
            raise SetUpError(f"{VENV} is not a virtual environment; move it away")
        say("the last set-up did not finish: making .venv anew")
        shutil.rmtree(VENV)
    if VENV.exists():
        return
    say(f"making .venv with Python {sys.version.split()[0]}")
    try:
        __import__("ensurepip")
    except ImportError:
        make_venv_without_ensurepip()
        return
    run([sys.executable, "-m", "venv", str(VENV)])


def make_venv_without_ensurepip() -> None:
    """Make .venv where Debian has split ensurepip off: with the system's pip, if any."""
    if subprocess.run(
        [sys.executable, "-m", "pip", "--version"], capture_output=True, check=False
    ).returncode:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise SetUpError(
            f"Python {version} here has neither ensurepip nor pip\n"
            f"  hint: apt-get install python{version}-venv"
        )
    run([sys.executable, "-m", "venv", "--without-pip", str(VENV)])
    run([sys.executable, "-m", "pip", "--python", str(PYTHON), "install", "--quiet", PIP])


def works() -> bool:
    """Tell whether .venv has a Python that starts, is new enough and has pip."""
    probe = f"import sys, pip; sys.exit(sys.version_info < {OLDEST})"
    try:
        done = subprocess.run([PYTHON, "-c", probe], capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


def pip(*arguments: str) -> None:
    """Run .venv's pip; quiet where nobody watches."""
    quiet = [] if sys.stdout.isatty() else ["-qq"]
    run([str(PYTHON), "-m", "pip", *quiet, *arguments])


def run(command: list[str]) -> None:
    """Run a command.

    Raises:
        SetUpError: It failed; it has said why itself.
    """
    done = subprocess.run(command, env=install_torch.clean_environment(), check=False)
    if done.returncode:
        raise SetUpError(f"`{' '.join(command)}` ended with {done.returncode}")


def say(text: str) -> None:
    """Print a line of progress."""
    print(f"  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    os.chdir(ROOT)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted; the next run starts .venv anew", file=sys.stderr)
        sys.exit(130)
