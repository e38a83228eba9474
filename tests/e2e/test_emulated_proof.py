"""Every recipe, built for a Raspberry Pi 5, answers on emulated Arm cores as its bundle says."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORES = ("cortex-a53", "cortex-a76")
FAST = ("digits-cnn",)
RECIPES = sorted(path.stem for path in (ROOT / "models").glob("*.toml"))


def edgekit(*arguments: str, cwd: Path) -> tuple[int, dict[str, Any]]:
    """Run a command as a user does and return its exit code and its JSON document."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("edgekit")), *arguments, "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=dict(os.environ),
    )
    assert done.stdout, done.stderr[-3000:]
    document: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, document


def needs_export(model: str) -> bool:
    recipe = tomllib.loads((ROOT / "models" / f"{model}.toml").read_text(encoding="utf-8"))
    return str(recipe["source"]["uri"]).startswith(("hf:", "torch:"))


@pytest.mark.qemu
@pytest.mark.network
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "model",
    [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in RECIPES],
)
def test_a_bundle_answers_on_arm_as_it_says(model: str, tmp_path: Path) -> None:
    if needs_export(model) and importlib.util.find_spec("torch") is None:
        pytest.skip("no CPU build of torch for this Python: recipes that need an export are out")
    code, built = edgekit("build", model, "--target", "rpi5", "-o", str(tmp_path), cwd=ROOT)
    assert code == 0, built
    (bundle,) = built["bundles"]

    cores = [part for core in CORES for part in ("--cpu", core)]
    code, proof = edgekit("verify", bundle["path"], "--emulate", *cores, cwd=tmp_path)
    worst = [m for p in proof["proofs"] for m in p["matches"] if not m["within"]]
    assert (code, worst) == (0, [])
    assert [p["host"] for p in proof["proofs"]] == ["arm64"] * len(CORES)
    samples = {m["sample"] for p in proof["proofs"] for m in p["matches"]}
    assert len(samples) == proof["golden"]["count"] > 0
    if proof["golden"]["graph_kind"] == "static-int8":
        assert all(p["exact"] for p in proof["proofs"])
