"""Read one line of text: a picture of the line in, its characters out (CTC, greedy).

Options:
    input: Name of the model's input, ``float32[1, 3, height, width]``; default ``"x"``.
    height: Height of the input in pixels, default 48.
    widths: Widths of the input; a line takes the first that holds it, so that a runtime meets few
        shapes, and one longer than the last is squeezed. Default 160, 320, 640, 960 and 1280.
    order: Channel order of the model: ``"bgr"`` (default) or ``"rgb"``.
    mean, std: The input is ``(x - mean) / std`` with x in 0..255; default 127.5 each.
    space: True (default) if the model has a class for the space behind those of the file.

Files:
    characters: UTF-8, one character a line, in the order of the model's classes behind the blank.

The picture is scaled to the height, in its own proportions, and filled up with zeros. A sample is
a picture file of one line.
"""

from __future__ import annotations

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

MAX_CHARACTERS_BYTES = 1 << 20
MAX_SIDE = 8192
BLANK = 0  # CTC's "no character", as PaddleOCR numbers it


@dataclass(frozen=True)
class ReadText:
    """A line reader.

    Attributes:
        input: Name of the model's input, float32[1, 3, height, width].
        alphabet: Character of every class; the blank is the empty string.
        height: Height of the model's input in pixels.
        widths: Widths of the input, ascending; the first that holds the line is taken.
        mean: Subtracted, in 0..255.
        std: Divided by, in 0..255.
        order: Channel order of the model.
    """

    input: str
    alphabet: tuple[str, ...]
    height: int
    widths: tuple[int, ...]
    mean: float
    std: float
    order: Literal["rgb", "bgr"]

    def predict(self, run: Run, data: bytes) -> Prediction:
        """Read a line.

        Args:
            run: The model.
            data: A picture file of one line of text.

        Returns:
            ``text``, and ``score``: the mean probability of its characters, 0 where there is none.

        Raises:
            ConfigError: Not a picture.
            BuildError: The model's classes are not those of the character set.
        """
        probabilities = next(iter(run({self.input: self.prepare(data)}).values()))
        if probabilities.ndim != 3 or probabilities.shape[2] != len(self.alphabet):  # noqa: PLR2004
            raise BuildError(
                f"the model answers {list(probabilities.shape)}, "
                f"but its character set has {len(self.alphabet)} classes",
                hint="take the character file that the model was trained with",
            )
        text, score = decode(probabilities[0], self.alphabet)
        return {"text": text, "score": score}

    def prepare(self, data: bytes) -> npt.NDArray[np.float32]:
        """Turn a picture file into float32[1, 3, height, width], zero behind the line's end."""
        picture = pictures.decode(data)
        natural = max(1, -(-self.height * picture.shape[1] // picture.shape[0]))
        canvas = next((w for w in self.widths if w >= natural), self.widths[-1])
        line = pictures.resize(picture, min(natural, canvas), self.height)
        feed = np.zeros((1, 3, self.height, canvas), dtype=np.float32)
        mean, std = [self.mean] * 3, [self.std] * 3
        feed[..., : line.shape[1]] = pictures.normalise(line, mean, std, order=self.order)
        return feed

    def agreement(self, reference: Sequence[Prediction], other: Sequence[Prediction]) -> Agreement:
        """Compare texts: 1 where every character is the same, else 0."""
        scores = tuple(float(a["text"] == b["text"]) for a, b in zip(reference, other, strict=True))
        return Agreement(
            "text_agreement", math.fsum(scores) / len(scores) if scores else 1.0, scores
        )


def decode(probabilities: npt.NDArray[Any], alphabet: Sequence[str]) -> tuple[str, float]:
    """Greedy CTC: the best class of each step, repeats merged, blanks dropped.

    Source: Graves et al. (2006), Connectionist temporal classification, section 3.2 (best path).

    Args:
        probabilities: float32[T, C], 0..1.
        alphabet: Character of every class; class 0 is the blank.

    Returns:
        The text, and the mean probability of the steps that gave its characters (0 without any).
    """
    best = probabilities.argmax(axis=1)
    first = np.ones(len(best), dtype=np.bool_)
    first[1:] = best[1:] != best[:-1]
    steps = np.flatnonzero(first & (best != BLANK))
    if not len(steps):
        return "", 0.0
    chosen = probabilities[steps, best[steps]].astype(np.float64)
    score = min(1.0, max(0.0, math.fsum(chosen.tolist()) / len(steps)))
    return "".join(alphabet[i] for i in best[steps]), round(score, 6)


def read_alphabet(data: bytes, *, space: bool) -> tuple[str, ...]:
    """Read a character file: UTF-8, one character a line, in the order of the model's classes.

    Args:
        data: The file.
        space: The model has one more class behind the file's: the space.

    Returns:
        The classes, the blank first.

    Raises:
        ConfigError: Too large, not UTF-8, an empty line or a character that stands twice.
    """
    if len(data) > MAX_CHARACTERS_BYTES:
        raise ConfigError("the character file is over 1 MiB")
    try:
        lines = data.decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"the character file is not UTF-8: {error}") from error
    alphabet = ("", *lines, *([" "] if space else []))
    if len(set(alphabet)) != len(alphabet):
        raise ConfigError("the character file has an empty line or a character that stands twice")
    return alphabet


def create(options: Mapping[str, Any], files: Mapping[str, bytes]) -> ReadText:
    """Make the task; see the module's text for the options and files.

    Raises:
        ConfigError: An option is unknown or wrong, or the character file is missing.
    """
    opts = Options(options, "read-text")
    if "characters" not in files:
        raise ConfigError(
            "read-text needs the model's characters",
            hint='[task.files.characters] uri = "file:characters.txt", one character a line',
        )
    space = opts.get("space", bool, True)
    widths = sorted(set(opts.numbers("widths", (160, 320, 640, 960, 1280))))
    if widths[0] < 1 or widths[-1] > MAX_SIDE or any(w != int(w) for w in widths):
        raise ConfigError(f'read-text: "widths" must be whole numbers within 1..{MAX_SIDE}')
    task = ReadText(
        input=opts.get("input", str, "x"),
        alphabet=read_alphabet(files["characters"], space=space),
        height=int(opts.within("height", 8, MAX_SIDE, 48)),
        widths=tuple(int(w) for w in widths),
        mean=opts.within("mean", 0, 255, 127.5),
        std=opts.within("std", 1e-3, 255, 127.5),
        order="rgb" if opts.choice("order", ("rgb", "bgr"), "bgr") == "rgb" else "bgr",
    )
    opts.close()
    return task
