"""What the agent loads, and when: hello goes out before numpy and onnxruntime are there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HEAVY = {"numpy", "onnxruntime", "onnx", "click", "rich", "PIL", "torch", "matplotlib"}
REPORTING = (
    "edgekit.agent.link, edgekit.agent.outbox, edgekit.agent.telemetry, edgekit.agent.vitals"
)


@pytest.mark.parametrize("modules", ["edgekit.agent", REPORTING])
def test_nothing_heavy_is_loaded(modules: str) -> None:
    script = f"import json, sys, {modules}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert "edgekit" in loaded
    assert not loaded & HEAVY


def test_what_is_to_be_absent_would_be_seen() -> None:
    script = "import json, sys, edgekit.agent, numpy; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "numpy" in json.loads(done.stdout)
