"""Find objects in a picture: a box and a class each. For models with a YOLOv8 or YOLO11 head.

Options:
    input: Name of the model's input, ``float32[1, 3, height, width]``.
    size: Side of the square input in pixels, or ``[width, height]``.
    order: Channel order of the model: ``"rgb"`` (default) or ``"bgr"``.
    mean, std: The input is ``(x - mean) / std`` with x in 0..255. Default 0 and 255.
    fill: Grey value of the bars beside the picture, default 114.
    resize: ``"bilinear"`` (default), ``"bicubic"``, ``"lanczos"``, ``"nearest"``, ``"box"``,
        ``"hamming"``.
    output: Name of the head's output; by default the model's first output.
    threshold: Least score of a box, default 0.25.
    nms_iou: A box that overlaps a better one of its class by more is dropped. Default 0.45.
    max_boxes: Most boxes of a picture, best first. Default 300.
    labels: The classes' names, as a list; or the file ``labels``, as for classify-image. Without
        either, ``label`` is the class's number.

The head's output is ``float32[1, 4 + classes, N]``: for each of N places centre x, centre y, width
and height in pixels of the input, then one score 0..1 a class.
A sample is a picture file, or an .npy file with uint8[H, W] or uint8[H, W, C].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from edgekit.runtime import boxes as box_math
from edgekit.runtime import pictures
from edgekit.runtime.options import Options
from edgekit.runtime.session import Run
from edgekit.runtime.tasks import Agreement, Prediction
from edgekit.runtime.tasks.classify_image import read_channels, read_labels, read_size
from edgekit.wire.errors import BuildError

MIN_IOU = 0.5
# Suppression costs the square of this; a picture that holds more is noise.
MAX_CANDIDATES = 3000


@dataclass(frozen=True)
class DetectObjects:
    """The task; see the module's text for the options.

    Attributes:
        input: Name of the model's input.
        output: Name of the head's output; empty takes the first.
        width: Of the input, in pixels.
        height: Of the input, in pixels.
        order: The model's channel order.
        mean: Subtracted, in 0..255.
        std: Divided by, in 0..255.
        fill: Grey value of the bars.
        resize: Pillow's filter.
        threshold: Least score, 0..1.
        nms_iou: Largest overlap of two boxes of one class, 0..1.
        max_boxes: Most boxes.
        labels: Names of the classes; empty if there are none.
    """

    input: str
    output: str
    width: int
    height: int
    order: Literal["rgb", "bgr"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fill: int
    resize: str
    threshold: float
    nms_iou: float
    max_boxes: int
    labels: tuple[str, ...]

    def predict(self, run: Run, data: bytes) -> Prediction:
        """Find the objects of one picture.

        Returns:
            ``{"boxes": [{"box": [x1, y1, x2, y2], "label", "score"}, …]}``, best first; boxes in
            pixels of the picture (after its EXIF orientation), rounded to 0.01.

        Raises:
            ConfigError: Not a picture.
            BuildError: The model's output is not such a head's.
        """
        image = pictures.decode_npy(data) if pictures.is_npy(data) else pictures.decode(data)
        if image.shape[2] == 1:
            image = np.repeat(image, 3, axis=2)
        canvas, fit = pictures.letterbox(
            image, self.width, self.height, fill=self.fill, method=self.resize
        )
        feed = pictures.normalise(canvas, self.mean, self.std, order=self.order)
        outputs = run({self.input: feed})
        name = self.output or next(iter(outputs), "")
        if name not in outputs:
            raise BuildError(
                f'the model has no output "{name}"', hint=f"outputs: {', '.join(outputs)}"
            )
        boxes, scores, classes = decode_head(outputs[name], self.threshold)
        if self.labels and outputs[name].shape[1] != 4 + len(self.labels):
            raise BuildError(
                f"the head has {outputs[name].shape[1] - 4} classes, but {len(self.labels)} labels"
            )
        kept = suppress(boxes, scores, classes, self.nms_iou)[: self.max_boxes]
        found = fit.to_source(boxes[kept])
        return {
            "boxes": [
                {
                    "box": [round(float(v), 2) for v in box],
                    "label": self.labels[c] if self.labels else str(c),
                    "score": round(float(score), 6),
                }
                for box, score, c in zip(found, scores[kept], classes[kept].tolist(), strict=True)
                if box[2] > box[0] and box[3] > box[1]
            ]
        }

    def agreement(self, reference: Sequence[Prediction], other: Sequence[Prediction]) -> Agreement:
        """Compare boxes: F1 at IoU 0.5 and same class. The value counts all boxes together."""
        counts = [
            box_math.Counts(matches(one, two), len(one["boxes"]), len(two["boxes"]))
            for one, two in zip(reference, other, strict=True)
        ]
        value, interval = box_math.pooled_f1(counts)
        return Agreement("box_f1_agreement", value, tuple(c.f1 for c in counts), interval)


def decode_head(
    output: pictures.Floats, threshold: float
) -> tuple[pictures.Floats, pictures.Floats, box_math.Indices]:
    """Read a YOLOv8 head; each place gives at most one box, of its best class.

    Args:
        output: float32[1, 4 + classes, N].
        threshold: Least score.

    Returns:
        Boxes float32[M, 4] (x1, y1, x2, y2), scores float32[M] and classes intp[M], best first,
        at most :data:`MAX_CANDIDATES`.

    Raises:
        BuildError: Another shape, or not finite.
    """
    if output.ndim != 3 or output.shape[0] != 1 or output.shape[1] < 5:  # noqa: PLR2004
        raise BuildError(
            f"the head's output has shape {list(output.shape)}, expected [1, 4 + classes, N]",
            hint="detect-objects reads heads of YOLOv8 and YOLO11 without NMS",
        )
    head = np.asarray(output[0], dtype=np.float32)
    if not np.isfinite(head).all():
        raise BuildError("the head's output is not finite")
    classes = head[4:].argmax(axis=0)
    scores = np.take_along_axis(head[4:], classes[np.newaxis], axis=0)[0]
    chosen = np.flatnonzero(scores >= np.float32(threshold))
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")][:MAX_CANDIDATES]
    centre, size = head[:2, chosen].T, head[2:4, chosen].T
    half = size / np.float32(2)
    boxes: pictures.Floats = np.concatenate([centre - half, centre + half], axis=1)
    return boxes, scores[chosen], classes[chosen]


def suppress(
    boxes: pictures.Floats, scores: pictures.Floats, classes: box_math.Indices, max_iou: float
) -> box_math.Indices:
    """Non-maximum suppression within each class.

    Args:
        boxes: float32[N, 4].
        scores: float32[N].
        classes: intp[N].
        max_iou: Largest overlap of two boxes of one class.

    Returns:
        Indices of the boxes that stay, best first; equal scores keep their order.
    """
    kept = [
        members[box_math.nms(boxes[members], scores[members], max_iou)]
        for members in (np.flatnonzero(classes == c) for c in np.unique(classes))
    ]
    together: box_math.Indices = np.sort(np.concatenate(kept)) if kept else np.zeros(0, np.intp)
    return together[np.argsort(-scores[together], kind="stable")]


def matches(first: Prediction, second: Prediction) -> int:
    """Count pairs of boxes that overlap by half or more and have the same class."""
    count = 0
    for label in {box["label"] for box in first["boxes"]}:
        a, b = (
            np.array([x["box"] for x in p["boxes"] if x["label"] == label], np.float32)
            for p in (first, second)
        )
        count += len(box_math.match(a, b, MIN_IOU))
    return count


def create(options: Mapping[str, Any], files: Mapping[str, bytes]) -> DetectObjects:
    """Make the task; see the module's text for the options.

    Raises:
        ConfigError: An option is unknown or wrong.
    """
    opts = Options({"mean": 0.0, "std": 255.0, **options}, "detect-objects")
    width, height = read_size(opts)
    order: Any = opts.choice("order", ("rgb", "bgr"), "rgb")
    mean, std = read_channels(opts, order)
    task = DetectObjects(
        input=opts.get("input", str),
        output=opts.get("output", str, ""),
        width=width,
        height=height,
        order=order,
        mean=mean,
        std=std,
        fill=int(opts.within("fill", 0, 255, 114)),
        resize=opts.choice("resize", tuple(pictures.FILTERS), "bilinear"),
        threshold=opts.within("threshold", 0.001, 1.0, 0.25),
        nms_iou=opts.within("nms_iou", 0.0, 1.0, 0.45),
        max_boxes=int(opts.within("max_boxes", 1, MAX_CANDIDATES, 300)),
        labels=read_labels(opts, files),
    )
    opts.close()
    return task
