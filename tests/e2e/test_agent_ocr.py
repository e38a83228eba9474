"""Two real models as one pipeline: a rendered page in, its text out."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pytest
from PIL import Image, ImageDraw, ImageFont

from edgekit.agent.chains import serve_chain
from edgekit.agent.engine import Engine
from edgekit.wire.bundle import open_bundle

ROOT = Path(__file__).resolve().parents[2]
FONT = Path(mpl.__file__).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
LINES = ("Invoice-2026", "TOTAL/149.50", "kilometre")


def page(degrees: float) -> bytes:
    image = Image.new("RGB", (480, 260), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.truetype(str(FONT), 28)
    for index, line in enumerate(LINES):
        draw.text((40, 30 + 70 * index), line, font=font, fill="black")
    turned = image.rotate(degrees, fillcolor="white", resample=Image.Resampling.BICUBIC)
    out = io.BytesIO()
    turned.save(out, "PNG")
    return out.getvalue()


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(1800)
def test_text_comes_out_of_a_page(tmp_path: Path) -> None:
    engine = Engine()
    edgekit = str(Path(sys.executable).with_name("edgekit"))
    for model in ("ppocr-v4-det", "ppocr-v4-rec"):
        line = [edgekit, "build", model, "--target", "rpi5", "-o", str(tmp_path), "--quiet"]
        subprocess.run(line, check=True, capture_output=True, cwd=tmp_path)
        (path,) = tmp_path.glob(f"{model}-*.ekb")
        with open_bundle(path, None) as bundle:
            engine.load(bundle.manifest, bundle.read)
    steps = [{"model": "ppocr-v4-det"}, {"model": "ppocr-v4-rec", "each": "crop"}]
    serve_chain(engine, "ocr", {"steps": steps})
    for degrees in (0, 4, -4):
        prediction = engine.predict("ocr", page(degrees))
        assert tuple(prediction["text"].split("\n")) == LINES
    assert engine.stats("ppocr-v4-rec").served == 3 * len(LINES)
    engine.close()
