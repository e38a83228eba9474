"""Pre-processing gives the same bits on x86 and on emulated Arm."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPT = """
import json, sys
from hashlib import sha256
from pathlib import Path
from edgekit.runtime import pictures
from edgekit.runtime.tasks.classify_image import Preparation

digests = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    image = pictures.decode(path.read_bytes())
    made = {"decode": image}
    for method in pictures.FILTERS:
        preparation = Preparation(
            96, 80, "nchw", "rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375),
            "crop", 0.875, method,
        )
        made[method] = preparation.apply(image)
    canvas, _ = pictures.letterbox(image, 128, 128)
    made["letterbox"] = pictures.normalise(canvas, (0.0,), (255.0,), order="bgr")
    made["grey"] = pictures.normalise(image, (127.0,), (128.0,), order="grey")
    for name, array in made.items():
        digests[f"{path.name} {name}"] = sha256(array.tobytes()).hexdigest()
print(json.dumps(digests))
"""


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    random = np.random.default_rng(5)
    y, x = np.mgrid[0:173, 0:251]
    smooth = np.stack([x, y * 255 / 173, 128 + 100 * np.sin(x * y / 900)], axis=2)
    pixels = np.clip(smooth + random.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)
    picture = Image.fromarray(pixels)
    for quality, subsampling in ((95, 0), (75, 1), (40, 2)):
        picture.save(
            folder / f"q{quality}.jpg", quality=quality, subsampling=subsampling, progressive=True
        )
    picture.save(folder / "picture.png")
    picture.save(folder / "picture.webp", quality=80)
    return folder


@pytest.mark.qemu
def test_the_same_bits_on_x86_and_arm(emulator, photographs, tmp_path):
    script = tmp_path / "digests.py"
    script.write_text(SCRIPT)
    arguments = [str(script), str(photographs)]
    here = subprocess.run(
        [sys.executable, *arguments], check=True, capture_output=True, text=True, timeout=300
    )
    there = emulator.run_python(arguments, timeout_s=300)
    expected = json.loads(here.stdout)
    assert len(expected) == 5 * 9
    assert json.loads(there.stdout) == expected
