"""Draw a prediction's boxes onto the picture that it was made from."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from edgekit.runtime import pictures
from edgekit.wire.errors import ConfigError

# Okabe and Ito (2008), Color Universal Design: told apart by colour-blind people too.
# Ordered so that the first few stand out on photographs; their black is left out.
COLOURS = (
    (230, 159, 0),  # orange
    (86, 180, 233),  # sky blue
    (0, 158, 115),  # bluish green
    (240, 228, 66),  # yellow
    (213, 94, 0),  # vermilion
    (204, 121, 167),  # reddish purple
    (0, 114, 178),  # blue
)
MAX_LABEL_CHARS = 60
Colour = tuple[int, int, int]


def draw_boxes(image_bytes: bytes, prediction: Mapping[str, Any]) -> bytes:
    """Draw the boxes of detect-objects or the quads of detect-text, each class in a colour.

    Args:
        image_bytes: The picture file that the prediction was made from.
        prediction: ``{"boxes": [{"box": [x1, y1, x2, y2], "label", "score"}, …]}``, in pixels; or
            ``"quad"`` (four corners) in the place of ``"box"``.

    Returns:
        A PNG file as large as the picture.

    Raises:
        ConfigError: Not a picture, or a prediction without boxes.
        MissingToolError: Pillow is not installed.
    """
    image_module, _ = pictures.import_pillow()
    from PIL import ImageDraw, ImageFont

    boxes = prediction.get("boxes")
    if not isinstance(boxes, list):
        raise ConfigError("the prediction has no boxes to draw")
    pixels = (
        pictures.decode_npy(image_bytes)
        if pictures.is_npy(image_bytes)
        else pictures.decode(image_bytes)
    )
    if pixels.shape[2] == 1:
        pixels = pixels.repeat(3, axis=2)
    canvas = image_module.fromarray(pixels)
    draw = ImageDraw.Draw(canvas)
    shorter = min(canvas.size)
    width = max(2, round(shorter / 250))
    font = ImageFont.load_default(size=max(11, round(shorter / 32)))
    colours = colours_of([str(box.get("label", "")) for box in boxes])
    # The best box is drawn last, on top of the others.
    for box in reversed(boxes):
        corners = corners_of(box)
        colour = colours[str(box.get("label", ""))]
        draw.line([*corners, corners[0], corners[1]], fill=colour, width=width, joint="curve")
        _write(draw, font, _text(box), corners, colour, canvas.size)
    out = io.BytesIO()
    canvas.save(out, format="PNG")
    return out.getvalue()


def colours_of(labels: list[str]) -> dict[str, Colour]:
    """Give each class a colour, in the order in which the classes first appear."""
    return {
        label: COLOURS[number % len(COLOURS)] for number, label in enumerate(dict.fromkeys(labels))
    }


def corners_of(box: Mapping[str, Any]) -> list[tuple[float, float]]:
    """Return the four corners of a box or a quad.

    Raises:
        ConfigError: It is neither.
    """
    try:
        if "quad" in box:
            corners = [(float(x), float(y)) for x, y in box["quad"]]
        else:
            x1, y1, x2, y2 = (float(v) for v in box["box"])
            corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"not a box: {error}") from error
    if len(corners) != 4:  # noqa: PLR2004
        raise ConfigError(f"a quad has 4 corners, not {len(corners)}")
    return corners


def ink_for(colour: Colour) -> Colour:
    """Return black or white, whichever is easier to read on a colour.

    Source: relative luminance as in WCAG 2.1; both contrasts are equal at 0.179.
    """
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4  # noqa: PLR2004
        for c in (value / 255 for value in colour)
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)  # noqa: PLR2004


def _text(box: Mapping[str, Any]) -> str:
    score = box.get("score")
    label = str(box.get("label") or "")[:MAX_LABEL_CHARS]
    number = f"{score:.2f}" if isinstance(score, int | float) else ""
    return f"{label} {number}".strip()


def _write(
    draw: Any,  # noqa: ANN401 - Pillow is imported lazily
    font: Any,  # noqa: ANN401
    text: str,
    corners: list[tuple[float, float]],
    colour: Colour,
    size: tuple[int, int],
) -> None:
    if not text:
        return
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    pad = 2
    wide, high = right - left + 2 * pad, bottom - top + 2 * pad
    # Above the box; inside of it where there is no room above. Never outside of the picture.
    x = min(max(0.0, min(x for x, _ in corners)), max(0.0, size[0] - wide))
    y = min(y for _, y in corners) - high
    if y < 0:
        y = max(0.0, y + high)
    y = min(y, max(0.0, size[1] - high))
    draw.rectangle([x, y, x + wide, y + high], fill=colour)
    draw.text((x + pad - left, y + pad - top), text, fill=ink_for(colour), font=font)
