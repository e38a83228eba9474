"""Bundles and environments that the agent's benchmarks run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import platformdirs

from edgekit.runtime.host import host_kind

ROOT = Path(__file__).resolve().parents[2]


def cache_folder() -> Path:
    """Return where the agent's benchmarks keep bundles and environments."""
    named = os.environ.get("EDGEKIT_BENCH_DIR")
    root = Path(named) if named else platformdirs.user_cache_path("edgekit-bench")
    folder = root / "agent"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def bundle(model: str, folder: Path) -> Path:
    """Build a packaged recipe for this host's kind of CPU, or a Raspberry Pi 5 where it has none.

    Args:
        model: Name of the recipe.
        folder: Where it goes; its decisions are locked there, too, and not in the repository.
    """
    kinds = {path.stem for path in (ROOT / "targets").glob("*.toml")}
    target = host_kind() if host_kind() in kinds else "rpi5"
    edgekit = Path(sys.executable).with_name("edgekit")
    line = [str(edgekit), "build", model, "--target", target, "-o", str(folder), "--quiet"]
    done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=folder)
    return Path(done.stdout.strip().splitlines()[-1])


def fastapi_python() -> Path:
    """Return the Python of an environment with FastAPI, made on first use."""
    folder = cache_folder() / "fastapi"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        packages = ["fastapi", "uvicorn", "onnxruntime", "numpy"]
        subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True)
        (folder / "ready").touch()
    return python


def versions_of(python: Path, *names: str) -> dict[str, str]:
    """Return versions of packages in an environment."""
    script = "import importlib.metadata as m, sys; print(*map(m.version, sys.argv[1:]))"
    done = subprocess.run(
        [str(python), "-c", script, *names], capture_output=True, text=True, check=True
    )
    return dict(zip(names, done.stdout.split(), strict=True))
