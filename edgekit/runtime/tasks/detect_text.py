"""Find lines of text in a picture (DBNet): quads around them.

Options:
    input: Name of the model's input, ``float32[1, 3, height, width]``; default ``"x"``.
    width, height: The model's canvas in pixels, multiples of 32; default 640 each.
    crop: True (default) leaves out what a picture does not need of the canvas and does not enlarge
        a small one: the model then takes sides that vary in steps of 32.
    order: Channel order of the model: ``"bgr"`` (default) or ``"rgb"``.
    mean, std: Three numbers each, default 127.5: the input is ``(x - mean) / std``, x in 0..255.
    threshold: A pixel belongs to text above this probability, default 0.3.
    box_threshold: Least mean probability of a part, default 0.5.
    unclip: How far a rectangle moves outwards, default 1.6: maps are trained on shrunken text.
    max_boxes: Most parts that are looked at, largest first; default 1000.

The picture lies at the canvas's top left, in its own proportions. The model answers with a map of
probabilities, and every connected part of it above the threshold becomes a quad: the rectangle of
least area around it, moved outwards. A sample is a picture file.

Against the original (Liao et al. 2020, Real-time scene text detection with differentiable
binarization) three things are simpler, so that a device needs neither OpenCV nor shapely: a part is
bounded by its pixels' outer edges and not traced by a contour; its score is the mean over its own
pixels and not over the rectangle; the rectangle moves outwards by ``area * unclip / perimeter`` on
each side, which is what offsetting it with round corners and bounding it again gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgekit.runtime import pictures, quads
from edgekit.runtime.options import Options
from edgekit.runtime.session import Run
from edgekit.runtime.tasks import Agreement, Prediction
from edgekit.wire.errors import BuildError, ConfigError

MAX_SIDE = 4096
STRIDE = 32  # the backbone halves five times
MIN_SIDE = 3.0  # of a part, in canvas pixels, as PaddleOCR has it
MIN_IOU = 0.5
GREY = 128  # of the canvas around the picture: about zero for the model, as its own padding


@dataclass(frozen=True)
class DetectText:
    """A finder of text lines.

    Attributes:
        input: Name of the model's input, float32[1, 3, height, width].
        width: Canvas width in pixels, a multiple of 32.
        height: Canvas height in pixels, a multiple of 32.
        crop: True leaves out what a picture does not need of the canvas, and does not enlarge one
            that is smaller: the model then takes sides that vary in steps of 32.
        mean: Subtracted from each channel in the model's order, in 0..255.
        std: Divided by, in 0..255.
        order: Channel order of the model.
        threshold: A pixel belongs to text above this probability.
        box_threshold: Least mean probability of a part.
        unclip: How far a rectangle moves outwards; the maps were trained on shrunken text.
        max_boxes: Most quads; the largest parts are taken.
    """

    input: str
    width: int
    height: int
    crop: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    order: Literal["rgb", "bgr"]
    threshold: float
    box_threshold: float
    unclip: float
    max_boxes: int

    def predict(self, run: Run, data: bytes) -> Prediction:
        """Find the lines.

        Args:
            run: The model.
            data: A picture file.

        Returns:
            ``boxes``: from the top down, each with ``quad`` (four corners [x, y] in pixels of the
            picture, clockwise from the top left) and ``score`` (0..1).

        Raises:
            ConfigError: Not a picture.
            BuildError: The model does not answer with one map of its input's size.
        """
        feed, fit = self.prepare(data)
        answer = next(iter(run({self.input: feed}).values()))
        if answer.shape != (1, 1, *feed.shape[2:]):
            raise BuildError(
                f"the model answers {list(answer.shape)} to {list(feed.shape)}, "
                "expected one map of the same size"
            )
        found = find_quads(
            answer[0, 0], self.threshold, self.box_threshold, self.unclip, self.max_boxes
        )
        scale = np.array([fit.scale_x, fit.scale_y])
        limit = np.array([fit.width, fit.height], dtype=np.float64)
        boxes = [
            {"quad": np.clip(quad / scale, 0.0, limit).round(1).tolist(), "score": score}
            for quad, score in found
        ]
        return {"boxes": sorted(boxes, key=lambda b: (b["quad"][0][1], b["quad"][0][0]))}

    def prepare(self, data: bytes) -> tuple[npt.NDArray[np.float32], pictures.Fit]:
        """Turn a picture file into float32[1, 3, H, W], and where the picture lies on it."""
        picture = pictures.decode(data)
        width, height = self.width, self.height
        if self.crop:
            width = min(width, _stride(picture.shape[1]))
            height = min(height, _stride(picture.shape[0]))
        canvas, fit = pictures.letterbox(picture, width, height, fill=GREY, align="top-left")
        if self.crop:
            used_width, used_height = fit.width * fit.scale_x, fit.height * fit.scale_y
            canvas = canvas[: _stride(round(used_height)), : _stride(round(used_width))]
        return pictures.normalise(canvas, self.mean, self.std, order=self.order), fit

    def agreement(self, reference: Sequence[Prediction], other: Sequence[Prediction]) -> Agreement:
        """Compare quads: F1 at IoU 0.5, one score a picture; the value is over all quads."""
        scores = []
        pairs = first = second = 0
        for one, two in zip(reference, other, strict=True):
            a, b = quads_of(one), quads_of(two)
            matched = quads.match(a, b, MIN_IOU)
            scores.append(pictures.f1(matched, len(a), len(b)))
            pairs, first, second = pairs + matched, first + len(a), second + len(b)
        return Agreement("text_box_f1_agreement", pictures.f1(pairs, first, second), tuple(scores))


def _stride(side: int) -> int:
    return -(-side // STRIDE) * STRIDE


def quads_of(prediction: Prediction) -> list[quads.Points]:
    """Return the quads of a prediction as arrays."""
    return [np.array(box["quad"], dtype=np.float64) for box in prediction["boxes"]]


def find_quads(
    probabilities: npt.NDArray[Any],
    threshold: float,
    box_threshold: float,
    unclip: float,
    max_boxes: int,
) -> list[tuple[quads.Points, float]]:
    """Turn a map of probabilities into quads with scores.

    Args:
        probabilities: float32[H, W], 0..1.
        threshold: A pixel belongs to text above this.
        box_threshold: Least mean probability of a connected part.
        unclip: Share of area over perimeter by which a rectangle moves outwards.
        max_boxes: Most parts that are looked at, largest first.

    Returns:
        Quads in pixels of the map, largest part first, each with its mean probability.
    """
    parts = quads.components(probabilities > threshold)
    parts.sort(key=lambda part: -part.pixels)
    # Sums along each row, so that a run's sum is one difference.
    sums = np.zeros((probabilities.shape[0], probabilities.shape[1] + 1))
    np.cumsum(probabilities, axis=1, dtype=np.float64, out=sums[:, 1:])
    found = []
    for part in parts[:max_boxes]:
        total = (sums[part.rows, part.ends] - sums[part.rows, part.starts]).sum()
        mean = float(total) / part.pixels
        if mean < box_threshold:
            continue
        quad, width, height = quads.least_rectangle(part.corners())
        if min(width, height) < MIN_SIDE:
            continue
        margin = width * height * unclip / (2 * (width + height))
        found.append((quads.grow(quad, margin), round(min(mean, 1.0), 6)))
    return found


def create(options: Mapping[str, Any], files: Mapping[str, bytes]) -> DetectText:
    """Make the task; see the module's text for the options.

    Raises:
        ConfigError: An option is unknown or wrong.
    """
    opts = Options(options, "detect-text")
    if files:
        raise ConfigError("detect-text takes no files")
    mean, std = opts.numbers("mean", (127.5,) * 3), opts.numbers("std", (127.5,) * 3)
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:  # noqa: PLR2004
        raise ConfigError('detect-text: "mean" and "std" take three numbers, std above 0')
    task = DetectText(
        input=opts.get("input", str, "x"),
        width=_side(opts, "width"),
        height=_side(opts, "height"),
        crop=opts.get("crop", bool, True),
        mean=mean,
        std=std,
        order="rgb" if opts.choice("order", ("rgb", "bgr"), "bgr") == "rgb" else "bgr",
        threshold=opts.within("threshold", 0.01, 0.99, 0.3),
        box_threshold=opts.within("box_threshold", 0.01, 0.99, 0.5),
        unclip=opts.within("unclip", 0, 10, 1.6),
        max_boxes=int(opts.within("max_boxes", 1, 10_000, 1000)),
    )
    opts.close()
    return task


def _side(opts: Options, key: str) -> int:
    side = opts.within(key, STRIDE, MAX_SIDE, 640)
    if side % STRIDE:
        raise ConfigError(f'detect-text: "{key}" is {side:g}, expected a multiple of {STRIDE}')
    return int(side)
