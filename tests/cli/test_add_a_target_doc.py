"""docs/add-a-target.md runs from top to bottom."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from edgekit.toolchain.targets import KEYS

PAGE = Path(__file__).parents[2] / "docs" / "add-a-target.md"


def test_every_command_of_the_page_works(tmp_path):
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) >= 5
    launcher = tmp_path / "bin" / "edgekit"
    launcher.parent.mkdir()
    main = "import sys; from edgekit.cli.main import main; main()"
    launcher.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{main}' \"$@\"\n")
    launcher.chmod(0o755)
    env = {**os.environ, "PATH": f"{launcher.parent}:{os.environ['PATH']}"}
    result = subprocess.run(
        ["sh", "-e", "-c", "\n".join(blocks)],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 of 1 targets are sound" in result.stdout
    assert re.search(r"memory\.size_mib +8192 +targets/rpi5\.toml:2", result.stdout)
    assert re.search(r"cpu\.core +Cortex-A76 +edgekit:targets/rpi5\.toml:\d+", result.stdout)


def test_the_page_explains_every_key():
    text = PAGE.read_text(encoding="utf-8")
    for key in KEYS:
        section = key.partition(".")[0]
        assert f"`{key}`" in text or f"`{section}.*`" in text, key
