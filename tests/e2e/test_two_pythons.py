"""The same bytes under two versions of Python, for recipes that need no export."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgekit.wire.signing import generate_key

ROOT = Path(__file__).resolve().parents[2]
MODELS = ("digits-cnn", "silero-vad", "magika", "ppocr-v4-rec", "ppocr-v4-det", "yolo11n")
FETCHED = ("download", "source", "unpinned", "digest")


def run(*line: object, cwd: Path | None = None, code: Path | None = None) -> str:
    done = subprocess.run(
        [str(part) for part in line],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONPATH": str(code or "")},
    )
    assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def other_python() -> Path | None:
    """Find an interpreter of another version that edgekit runs on, with a venv module."""
    probe = "import sys, venv, ensurepip; print(sys.version_info[1])"
    found = [shutil.which(f"python3.{minor}") for minor in (12, 13, 11)]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found += sorted(str(p) for p in pyenv.glob("3.1[123]*/bin/python"))
    for name in found:
        if name is None:
            continue
        done = subprocess.run([name, "-c", probe], capture_output=True, text=True, check=False)
        if done.returncode == 0 and 11 <= int(done.stdout) != sys.version_info[1]:
            return Path(name)
    return None


@pytest.fixture(scope="module")
def pythons(tmp_path_factory) -> tuple[Path, Path, Path]:
    """This Python, a virtual environment of another one, and the edgekit that both run."""
    base = other_python()
    if base is None:
        reason = "no Python 3.11, 3.12 or 3.13 beside this one"
        if os.environ.get("CI") == "true":
            pytest.fail(f"left out under CI: {reason}", pytrace=False)
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("python")
    run(base, "-m", "venv", folder / "venv")
    other = folder / "venv" / "bin" / "python"
    # As a wheel: an editable install would not show what the wheel leaves out.
    run(other, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", f"{ROOT}[audio,build]")
    where = "import edgekit; print(edgekit.__path__[0])"
    installed = Path(run(other, "-P", "-c", where, cwd=folder).strip())
    shutil.copytree(installed, folder / "code" / "edgekit")
    return Path(sys.executable), other, folder / "code"


def fetched(cache: Path, into: Path) -> Path:
    """Take over what was downloaded, and nothing that was computed."""
    for kind in FETCHED:
        if (cache / "stages" / kind).is_dir():
            shutil.copytree(cache / "stages" / kind, into / "stages" / kind, copy_function=link)
    return into


def link(source: str, place: str) -> None:
    """Take a file over without copying it, where both are on one disk."""
    try:
        Path(place).hardlink_to(source)
    except OSError:
        shutil.copy2(source, place)


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("model", MODELS)
def test_two_pythons_give_the_same_bytes(model, pythons, shared_cache, tmp_path):
    key = tmp_path / "dev.pem"
    key.write_bytes(generate_key("dev").to_pem())
    key.chmod(0o600)
    project = tmp_path / "project"
    shutil.copytree(ROOT / "models", project / "models")
    # Downloads go to the shared cache, so that another run finds them.
    line = ("build", model, "--target", "rpi5", "--project", project, "--json", "--key-file", key)
    *both, code = pythons
    run(both[0], "-m", "edgekit", *line, "--cache-dir", shared_cache, cwd=tmp_path, code=code)
    bundles: list[dict[str, Any]] = []
    for number, python in enumerate(both):
        cache = fetched(shared_cache, tmp_path / f"cache{number}")
        said = run(
            *(python, "-m", "edgekit", *line, "--cache-dir", cache, "-o", tmp_path / f"d{number}"),
            cwd=tmp_path,
            code=code,
        )
        (bundle,) = json.loads(said)["bundles"]
        assert bundle["status"] == "built"
        bundles.append(bundle)
    assert bundles[0]["precision"] == bundles[1]["precision"]
    assert bundles[0]["sha256"] == bundles[1]["sha256"]
