"""Pictures in IDX files, the form of MNIST and of the sets made to replace it.

A file begins with two zero bytes, a byte for the element's type (8: unsigned byte) and one for the
number of dimensions, then each dimension as a big-endian 32-bit number, then the elements by rows:
http://yann.lecun.com/exdb/mnist/. Files ending in ``.gz`` are unpacked.

Options:
    images: Path of the pictures' file below the source's folder: uint8, [count, height, width].
    labels: Path of the labels' file: uint8, [count]; without it there are no labels.
    rows: First picture and the picture after the last, ``[0, 128]``; default all.

A sample is an .npy file with uint8[height, width], grey values 0..255; its label is an int.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.runtime.options import Options
from edgekit.toolchain.readers import Sample
from edgekit.wire.errors import ConfigError

# Four times MNIST's training set.
MAX_BYTES = 256 << 20
UINT8 = 8
Bytes = npt.NDArray[np.uint8]


def read(
    root: Path | None, options: Mapping[str, Any], extra: Mapping[str, Path]
) -> Iterator[Sample]:
    """Read a range of pictures; see the module's text for the options.

    Raises:
        ConfigError: An option is wrong, or a file is missing, damaged or of another kind.
    """
    opts = Options(options, "reader idx")
    if root is None or extra:
        raise ConfigError("reader idx needs a uri that names a folder, and no more")
    images = load_idx(below(root, opts.get("images", str), opts.owner), dimensions=3)
    labels = None
    if opts.has("labels"):
        labels = load_idx(below(root, opts.get("labels", str), opts.owner), dimensions=1)
        if len(labels) != len(images):
            raise ConfigError(f"{len(images)} pictures, but {len(labels)} labels", where=str(root))
    first, after = row_range(opts, len(images))
    opts.close()
    for row in range(first, after):
        label = None if labels is None else int(labels[row])
        yield Sample(f"{row:05}.npy", npy(images[row]), ".npy", label)


def load_idx(path: Path, *, dimensions: int) -> Bytes:
    """Read an IDX file of unsigned bytes.

    Args:
        path: The file; unpacked if its name ends in ``.gz``.
        dimensions: How many it must have.

    Returns:
        uint8 with that many dimensions, read-only.

    Raises:
        ConfigError: Missing, damaged, over 256 MiB, or another type or number of dimensions.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"cannot be read: {error}", where=str(path)) from error
    if len(data) > MAX_BYTES:
        raise ConfigError("the file is over 256 MiB unpacked", where=str(path))
    try:
        return parse_idx(data, dimensions=dimensions)
    except ConfigError as error:
        raise ConfigError(error.message, hint=error.hint, where=str(path)) from error


def parse_idx(data: bytes, *, dimensions: int) -> Bytes:
    """Parse the bytes of an IDX file; see :func:`load_idx`.

    Raises:
        ConfigError: Another type or number of dimensions, an empty dimension, or bytes that are
            missing or too many.
    """
    start = 4 + 4 * dimensions
    if len(data) <= start or data[:2] != b"\0\0":
        raise ConfigError("not an IDX file of pictures or labels")
    if data[2] != UINT8 or data[3] != dimensions:
        raise ConfigError(
            f"the IDX file has type {data[2]} and {data[3]} dimensions, "
            f"expected {UINT8} (unsigned byte) and {dimensions}"
        )
    shape = struct.unpack(f">{dimensions}I", data[4:start])
    if len(data) - start != math.prod(shape) or 0 in shape:
        raise ConfigError(
            f"the IDX file says {' by '.join(map(str, shape))}, but holds {len(data) - start} bytes"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def below(root: Path, name: str, owner: str) -> Path:
    """Return a file below a folder.

    Args:
        root: The folder.
        name: Its path below the folder, with ``/``.
        owner: Whose option this is, for the message.

    Raises:
        ConfigError: The path leads out of the folder, or there is no such file.
    """
    parts = PurePosixPath(name)
    path = root / parts
    if ".." in parts.parts or parts.is_absolute():
        raise ConfigError(f'{owner}: "{name}" must name a file below the folder')
    if not path.is_file() or path.is_symlink():
        raise ConfigError(f'{owner}: there is no file "{name}"', where=str(root))
    return path


def row_range(options: Options, count: int) -> tuple[int, int]:
    """Read ``rows``: the first row and the row after the last; all by default.

    Raises:
        ConfigError: Not two whole numbers within 0..count, the first below the second.
    """
    rows = options.numbers("rows", (0, count))
    if len(rows) != 2 or any(r != int(r) for r in rows) or not 0 <= rows[0] < rows[1] <= count:  # noqa: PLR2004
        raise ConfigError(
            f'{options.owner}: "rows" is {list(rows)}, expected two row numbers up to {count}'
        )
    return int(rows[0]), int(rows[1])


def npy(pixels: Bytes) -> bytes:
    """Write uint8[H, W] or uint8[H, W, 3] as an .npy file."""
    out = io.BytesIO()
    np.save(out, np.ascontiguousarray(pixels), allow_pickle=False)
    return out.getvalue()
