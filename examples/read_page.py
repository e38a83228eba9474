"""Read the text of a page with two bundles: one finds the lines, the other reads them.

python examples/read_page.py dist/ppocr-v4-det-rpi5.ekb dist/ppocr-v4-rec-rpi5.ekb page.png
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image

from edgekit.runtime.pipeline import Pipeline, load_pipeline
from edgekit.wire.bundle import open_bundle


def load(bundle: Path) -> Pipeline:
    # None trusts any signer: a device passes the keys that it trusts.
    with open_bundle(bundle, None) as opened:
        return load_pipeline(opened.manifest, opened.read, threads=1)


def crop(page: Image.Image, quad: list[list[float]]) -> bytes:
    xs, ys = [x for x, _ in quad], [y for _, y in quad]
    line = page.crop((int(min(xs)), int(min(ys)), int(max(xs)) + 1, int(max(ys)) + 1))
    buffer = io.BytesIO()
    line.save(buffer, format="PNG")
    return buffer.getvalue()


def main(finder: Path, reader: Path, picture: Path) -> int:
    find, read = load(finder), load(reader)
    data = picture.read_bytes()
    page = Image.open(io.BytesIO(data)).convert("RGB")
    boxes = find.predict(data)["boxes"]
    for box in sorted(boxes, key=lambda b: (min(y for _, y in b["quad"]), b["quad"][0][0])):
        found = read.predict(crop(page, box["quad"]))
        print(f"{found['score']:.2f}  {found['text']}")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])))
