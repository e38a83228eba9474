"""Cut what one model has found out of a picture, for another model to look at."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.runtime import pictures
from edgekit.runtime.quads import Points
from edgekit.wire.errors import ConfigError

# A hostile picture may hold a thousand rectangles of its own size.
MAX_CROP_PIXELS = 1 << 20
# A line that is so much higher than wide is read from the side, as PaddleOCR does.
_UPRIGHT = 1.5


def corners(found: dict[str, Any]) -> Points | None:
    """Return the corners of what a detector has found.

    Args:
        found: With ``quad``: four corners [x, y], clockwise from the top left; or ``box``:
            [x1, y1, x2, y2]; in pixels.

    Returns:
        float64[4, 2]; None where it has neither.
    """
    if "quad" in found:
        quad: Points = np.asarray(found["quad"], dtype=np.float64).reshape(4, 2)
        return quad
    if "box" in found:
        x1, y1, x2, y2 = (float(v) for v in found["box"])
        return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
    return None


def cut(picture: pictures.Pixels, quad: Points, *, turn: bool = True) -> pictures.Pixels:
    """Cut a quad out of a picture and set it upright.

    Every pixel of the result is interpolated from the four around its place in the quad
    (bilinear); the quad's sides are taken as straight, so a parallelogram comes out exactly.

    Args:
        picture: uint8[H, W, 3].
        quad: float64[4, 2], in pixels, clockwise from the top left.
        turn: Lay a quad that is much higher than wide on its side.

    Returns:
        uint8[h, w, 3]; h and w are the quad's sides, scaled down to a million pixels at most.
    """
    top, bottom = quad[1] - quad[0], quad[2] - quad[3]
    left, right = quad[3] - quad[0], quad[2] - quad[1]
    width, height = _size(
        max(math.hypot(*top), math.hypot(*bottom)), max(math.hypot(*left), math.hypot(*right))
    )
    u = ((np.arange(width) + 0.5) / width)[np.newaxis, :, np.newaxis]
    v = ((np.arange(height) + 0.5) / height)[:, np.newaxis, np.newaxis]
    above = quad[0] + u * top
    below = quad[3] + u * bottom
    # Pixel (x, y) covers the square from there on: its middle lies half a pixel further.
    places = above + v * (below - above) - 0.5
    crop = _sample(picture, places)
    if turn and height > _UPRIGHT * width:
        crop = np.ascontiguousarray(np.rot90(crop))
    return crop


def crop_of(picture: pictures.Pixels, found: dict[str, Any]) -> bytes:
    """Cut what a detector has found out of a picture, as a file.

    Args:
        picture: uint8[H, W, 3].
        found: See :func:`corners`.

    Raises:
        ConfigError: It has no place in the picture.
    """
    quad = corners(found)
    if quad is None or not np.isfinite(quad).all():
        raise ConfigError("what was found has neither a quad nor a box")
    return encode_ppm(cut(picture, quad, turn="quad" in found))


def encode_ppm(picture: pictures.Pixels) -> bytes:
    """Write uint8[H, W, 3] as a PPM file: no compression, so it costs next to nothing."""
    height, width = picture.shape[:2]
    return b"P6 %d %d 255\n" % (width, height) + np.ascontiguousarray(picture).tobytes()


def _size(width: float, height: float) -> tuple[int, int]:
    width, height = max(1.0, width), max(1.0, height)
    scale = min(1.0, math.sqrt(MAX_CROP_PIXELS / (width * height)))
    return (
        min(MAX_CROP_PIXELS, max(1, round(width * scale))),
        min(MAX_CROP_PIXELS, max(1, round(height * scale))),
    )


def _sample(picture: pictures.Pixels, places: npt.NDArray[np.float64]) -> pictures.Pixels:
    limit_x, limit_y = picture.shape[1] - 1, picture.shape[0] - 1
    x = np.clip(places[..., 0], 0.0, limit_x)
    y = np.clip(places[..., 1], 0.0, limit_y)
    x0, y0 = x.astype(np.intp), y.astype(np.intp)
    x1, y1 = np.minimum(x0 + 1, limit_x), np.minimum(y0 + 1, limit_y)
    share_x = (x - x0).astype(np.float32)[..., np.newaxis]
    share_y = (y - y0).astype(np.float32)[..., np.newaxis]
    upper = picture[y0, x0] * (1 - share_x) + picture[y0, x1] * share_x
    lower = picture[y1, x0] * (1 - share_x) + picture[y1, x1] * share_x
    sampled: pictures.Pixels = np.rint(upper * (1 - share_y) + lower * share_y).astype(np.uint8)
    return sampled
