"""The examples run as their own words say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

pytestmark = pytest.mark.network


def run(*line: object, cwd: Path, path: str = "") -> str:
    done = subprocess.run(
        [str(part) for part in line],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "PATH": f"{path}:{os.environ['PATH']}"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(model: str, folder: Path) -> Path:
    edgekit = (sys.executable, "-m", "edgekit")
    out = run(*edgekit, "build", model, "--target", "rpi5", "--quiet", cwd=folder)
    return folder / out.strip()


def picture(text: str, size: tuple[int, int], font_size: int, path: Path) -> Path:
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    draw.text((20, 20), text, "black", ImageFont.load_default(font_size), spacing=30)
    image.save(path)
    return path


def test_classify_folder(tmp_path):
    from PIL import Image

    bundle = build("digits-cnn", tmp_path)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, shade in enumerate((0, 255)):
        Image.new("L", (8, 8), shade).save(folder / f"{index}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG")
    (folder / "notes.txt").write_text("no picture")
    script = EXAMPLES / "classify_folder.py"
    rows = run(sys.executable, script, bundle, folder, cwd=tmp_path).splitlines()
    assert [row.split("\t")[0] for row in rows] == ["0.png", "1.png"]
    assert all(row.split("\t")[1] in "0123456789" for row in rows)
    assert all(0 <= float(row.split("\t")[2]) <= 1 for row in rows)


def test_custom_target(tmp_path):
    """Every command of its README works, in a copy."""
    readme = (EXAMPLES / "custom-target" / "README.md").read_text(encoding="utf-8")
    commands = re.search(r"```\n(.*?)```", readme, flags=re.DOTALL)
    assert commands is not None
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    launcher = bin_folder / "edgekit"
    launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m edgekit "$@"\n')
    launcher.chmod(0o755)
    out = run("sh", "-ec", commands[1], cwd=tmp_path, path=str(bin_folder))
    assert re.search(r"cpu\.cores +3 +targets/greenhouse-cam\.toml:\d+", out)
    bundle = tmp_path / "examples" / "custom-target" / "dist" / "digits-cnn-greenhouse-cam.ekb"
    assert bundle.is_file()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_read_page(tmp_path):
    bundles = [build(model, tmp_path) for model in ("ppocr-v4-det", "ppocr-v4-rec")]
    page = picture("HELLO EDGE\nNUMBER 4217", (640, 240), 48, tmp_path / "page.png")
    lines = run(sys.executable, EXAMPLES / "read_page.py", *bundles, page, cwd=tmp_path)
    words = re.sub(r"[^A-Z0-9]", "", lines.upper())
    assert "HELLO" in words
    assert "4217" in words
