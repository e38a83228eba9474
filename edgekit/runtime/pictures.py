"""Pictures: decode, resize, letterbox, normalise.

Everything here gives the same bits on x86 and Arm. Pillow resizes in integer arithmetic; what is
done in floating point is one float32 operation an element, which IEEE 754 rounds alike everywhere.
Boxes (see :mod:`edgekit.runtime.boxes`) are float32[N, 4]: x1, y1, x2, y2 in pixels.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgekit.runtime.boxes import f1 as f1  # noqa: PLC0414 - detect-text finds it here
from edgekit.wire.errors import ConfigError, MissingToolError

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

MAX_FILE_BYTES = 64 << 20
MAX_PIXELS = 50_000_000  # a 50-megapixel photograph: 150 MB as RGB
# What cameras and the web use. Pillow has forty parsers more, each one a thing to attack.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}


def import_pillow() -> tuple[ModuleType, ModuleType]:
    """Import Pillow.

    Returns:
        ``PIL.Image`` and ``PIL.ImageOps``.

    Raises:
        MissingToolError: Pillow is not installed.
    """
    try:
        # Pillow opens by name only the formats whose plugins are loaded.
        from PIL import (  # noqa: F401
            BmpImagePlugin,
            GifImagePlugin,
            Image,
            ImageOps,
            JpegImagePlugin,
            PngImagePlugin,
            PpmImagePlugin,
            TiffImagePlugin,
            WebPImagePlugin,
        )
    except ImportError as error:
        raise MissingToolError(
            "pictures need Pillow", hint='pip install "edgekit[image]"'
        ) from error
    return Image, ImageOps


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode a picture file.

    The EXIF orientation is applied. Transparent parts become white, 16-bit greys become 8-bit,
    of an animation the first frame is taken.

    Args:
        data: A JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file.
        max_pixels: Most pixels that are decoded; the header decides, before any memory is taken.

    Returns:
        uint8[H, W, 3], RGB.

    Raises:
        ConfigError: Not a picture, damaged or too large.
        MissingToolError: Pillow is not installed.
    """
    image_module, image_ops = import_pillow()
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"the picture's file is over {MAX_FILE_BYTES >> 20} MiB")
    formats = [name for name in FORMATS if name in image_module.OPEN]
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            image_module.open(io.BytesIO(data), formats=formats) as opened,
        ):
            _check_size(opened.width, opened.height, max_pixels)
            upright = image_ops.exif_transpose(opened)
            return np.asarray(_to_rgb(image_module, upright), dtype=np.uint8)
    except ConfigError:
        raise
    except Exception as error:  # each of Pillow's decoders raises what it likes
        # "cannot identify image file <_io.BytesIO object at 0x…>" tells a user nothing.
        unknown = isinstance(error, image_module.UnidentifiedImageError)
        reason = "an unknown format" if unknown else str(error) or type(error).__name__
        raise ConfigError(
            f"not a readable picture: {reason}",
            hint="JPEG, PNG, WebP, BMP, GIF, TIFF and PPM files are read",
        ) from error


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ConfigError(
            f"the picture is {width} by {height} pixels, "
            f"over the limit of {max_pixels / 1e6:g} million",
            hint="scale it down first",
        )


def _to_rgb(image_module: ModuleType, image: Any) -> Any:  # noqa: ANN401 - Pillow is imported lazily
    if image.mode.startswith("I"):
        # 16 bits a grey value; Pillow's own conversion clips at 255.
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535) // 257
        image = image_module.fromarray(grey.astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = image_module.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = image_module.alpha_composite(white, rgba)
    return image.convert("RGB")


def decode_npy(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Read a picture that stands in an .npy file.

    Args:
        data: The file: uint8[H, W] or uint8[H, W, C] with 1 or 3 channels.
        max_pixels: Largest H times W.

    Returns:
        uint8[H, W, C].

    Raises:
        ConfigError: Damaged, of another type or shape, or too large.
    """
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"the .npy file is over {MAX_FILE_BYTES >> 20} MiB")
    file = io.BytesIO(data)
    try:
        # The header alone first: np.load takes the memory that a header asks for.
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read_header(file)
        if dtype != np.uint8:
            raise ConfigError(f"the .npy file holds {dtype}, expected uint8")
        if math.prod(shape) > 4 * max_pixels:
            raise ConfigError(f"the .npy file has shape {list(shape)}: too large")
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, KeyError, EOFError, OSError, SyntaxError, TypeError) as error:
        raise ConfigError(f"not a readable .npy file: {error}") from error
    if array.ndim == 2:  # noqa: PLR2004
        array = array[:, :, np.newaxis]
    if array.ndim != 3 or array.shape[2] not in (1, 3) or array.size == 0:  # noqa: PLR2004
        raise ConfigError(
            f"the .npy file has shape {list(array.shape)}, expected [H, W] or [H, W, 3]"
        )
    _check_size(array.shape[1], array.shape[0], max_pixels)
    pixels: Pixels = array
    return pixels


def is_npy(data: bytes) -> bool:
    """Tell whether bytes are an .npy file."""
    return data[:6] == b"\x93NUMPY"


def encode_png(image: Pixels) -> bytes:
    """Write uint8[H, W], uint8[H, W, 1] or uint8[H, W, 3] as a PNG file."""
    image_module, _ = import_pillow()
    if image.ndim == 3 and image.shape[2] == 1:  # noqa: PLR2004
        image = image[:, :, 0]
    out = io.BytesIO()
    image_module.fromarray(np.ascontiguousarray(image)).save(out, format="PNG")
    return out.getvalue()


def resize(image: Pixels, width: int, height: int, method: str = "bilinear") -> Pixels:
    """Resize with Pillow's integer arithmetic; going down it averages, so nothing aliases.

    Args:
        image: uint8[H, W, 3] or uint8[H, W, 1].
        width: New width in pixels, ≥ 1.
        height: New height in pixels, ≥ 1.
        method: ``nearest``, ``bilinear``, ``bicubic``, ``lanczos``, ``box`` or ``hamming``.

    Returns:
        uint8[height, width, C].

    Raises:
        ConfigError: No such method.
    """
    if method not in FILTERS:
        raise ConfigError(f'no resize method "{method}"', hint=f"methods: {', '.join(FILTERS)}")
    if image.shape[:2] == (height, width):
        return image
    image_module, _ = import_pillow()
    grey = image.shape[2] == 1
    source = image_module.fromarray(np.ascontiguousarray(image[:, :, 0] if grey else image))
    resized = np.asarray(source.resize((width, height), FILTERS[method]), dtype=np.uint8)
    return resized[:, :, np.newaxis] if grey else resized


def centre_crop(image: Pixels, width: int, height: int) -> Pixels:
    """Cut the middle out of a picture that is at least as large as the cut.

    Args:
        image: uint8[H, W, C] with H ≥ height and W ≥ width.
        width: In pixels.
        height: In pixels.
    """
    top = (image.shape[0] - height) // 2
    left = (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


@dataclass(frozen=True)
class Fit:
    """Where a picture lies on the canvas that it was fitted into.

    Attributes:
        scale_x: Canvas pixels to one source pixel.
        scale_y: The same downwards; differs from ``scale_x`` by rounding alone.
        left: Canvas column of the source's left edge.
        top: Canvas row of the source's top edge.
        width: The source's width in pixels.
        height: The source's height in pixels.
    """

    scale_x: float
    scale_y: float
    left: int
    top: int
    width: int
    height: int

    def to_source(self, boxes: Floats) -> Floats:
        """Turn boxes on the canvas into boxes on the source, cut off at its edges.

        Args:
            boxes: float32[N, 4] in canvas pixels.

        Returns:
            float32[N, 4] in source pixels, within 0..width and 0..height.
        """
        scale = np.array([self.scale_x, self.scale_y] * 2, dtype=np.float32)
        shift = np.array([self.left, self.top] * 2, dtype=np.float32)
        limit = np.array([self.width, self.height] * 2, dtype=np.float32)
        moved: Floats = np.clip((boxes.astype(np.float32) - shift) / scale, np.float32(0), limit)
        return moved

    def to_canvas(self, boxes: Floats) -> Floats:
        """Turn boxes on the source into boxes on the canvas."""
        scale = np.array([self.scale_x, self.scale_y] * 2, dtype=np.float32)
        shift = np.array([self.left, self.top] * 2, dtype=np.float32)
        moved: Floats = boxes.astype(np.float32) * scale + shift
        return moved


def letterbox(
    image: Pixels,
    width: int,
    height: int,
    *,
    fill: int = 114,
    method: str = "bilinear",
    align: Literal["centre", "top-left"] = "centre",
) -> tuple[Pixels, Fit]:
    """Fit a picture into a canvas without changing its proportions.

    Args:
        image: uint8[H, W, C].
        width: The canvas's width in pixels.
        height: The canvas's height in pixels.
        fill: Grey value of the bars; 114 is what YOLO models were trained with.
        method: See :func:`resize`.
        align: Where the picture lies on the canvas.

    Returns:
        The canvas, uint8[height, width, C], and where the picture lies on it.
    """
    source_height, source_width = image.shape[:2]
    scale = min(width / source_width, height / source_height)
    new_width = min(width, max(1, round(source_width * scale)))
    new_height = min(height, max(1, round(source_height * scale)))
    left = (width - new_width) // 2 if align == "centre" else 0
    top = (height - new_height) // 2 if align == "centre" else 0
    canvas = np.full((height, width, image.shape[2]), fill, dtype=np.uint8)
    canvas[top : top + new_height, left : left + new_width] = resize(
        image, new_width, new_height, method
    )
    fit = Fit(
        scale_x=new_width / source_width,
        scale_y=new_height / source_height,
        left=left,
        top=top,
        width=source_width,
        height=source_height,
    )
    return canvas, fit


def normalise(
    image: Pixels,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    order: Literal["rgb", "bgr", "grey"] = "rgb",
    layout: Literal["nchw", "nhwc"] = "nchw",
) -> Floats:
    """Turn pixels into a model's input: ``(x - mean) / std`` with x in 0..255.

    Args:
        image: uint8[H, W, C].
        mean: One value, or one a channel in the model's order; in 0..255.
        std: The same.
        order: The model's channel order.
        layout: The model's axis order.

    Returns:
        float32[1, C, H, W] or float32[1, H, W, C], contiguous.
    """
    if order == "bgr":
        image = image[:, :, ::-1]
    elif order == "grey" and image.shape[2] == 3:  # noqa: PLR2004
        # ITU-R BT.601 luma in 16-bit fixed point, as Pillow's convert("L").
        weights = np.array([19595, 38470, 7471], dtype=np.uint32)
        image = (
            (image.astype(np.uint32) * weights).sum(axis=2, keepdims=True) + 0x8000 >> 16
        ).astype(np.uint8)
    floats = (image.astype(np.float32) - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    if layout == "nchw":
        floats = floats.transpose(2, 0, 1)
    return np.ascontiguousarray(floats[np.newaxis], dtype=np.float32)
