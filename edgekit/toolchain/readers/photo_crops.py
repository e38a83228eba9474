"""Windows cut out of photographs: many samples from few files.

Options:
    include, exclude, take: Which files, as for the reader ``files``.
    shares: Sides of the windows as shares of the photograph's sides, each above 0 and at most 1;
        default ``[0.7]``. A share below 1 gives five windows: the middle and the four corners.
    max_side: A window is scaled down until its longer side has this many pixels; default 512.
    quality: JPEG quality of the samples, 1 to 95; default 90.

Samples are JPEG files without a label: what a photograph is labelled need not be in its corner.
Windows of one photograph overlap, so they are not independent: an interval over n windows is
narrower than one over n photographs would be. Needs Pillow.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgekit.runtime.options import Options
from edgekit.toolchain.readers import Sample
from edgekit.toolchain.readers.files import chosen_paths
from edgekit.wire.errors import ConfigError

# Left and top of a window, as shares of the room that it leaves.
PLACES = ((0.5, 0.5), (0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0))
MIN_SIDE = 16


def read(
    root: Path | None, options: Mapping[str, Any], extra: Mapping[str, Path]
) -> Iterator[Sample]:
    """Cut windows; see the module's text for the options.

    Raises:
        ConfigError: An option is wrong, nothing matches, or a file is not a picture.
        MissingToolError: Pillow is not installed.
    """
    from edgekit.runtime import pictures

    opts = Options(options, "reader photo-crops")
    if extra:
        raise ConfigError("reader photo-crops takes no extra files")
    paths = chosen_paths(root, opts)
    shares = opts.numbers("shares", (0.7,))
    if not all(0 < share <= 1 for share in shares):
        raise ConfigError(f'reader photo-crops: "shares" is {list(shares)}, expected 0 to 1')
    max_side = int(opts.within("max_side", MIN_SIDE, 4096, 512))
    quality = int(opts.within("quality", 1, 95, 90))
    opts.close()
    for name, path in paths:
        try:
            image = pictures.decode(path.read_bytes())
        except OSError as error:
            raise ConfigError(f"cannot be read: {error}", where=str(path)) from error
        except ConfigError as error:
            raise ConfigError(error.message, hint=error.hint, where=str(path)) from error
        for share in shares:
            for number, (left, top, right, bottom) in enumerate(
                windows(image.shape[1], image.shape[0], share)
            ):
                window = shrink(image[top:bottom, left:right], max_side)
                yield Sample(f"{name}@{share:g}.{number}", encode(window, quality), ".jpg")


def windows(width: int, height: int, share: float) -> list[tuple[int, int, int, int]]:
    """Place windows on a photograph.

    Args:
        width: Of the photograph, in pixels.
        height: Of the photograph, in pixels.
        share: Of its sides, above 0 and at most 1.

    Returns:
        Left, top, right and bottom of one window (``share`` 1) or of five, within the photograph.
    """
    if share == 1:
        return [(0, 0, width, height)]
    wide = min(width, max(MIN_SIDE, round(width * share)))
    high = min(height, max(MIN_SIDE, round(height * share)))
    corners = [(int((width - wide) * x), int((height - high) * y)) for x, y in PLACES]
    return [(left, top, left + wide, top + high) for left, top in corners]


def shrink(image: Any, max_side: int) -> Any:  # noqa: ANN401 - an array; pictures is imported lazily
    """Scale uint8[H, W, C] down to a longest side; a smaller picture stays as it is."""
    from edgekit.runtime import pictures

    height, width = image.shape[:2]
    longest = max(height, width)
    if longest <= max_side:
        return image
    new_width = max(1, round(width * max_side / longest))
    return pictures.resize(image, new_width, max(1, round(height * max_side / longest)))


def encode(image: Any, quality: int) -> bytes:  # noqa: ANN401 - an array; pictures is imported lazily
    """Write uint8[H, W, 3] as a JPEG file without chroma subsampling."""
    from edgekit.runtime import pictures

    out = io.BytesIO()
    image_module, _ = pictures.import_pillow()
    image_module.fromarray(image.copy()).save(out, format="JPEG", quality=quality, subsampling=0)
    return out.getvalue()
