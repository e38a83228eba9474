"""Pictures that stand in sheets: each row of a sheet's pixels is one small picture.

Sets are packed like this for the browser, CIFAR-10 for one: a PNG file of 1024 by 10,000 pixels
holds 10,000 pictures of 32 by 32, each laid out by its own rows in one row of the sheet.

Options:
    sheets: Paths of the picture files below the source's folder, in the order of their rows.
    labels: Path of a JSON list with a whole number for each row of all sheets together; without it
        there are no labels.
    width: Of a picture, in pixels; its height is the sheet's width divided by this.
    rows: First row and the row after the last, counted over all sheets, ``[0, 128]``; default all.

A sample is an .npy file with uint8[height, width, 3], RGB; its label is an int. Only the sheets
that hold a chosen row are decoded. Needs Pillow.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.runtime import pictures
from edgekit.runtime.options import Options
from edgekit.toolchain.readers import Sample
from edgekit.toolchain.readers.idx import below, npy, row_range
from edgekit.wire.errors import ConfigError

MAX_LABELS_BYTES = 16 << 20
MAX_WIDTH = 4096


def read(
    root: Path | None, options: Mapping[str, Any], extra: Mapping[str, Path]
) -> Iterator[Sample]:
    """Read a range of rows; see the module's text for the options.

    Raises:
        ConfigError: An option is wrong, or a file is missing, damaged or of another kind.
        MissingToolError: Pillow is not installed.
    """
    opts = Options(options, "reader picture-rows")
    if root is None or extra:
        raise ConfigError("reader picture-rows needs a uri that names a folder, and no more")
    sheets = [below(root, name, opts.owner) for name in opts.strings("sheets")]
    width = int(opts.within("width", 1, MAX_WIDTH))
    counts = [row_count(path, width) for path in sheets]
    labels = None
    if opts.has("labels"):
        labels = load_labels(below(root, opts.get("labels", str), opts.owner), sum(counts))
    first, after = row_range(opts, sum(counts))
    opts.close()
    start = 0
    for path, count in zip(sheets, counts, strict=True):
        chosen = range(max(first, start), min(after, start + count))
        if chosen:
            rows = load_sheet(path, width)
            for row in chosen:
                label = None if labels is None else labels[row]
                yield Sample(f"{row:05}.npy", npy(rows[row - start]), ".npy", label)
        start += count


def row_count(path: Path, width: int) -> int:
    """Return how many pictures of a width a sheet holds; its header alone is read.

    Raises:
        ConfigError: Not a picture, too large, or its rows are not whole pictures.
        MissingToolError: Pillow is not installed.
    """
    image_module, _ = pictures.import_pillow()
    try:
        with image_module.open(io.BytesIO(_bytes(path)), formats=["PNG"]) as opened:
            across, down = int(opened.width), int(opened.height)
    except (OSError, ValueError, SyntaxError, image_module.DecompressionBombError) as error:
        raise ConfigError("not a readable PNG file", where=str(path)) from error
    if across % width:
        raise ConfigError(
            f"the sheet's rows of {across} pixels are no pictures of width {width}", where=str(path)
        )
    return down


def load_sheet(path: Path, width: int) -> npt.NDArray[np.uint8]:
    """Decode a sheet.

    Args:
        path: The file.
        width: Of a picture, in pixels; divides the sheet's width.

    Returns:
        uint8[N, height, width, 3], RGB, a picture for each row.

    Raises:
        ConfigError: Not a picture, damaged or over 50 million pixels.
        MissingToolError: Pillow is not installed.
    """
    try:
        sheet = pictures.decode(_bytes(path))
    except ConfigError as error:
        raise ConfigError(error.message, hint=error.hint, where=str(path)) from error
    return sheet.reshape(len(sheet), -1, width, 3)


def load_labels(path: Path, count: int) -> Sequence[int]:
    """Read a JSON list of whole numbers.

    Args:
        path: The file.
        count: How many there must be.

    Raises:
        ConfigError: Damaged, another kind of value, or another count.
    """
    if path.stat().st_size > MAX_LABELS_BYTES:
        raise ConfigError("the labels' file is over 16 MiB", where=str(path))
    try:
        labels = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"malformed JSON: {error}", where=str(path)) from error
    if not isinstance(labels, list) or any(type(v) is not int for v in labels):
        raise ConfigError("the labels must be a list of whole numbers", where=str(path))
    if len(labels) != count:
        raise ConfigError(f"{count} pictures, but {len(labels)} labels", where=str(path))
    return labels


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > pictures.MAX_FILE_BYTES:
            raise ConfigError("the sheet's file is over 64 MiB", where=str(path))
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error}", where=str(path)) from error
