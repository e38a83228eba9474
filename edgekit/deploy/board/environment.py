"""A new environment beside the one that runs, and a bundle's self-test in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from edgekit.deploy.board.channel import (
    BoardError,
    Channel,
    Request,
    plain_environment,
    printable,
    python_of,
)
from edgekit.deploy.board.files import alone, explaining, file_path, prepare
from edgekit.deploy.board.look import COMPLETE

_INSTALL_S = 3600.0
_TEST_S = 330.0
_ID = re.compile(r"[0-9a-f]{12}")
_PIP = (
    *("-m", "pip", "install", "--no-input", "--disable-pip-version-check"),
    *("--no-warn-script-location", "--progress-bar", "off"),
)


def environment_path(prefix: Path, name: str) -> Path:
    """Return where an environment lies, or would."""
    if not _ID.fullmatch(name):
        raise BoardError(f"no environment's name: {name[:80]!r}")
    return prefix / "venvs" / name


def make_environment(request: Request, channel: Channel) -> dict[str, Any]:
    """Make an environment, unless it is there whole. One that is not whole is made anew."""
    prefix = Path(request["prefix"])
    prepare(prefix)
    with alone(prefix):
        path = environment_path(prefix, request["environment"])
        if (path / COMPLETE).exists():
            return {"changed": False}
        with explaining(path):
            shutil.rmtree(path, ignore_errors=True)
        _make(path, channel)
        _install(path, prefix, request, channel)
        _try_out(path, channel)
        # A power cut a second later would leave it called complete, and its files empty.
        os.sync()
        with explaining(path):
            (path / COMPLETE).write_text(json.dumps({"extras": request["extras"]}))
    return {"changed": True}


def _make(path: Path, channel: Channel) -> None:
    code, said = channel.run([sys.executable, "-I", "-m", "venv", str(path)], timeout_s=300)
    if code:
        raise BoardError(
            "the environment cannot be made",
            hint="sudo apt-get install python3-venv, where the board's Python has none",
            said=said,
        )


def _install(path: Path, prefix: Path, request: Request, channel: Channel) -> None:
    wheel = file_path(prefix, request["wheel"]["sha256"], request["wheel"]["name"])
    offline = request["offline"]
    links = [str(file_path(prefix, w["sha256"], w["name"]).parent) for w in request["wheels"]]
    where = [word for folder in links for word in ("--find-links", folder)]
    extras = f"[{','.join(request['extras'])}]" if request["extras"] else ""
    argv = [python_of(path), *_PIP, *(["--no-index"] if offline else []), *where]
    code, said = channel.run(
        [*argv, f"{wheel}{extras}"],
        timeout_s=_INSTALL_S,
        on_line=lambda line: channel.send(say=line),
        env=plain_environment(),
    )
    if code:
        hint = "the folder of --wheels lacks one of them, or has it for another Python"
        if not offline:
            hint = "does the board reach the package index? --wheels DIR brings the packages along"
        wrong = [line for line in said if line.startswith("ERROR:")]
        raise BoardError("the packages cannot be installed", hint=hint, said=wrong[-3:] or said)


def _try_out(path: Path, channel: Channel) -> None:
    script = "import edgekit.agent.main, numpy, onnxruntime"
    argv = [python_of(path), "-c", script]
    code, said = channel.run(argv, timeout_s=180, env=plain_environment())
    if code:
        raise BoardError(
            "the agent does not start in its new environment",
            hint="a package may be wrong for this board's CPU or C library",
            said=said[-3:],
        )


def self_test(request: Request) -> dict[str, Any]:
    """Run a bundle's self-test with the new environment, as the agent will."""
    prefix = Path(request["prefix"])
    path = environment_path(prefix, request["environment"])
    bundle = file_path(prefix, request["bundle"]["sha256"], request["bundle"]["name"])
    argv = [
        *(python_of(path), "-m", "edgekit.agent.selftest", str(bundle)),
        *("--sha256", request["bundle"]["sha256"], "--key", request["key"]),
        f"--where={request['where']}",
    ]
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_TEST_S,
            env={**os.environ, **plain_environment()},
        )
        document = json.loads(done.stdout[-(1 << 20) :])
    except subprocess.TimeoutExpired:
        raise BoardError("the self-test hung", hint="is the board short of memory?") from None
    except ValueError:
        said = [printable(line) for line in done.stderr.decode(errors="replace").splitlines()[-3:]]
        raise BoardError(
            f"the self-test's process ended with {done.returncode} and said nothing",
            hint="a signal (below 0) may be a lack of memory",
            said=said,
        ) from None
    return {"document": document}
