"""Handwritten digits: the 1,797 grey pictures of 8 by 8 pixels that scikit-learn ships.

The source is ``digits.csv.gz``: a line a picture, 64 grey values 0..16 and the digit.
Data: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
Repository, 1998, CC BY 4.0.

Options:
    rows: First row and the row after the last, ``[1200, 1264]``; default all.

A sample is an .npy file with uint8[8, 8], grey values 0..255; its label is the digit, an int.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgekit.runtime.options import Options
from edgekit.toolchain.readers import Sample
from edgekit.wire.errors import ConfigError

SIDE = 8
MAX_GREY = 16
MAX_BYTES = 16 << 20


def read(
    root: Path | None, options: Mapping[str, Any], extra: Mapping[str, Path]
) -> Iterator[Sample]:
    """Read a range of rows; see the module's text.

    Raises:
        ConfigError: Not that file, or a range outside of it.
    """
    import numpy as np

    opts = Options(options, "reader digits-csv")
    if root is None or not root.is_file() or extra:
        raise ConfigError("reader digits-csv needs a uri that names digits.csv.gz, and no more")
    table = load_rows(root)
    first, after = (int(v) for v in _range(opts, len(table)))
    opts.close()
    for row in range(first, after):
        grey = table[row, :-1].reshape(SIDE, SIDE) * 255 // MAX_GREY
        out = io.BytesIO()
        np.save(out, grey.astype(np.uint8), allow_pickle=False)
        yield Sample(f"digit-{row:04}.npy", out.getvalue(), ".npy", int(table[row, -1]))


def load_rows(path: Path) -> Any:  # noqa: ANN401 - numpy is imported lazily
    """Read the table.

    Args:
        path: ``digits.csv.gz``.

    Returns:
        int64[rows, 65]: 64 grey values 0..16 by rows, and the digit 0..9.

    Raises:
        ConfigError: Damaged, or another table.
    """
    import numpy as np

    try:
        with gzip.open(path) as file:
            text = file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise ConfigError("the table is over 16 MiB unpacked", where=str(path))
        if not text.strip():
            raise ConfigError("not digits.csv.gz: it is empty", where=str(path))
        table = np.loadtxt(io.BytesIO(text), delimiter=",", ndmin=2)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise ConfigError(f"not digits.csv.gz: {error}", where=str(path)) from error
    # What is no number, or far off, becomes a value that the checks below refuse.
    whole = np.nan_to_num(np.clip(table, -1, 255), nan=-1).astype(np.int64)
    good = (
        table.shape[1] == SIDE * SIDE + 1
        and bool((whole == table).all())
        and bool((whole[:, :-1] >= 0).all() and (whole[:, :-1] <= MAX_GREY).all())
        and bool((whole[:, -1] >= 0).all() and (whole[:, -1] <= 9).all())  # noqa: PLR2004
    )
    if not good:
        raise ConfigError(
            "not digits.csv.gz: expected 64 values 0..16 and a digit a line", where=str(path)
        )
    return whole


def _range(options: Options, count: int) -> tuple[float, float]:
    rows = options.numbers("rows", (0, count))
    if len(rows) != 2 or not 0 <= rows[0] < rows[1] <= count:  # noqa: PLR2004
        raise ConfigError(
            f'reader digits-csv: "rows" is {list(rows)}, expected two row numbers up to {count}'
        )
    return rows[0], rows[1]
