"""Say what a picture shows: one answer from a list of classes.

Options:
    input: Name of the model's input.
    size: Side of the square input in pixels, or ``[width, height]``.
    layout: ``"nchw"`` (default) or ``"nhwc"``.
    order: Channel order of the model: ``"rgb"`` (default), ``"bgr"`` or ``"grey"``.
    mean, std: The input is ``(x - mean) / std`` with x in 0..255; a number, or one a channel.
        Default 0 and 1.
    fit: How the picture becomes that size. ``"crop"`` (default) resizes the shorter side and cuts
        the middle out; ``"stretch"`` resizes both sides; ``"letterbox"`` adds grey bars.
    crop_fraction: For ``"crop"``: share of the shorter side that is kept, default 0.875.
    resize: ``"bilinear"`` (default), ``"bicubic"``, ``"lanczos"``, ``"nearest"``, ``"box"``,
        ``"hamming"``.
    output: Name of the scores, ``[1, classes]``; by default the model's first output.
    softmax: True (default) if the output holds logits, false if probabilities.
    top_k: How many classes a prediction names, default 5.
    labels: The classes' names, as a list; or the file ``labels``: one a line (with or without its
        number in front) or a JSON list. Without either, ``label`` is null.

A sample is a picture file, or an .npy file with uint8[H, W] or uint8[H, W, C].
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgekit.runtime import pictures
from edgekit.runtime.options import Options
from edgekit.runtime.session import Run
from edgekit.runtime.tasks import Agreement, Prediction
from edgekit.wire.errors import BuildError, ConfigError

MAX_SIDE = 4096
MAX_CLASSES = 100_000


@dataclass(frozen=True)
class Preparation:
    """How pixels become the model's input.

    Attributes:
        width: Of the input, in pixels.
        height: Of the input, in pixels.
        layout: The model's axis order.
        order: The model's channel order.
        mean: Subtracted, in 0..255.
        std: Divided by, in 0..255.
        fit: How the picture becomes that size.
        crop_fraction: Share of the shorter side that ``fit = "crop"`` keeps.
        resize: Pillow's filter.
    """

    width: int
    height: int
    layout: Literal["nchw", "nhwc"]
    order: Literal["rgb", "bgr", "grey"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fit: Literal["crop", "stretch", "letterbox"]
    crop_fraction: float
    resize: str

    def apply(self, image: pictures.Pixels) -> pictures.Floats:
        """Turn uint8[H, W, C] into the model's input.

        Raises:
            ConfigError: A grey picture for a model of colours.
        """
        if image.shape[2] == 1 and self.order != "grey":
            image = np.repeat(image, 3, axis=2)
        return pictures.normalise(
            self._fitted(image), self.mean, self.std, order=self.order, layout=self.layout
        )

    def _fitted(self, image: pictures.Pixels) -> pictures.Pixels:
        if self.fit == "stretch":
            return pictures.resize(image, self.width, self.height, self.resize)
        if self.fit == "letterbox":
            return pictures.letterbox(image, self.width, self.height, method=self.resize)[0]
        height, width = image.shape[:2]
        # The kept middle has the input's proportions and is resized to exactly the input.
        scale = max(self.width / width, self.height / height) / self.crop_fraction
        resized = pictures.resize(
            image,
            min(4 * MAX_SIDE, max(self.width, round(width * scale))),
            min(4 * MAX_SIDE, max(self.height, round(height * scale))),
            self.resize,
        )
        return pictures.centre_crop(resized, self.width, self.height)


@dataclass(frozen=True)
class ClassifyImage:
    """The task; see the module's text for the options.

    Attributes:
        input: Name of the model's input.
        output: Name of the scores; empty takes the first output.
        preparation: How pixels become the input.
        softmax: The output holds logits.
        top_k: Classes that a prediction names.
        labels: Names of the classes; empty if there are none.
    """

    input: str
    output: str
    preparation: Preparation
    softmax: bool
    top_k: int
    labels: tuple[str, ...]

    def predict(self, run: Run, data: bytes) -> Prediction:
        """Classify one picture.

        Returns:
            ``{"top": [{"index", "label", "score"}, …]}``, best first; scores run 0..1 and are
            rounded to 6 decimals, which hides the last bit in which CPUs differ.

        Raises:
            ConfigError: Not a picture.
            BuildError: The model's output does not fit.
        """
        image = pictures.decode_npy(data) if pictures.is_npy(data) else pictures.decode(data)
        outputs = run({self.input: self.preparation.apply(image)})
        scores = self._scores(outputs)
        best = np.argsort(-scores, kind="stable")[: self.top_k]
        return {
            "top": [
                {
                    "index": int(i),
                    "label": self.labels[i] if self.labels else None,
                    "score": round(float(scores[i]), 6),
                }
                for i in best
            ]
        }

    def _scores(self, outputs: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
        name = self.output or next(iter(outputs), "")
        if name not in outputs:
            raise BuildError(
                f'the model has no output "{name}"', hint=f"outputs: {', '.join(outputs)}"
            )
        scores: npt.NDArray[np.float64] = np.asarray(outputs[name], dtype=np.float64).ravel()
        if self.labels and len(self.labels) != scores.size:
            raise BuildError(f"the model has {scores.size} classes, but {len(self.labels)} labels")
        if not scores.size or not np.isfinite(scores).all():
            raise BuildError(f'the output "{name}" is not finite')
        return softmax(scores) if self.softmax else scores

    def agreement(self, reference: Sequence[Prediction], other: Sequence[Prediction]) -> Agreement:
        """Compare the best class: 1.0 where it is the same."""
        scores = tuple(
            float(a["top"][0]["index"] == b["top"][0]["index"])
            for a, b in zip(reference, other, strict=True)
        )
        return Agreement(
            "top1_agreement", math.fsum(scores) / len(scores) if scores else 0.0, scores
        )


def softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Turn logits, float64[N], into probabilities that sum to 1."""
    powers = np.exp(logits - logits.max())
    result: npt.NDArray[np.float64] = powers / powers.sum()
    return result


def parse_labels(data: bytes) -> tuple[str, ...]:
    """Read class names: a JSON list, or one a line, with or without its number in front.

    Raises:
        ConfigError: Not UTF-8, malformed, empty or of absurd length.
    """
    try:
        text = data.decode("utf-8-sig")
        if text.lstrip().startswith("["):
            names = json.loads(text)
        else:
            names = [line.strip() for line in text.strip().splitlines()]
    except ValueError as error:
        raise ConfigError(f"the labels cannot be read: {error}") from error
    if not names or len(names) > MAX_CLASSES or not all(isinstance(n, str) for n in names):
        raise ConfigError(f"the labels must be 1 to {MAX_CLASSES} names")
    if all(name.split(" ", 1)[0].rstrip(":") == str(i) for i, name in enumerate(names)) and all(
        " " in name for name in names
    ):
        names = [name.split(" ", 1)[1] for name in names]
    return tuple(names)


def read_size(options: Options) -> tuple[int, int]:
    """Read ``size``: a side, or width and height, in pixels.

    Raises:
        ConfigError: Not one or two whole numbers between 1 and 4096.
    """
    size = options.numbers("size")
    if len(size) not in (1, 2) or any(s != int(s) or not 1 <= s <= MAX_SIDE for s in size):
        raise ConfigError(f'{options.owner}: "size" is {list(size)}, expected pixels')
    return int(size[0]), int(size[-1])


def read_labels(options: Options, files: Mapping[str, bytes]) -> tuple[str, ...]:
    """Read the option ``labels``, or the file of that name.

    Raises:
        ConfigError: Both are given, or an unknown file.
    """
    if unknown := sorted(set(files) - {"labels"}):
        raise ConfigError(f'{options.owner} takes no file "{unknown[0]}"', hint="files: labels")
    if "labels" in files:
        if options.has("labels"):
            raise ConfigError(f"{options.owner} has labels twice: as an option and as a file")
        return parse_labels(files["labels"])
    return options.strings("labels", ())


def read_channels(options: Options, order: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Read ``mean`` and ``std``: one number, or one a channel.

    Raises:
        ConfigError: Another count, or a std of 0.
    """
    mean, std = options.numbers("mean", (0.0,)), options.numbers("std", (1.0,))
    counts = (1,) if order == "grey" else (1, 3)
    if len(mean) not in counts or len(std) not in counts or 0.0 in std:
        raise ConfigError(
            f'{options.owner}: "mean" and "std" hold one number, or one a channel; std is never 0'
        )
    return mean, std


def create(options: Mapping[str, Any], files: Mapping[str, bytes]) -> ClassifyImage:
    """Make the task; see the module's text for the options.

    Raises:
        ConfigError: An option is unknown or wrong.
    """
    opts = Options(options, "classify-image")
    width, height = read_size(opts)
    order: Any = opts.choice("order", ("rgb", "bgr", "grey"), "rgb")
    layout: Any = opts.choice("layout", ("nchw", "nhwc"), "nchw")
    fit: Any = opts.choice("fit", ("crop", "stretch", "letterbox"), "crop")
    mean, std = read_channels(opts, order)
    task = ClassifyImage(
        input=opts.get("input", str),
        output=opts.get("output", str, ""),
        preparation=Preparation(
            width=width,
            height=height,
            layout=layout,
            order=order,
            mean=mean,
            std=std,
            fit=fit,
            crop_fraction=opts.within("crop_fraction", 0.1, 1.0, 0.875),
            resize=opts.choice("resize", tuple(pictures.FILTERS), "bilinear"),
        ),
        softmax=opts.get("softmax", bool, True),
        top_k=int(opts.within("top_k", 1, 1000, 5)),
        labels=read_labels(opts, files),
    )
    opts.close()
    return task
