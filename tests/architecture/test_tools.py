"""The set-up: what it decides, without installing anything."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"


@pytest.fixture
def torch_tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    import install_torch

    module: ModuleType = install_torch
    return module


@pytest.fixture
def set_up(torch_tool: ModuleType) -> ModuleType:
    import set_up as module

    found: ModuleType = module
    return found


def fake_python(folder: Path, name: str, version: tuple[int, int, int]) -> Path:
    """Make a program that answers the two questions of find_python.sh for some version."""
    path = folder / name
    dotted = ".".join(map(str, version))
    path.write_text(
        "#!/bin/sh\n"
        f'if [ "$1" = --version ]; then echo "Python {dotted}"; exit 0; fi\n'
        f"exec {sys.executable} -c 'import sys\n"
        f"sys.version_info = {version}\n"
        f'sys._base_executable = "{path}"\n'
        'exec(sys.argv[1])\' "$2"\n'
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def find_python(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", str(TOOLS / "find_python.sh")],
        env={**os.environ, "PATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_plain_python3_is_taken_where_it_will_do(tmp_path: Path) -> None:
    plain = fake_python(tmp_path, "python3", (3, 12, 1))
    fake_python(tmp_path, "python3.11", (3, 11, 2))
    assert find_python(tmp_path).stdout.strip() == str(plain)


def test_an_old_python3_gives_way_to_a_newer_one(tmp_path: Path) -> None:
    fake_python(tmp_path, "python3", (3, 9, 2))
    newer = fake_python(tmp_path, "python3.13", (3, 13, 0))
    assert find_python(tmp_path).stdout.strip() == str(newer)


def test_a_python_beyond_the_tested_ones_is_the_last_choice(tmp_path: Path) -> None:
    beyond = fake_python(tmp_path, "python3", (3, 14, 0))
    assert find_python(tmp_path).stdout.strip() == str(beyond)
    tested = fake_python(tmp_path, "python3.12", (3, 12, 0))
    assert find_python(tmp_path).stdout.strip() == str(tested)


def test_only_old_pythons_end_with_what_to_do(tmp_path: Path) -> None:
    fake_python(tmp_path, "python3", (3, 9, 2))
    done = find_python(tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "3.11 or newer; found here: Python 3.9.2" in done.stderr
    assert "make PYTHON=" in done.stderr


def test_make_names_the_missing_python_and_stops(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "tools").symlink_to(TOOLS)
    done = subprocess.run(
        ["make", "demo", "PYTHON="], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert not (tmp_path / ".venv").exists()


def report(*requirements: str) -> dict[str, object]:
    return {"install": [{"metadata": {"name": "torch", "requires_dist": list(requirements)}}]}


def test_cuda_in_a_report_is_seen(torch_tool: ModuleType) -> None:
    names = torch_tool.report_names(
        Path(sys.executable),
        report('nvidia-nccl-cu13==2.29.7; platform_system == "Linux"', "sympy>=1.13.3"),
    )
    assert {name for name in names if torch_tool.CUDA.match(name)} == {"nvidia-nccl-cu13"}


def test_what_another_system_or_an_extra_asks_for_does_not_count(torch_tool: ModuleType) -> None:
    names = torch_tool.report_names(
        Path(sys.executable),
        report(
            'nvidia-nccl-cu13; platform_system == "Plan9"',
            'cuda-bindings; extra == "cuda"',
            "jinja2",
        ),
    )
    assert names == {"torch", "jinja2"}


@pytest.mark.parametrize(
    ("name", "is_cuda"),
    [
        ("nvidia-cublas", True),
        ("cuda-toolkit", True),
        ("triton", True),
        ("torch", False),
        ("tritonclient", False),
        ("numpy", False),
    ],
)
def test_names_of_cuda_packages(torch_tool: ModuleType, name: str, is_cuda: bool) -> None:
    assert bool(torch_tool.CUDA.match(name)) is is_cuda


def test_torch_that_is_there_is_left_as_it_is(torch_tool: ModuleType) -> None:
    if torch_tool.installed(Path(sys.executable)) is None:
        pytest.skip("no torch here")
    said: list[str] = []
    found = torch_tool.install(Path(sys.executable), log=said.append)
    assert found.version.startswith(torch_tool.VERSION)
    assert said == []


def test_the_notice_names_the_recipes_that_need_an_export(
    torch_tool: ModuleType, tmp_path: Path
) -> None:
    for name, uri in (("a", "hf:x@1"), ("b", "pypi:b==1!m.onnx"), ("c", "torch:m.p:f")):
        (tmp_path / f"{name}.toml").write_text(f'[source]\nuri = "{uri}"\n')
    notice = torch_tool.left_out_notice(tmp_path, "because")
    assert "because" in notice
    assert "not built: a, c." in notice


def test_the_pins_agree_with_each_other(torch_tool: ModuleType, set_up: ModuleType) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.lower().split("==") for line in lines if line and not line.startswith("#"))
    assert pins["torch"] == torch_tool.VERSION
    assert not any("+" in version for version in pins.values())
    assert "pip" not in pins
    assert pins["numpy"] == "2.4.6"  # the last with wheels for Python 3.11: the same results on all


def test_stray_settings_do_not_reach_pip(
    torch_tool: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_TARGET", "/elsewhere")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    environment = torch_tool.clean_environment()
    assert "PIP_TARGET" not in environment
    assert "PYTHONPATH" not in environment
    assert environment["PATH"] == os.environ["PATH"]


def test_an_unfinished_venv_is_made_anew_and_a_foreign_folder_is_not_touched(
    set_up: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv = tmp_path / ".venv"
    monkeypatch.setattr(set_up, "VENV", venv)
    monkeypatch.setattr(set_up, "PYTHON", venv / "bin/python")
    monkeypatch.setattr(set_up, "UNFINISHED", venv / ".edgekit-unfinished")
    venv.mkdir()
    (venv / "mine.txt").write_text("precious")
    with pytest.raises(set_up.SetUpError, match="not a virtual environment"):
        set_up.make_venv()
    assert (venv / "mine.txt").read_text() == "precious"

    (venv / "pyvenv.cfg").write_text("home = /nowhere\n")
    (venv / ".edgekit-unfinished").touch()
    set_up.make_venv()
    assert not (venv / "mine.txt").exists()
    assert set_up.works()


def test_missing_system_packages_are_named_with_the_tests_they_leave_out(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(TOOLS / "system_packages.py")],
        env={**os.environ, "PATH": str(tmp_path)},  # nothing is installed, not even apt-get
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "left out: the tests marked " in done.stderr
    assert "qemu, for qemu-aarch64-static, mmdebstrap, chromium, ffmpeg, arecord" in done.stderr
    assert "apt-get install" in done.stderr


def test_ci_calls_lint_and_both_kinds_of_tests() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("make ")] == [
        "make lint",
        "make test",
        "make test-slow",
    ]
    assert "set -euo pipefail" in lines
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.mark.parametrize(("ci", "outcome"), [("true", "error"), ("", "skipped")])
def test_what_is_left_out_fails_under_ci_alone(tmp_path: Path, ci: str, outcome: str) -> None:
    test = tmp_path / "test_needs_qemu.py"
    test.write_text("import pytest\n\n@pytest.mark.qemu\ndef test_x():\n    pass\n")
    for name in ("conftest.py",):
        (tmp_path / name).write_bytes((ROOT / "tests" / name).read_bytes())
    empty = tmp_path / "bin"
    empty.mkdir()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs"),
            *("-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), str(test)),
        ],
        env={
            **os.environ,
            "PATH": str(empty),
            "CI": ci,
            "EDGEKIT_TEST_CACHE": str(tmp_path / "cache"),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"1 {outcome}" in done.stdout, done.stdout + done.stderr
    assert "qemu-aarch64-static and mmdebstrap missing" in done.stdout


def test_make_help_lists_the_two_commands() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("  make ")]
    assert listed[:2] == ["demo", "test"]


@pytest.mark.slow
@pytest.mark.network
def test_an_installation_keeps_to_its_limits() -> None:
    done = subprocess.run(
        [sys.executable, str(TOOLS / "check_install.py")],
        capture_output=True,
        text=True,
        check=False,
    )
    document = json.loads(done.stdout)
    too_large = {
        found["extra"] or "device": found["largest_mb"]
        for found in document["installs"]
        if found["size_mb"] > found["limit_mb"]
    }
    assert too_large == {}
    assert document["help_cpu_s"] <= document["help_limit_s"]
    assert done.returncode == 0
