"""A wheel that is made of what is installed: pip takes it, and its bytes are always the same."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

import edgekit
from edgekit.deploy.wheel import is_editable, pack_wheel
from edgekit.wire.errors import BuildError

SOURCE = Path(edgekit.__file__).parent


def test_edgekit_is_packed_with_all_that_a_device_needs(tmp_path: Path) -> None:
    path = pack_wheel(distribution("edgekit"), tmp_path, source=SOURCE)
    assert path.name == f"edgekit-{edgekit.__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(path).namelist())
    assert {"edgekit/agent/main.py", "edgekit/agent/page.html", "edgekit/py.typed"} <= names
    assert not [name for name in names if "__pycache__" in name]
    assert any(name.endswith("entry_points.txt") for name in names)


def test_the_same_installation_gives_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    found = [pack_wheel(distribution("rich"), tmp_path / name) for name in ("a", "b")]
    assert found[0].read_bytes() == found[1].read_bytes()


@pytest.mark.parametrize("name", ["paho-mqtt", "psutil", "pygments", "backports.zstd"])
def test_pip_takes_it(tmp_path: Path, name: str) -> None:
    path = pack_wheel(distribution(name), tmp_path)
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    done = subprocess.run(
        [*pip, "--disable-pip-version-check", "--target", str(tmp_path / "to"), str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    before = {str(f) for f in distribution(name).files or () if f.suffix == ".py"}
    after = {str(p.relative_to(tmp_path / "to")) for p in (tmp_path / "to").rglob("*.py")}
    assert before == after


@pytest.mark.skipif(not is_editable(distribution("edgekit")), reason="not a working copy")
def test_a_working_copy_needs_its_folder(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="cannot be packed"):
        pack_wheel(distribution("edgekit"), tmp_path)
