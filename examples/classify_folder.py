"""Classify the pictures of a folder with a bundle.

python examples/classify_folder.py dist/efficientnet-lite0-rpi5.ekb PICTURES
"""

from __future__ import annotations

import sys
from pathlib import Path

from edgekit.runtime.pipeline import load_pipeline
from edgekit.wire.bundle import open_bundle
from edgekit.wire.errors import EdgekitError

PICTURES = {".png", ".jpg", ".jpeg", ".webp"}


def main(bundle: Path, folder: Path) -> int:
    # None trusts any signer: a device passes the keys that it trusts.
    with open_bundle(bundle, None) as opened:
        pipeline = load_pipeline(opened.manifest, opened.read, threads=1)
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES):
        try:
            best = pipeline.predict(path.read_bytes())["top"][0]
        except EdgekitError as error:
            print(f"{path.name}: {error}", file=sys.stderr)
            continue
        print(f"{path.name}\t{best['label'] or best['index']}\t{best['score']:.3f}")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
