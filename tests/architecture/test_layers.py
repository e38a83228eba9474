"""The layers, and what is loaded when."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("numpy", "onnx", "onnxruntime", "torch", "rich", "transformers", "matplotlib", "PIL")


def loaded_by(statement: str) -> list[str]:
    """Run a statement in a Python of its own and return the top-level modules that it loaded."""
    script = (
        f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    modules: list[str] = json.loads(done.stderr.strip().splitlines()[-1])
    return modules


def test_the_import_contracts_of_pyproject_hold() -> None:
    tool = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [str(tool), "--no-cache"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    "statement",
    [
        "import edgekit",
        "import edgekit.wire.manifest, edgekit.wire.bundle, edgekit.wire.signing",
        "from edgekit.cli.main import run; assert run(['--help']) == 0",
        "from edgekit.cli.main import run; assert run(['--version']) == 0",
        "from edgekit.cli.main import run; assert run(['build', '--help']) == 0",
    ],
)
def test_nothing_heavy_is_loaded_early(statement: str) -> None:
    tops = {name.partition(".")[0] for name in loaded_by(statement)}
    assert not tops & set(HEAVY)


def test_importing_edgekit_loads_nothing_but_itself() -> None:
    loaded = {name for name in loaded_by("import edgekit") if name.startswith("edgekit")}
    assert loaded == {"edgekit"}


def test_help_imports_no_more_commands_than_it_lists() -> None:
    # One line of help needs each command's module; their toolchain stays out.
    loaded = loaded_by("from edgekit.cli.main import run; run(['--help'])")
    assert not [name for name in loaded if name.startswith("edgekit.toolchain")]
