"""docs/bench.md runs from top to bottom, and names what the document holds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.runtime.bench_windows import MIN_WINDOWS, PLATEAU_RULE

PAGE = Path(__file__).parents[2] / "docs" / "bench.md"


@pytest.mark.network
def test_every_command_of_the_page_works(shared_cache, tmp_path):
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 2
    launcher = tmp_path / "bin" / "edgekit"
    launcher.parent.mkdir()
    main = "import sys; from edgekit.cli.main import main; main()"
    launcher.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{main}' \"$@\"\n")
    launcher.chmod(0o755)
    result = subprocess.run(
        ["sh", "-e", "-c", "\n".join(blocks)],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{launcher.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("not figures of rpi5") == 2
    assert (tmp_path / "bench.html").read_text(encoding="utf-8").count("<svg") >= 2


def test_the_page_states_the_rule_of_the_plateau_and_every_field(small_bundle, edgekit):
    text = PAGE.read_text(encoding="utf-8")
    assert MIN_WINDOWS == 5
    assert "at least five" in text
    assert "within 2%" in PLATEAU_RULE
    assert "within 2 %" in text
    ran = edgekit("bench", small_bundle.path, "--key", small_bundle.public_key, "--json")
    fields = {*ran.document, *ran.document["measured"], *ran.document["model_call"]}
    assert {f for f in fields - {"schema", "kind"} if f"`{f}`" not in text} == set()
