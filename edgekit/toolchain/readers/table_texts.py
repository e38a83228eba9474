"""Rows of a table as samples: one column is the text, another may hold the label.

Options:
    member: Path of the table inside the source, if that is a tar or zip archive.
    delimiter: Default tab. There is no quoting: a delimiter always separates.
    text: Number of the text's column, from 0; default 0.
    label: Number of the label's column; without it there are no labels.
    split: Makes a number label 1 if it is above this, else 0. Without it the label is a string.
    margin: With ``split``: rows whose number is nearer to it than this are left out; default 0.
    header: Rows at the top that are none; default 0.
    take: Which rows; as the reader ``files`` has it.
    min_chars: Shorter texts are left out; default 1.

A sample is the text in UTF-8, without white space around it; its name is the row's number. A text
that stands there twice is one sample: the first.
"""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from edgekit.runtime.options import Options
from edgekit.toolchain.readers import Sample
from edgekit.toolchain.readers.files import parse_take
from edgekit.wire.errors import ConfigError

MAX_TABLE_BYTES = 64 << 20


def read(
    root: Path | None,
    options: Mapping[str, Any],
    extra: Mapping[str, Path],  # noqa: ARG001
) -> Iterator[Sample]:
    """Read the rows of a table; see the module's text for the options.

    Raises:
        ConfigError: An option is wrong, the table cannot be read, or a row has too few columns.
    """
    if root is None:
        raise ConfigError('reader table-texts needs a "uri"')
    opts = Options(options, "reader table-texts")
    data = _table(root, opts.get("member", str, ""))
    delimiter = opts.get("delimiter", str, "\t")
    text_column = int(opts.within("text", 0, 1000, 0))
    label_column = int(opts.within("label", 0, 1000)) if opts.has("label") else None
    split = opts.within("split", -1e9, 1e9) if opts.has("split") else None
    margin = opts.within("margin", 0, 1e9, 0)
    header = int(opts.within("header", 0, 1000, 0))
    index, count = parse_take(opts.get("take", str, "all"))
    shortest = int(opts.within("min_chars", 1, 1 << 20, 1))
    opts.close()
    if not delimiter:
        raise ConfigError('reader table-texts: "delimiter" is empty')
    seen: set[str] = set()
    rows = data.decode("utf-8", errors="replace").splitlines()
    for number, row in enumerate(rows[header:], start=header + 1):
        if number % count != index or not row.strip():
            continue
        fields = row.split(delimiter)
        if len(fields) <= max(text_column, label_column or 0):
            raise ConfigError(f"row {number} has {len(fields)} columns", where=str(root))
        text = fields[text_column].strip()
        if len(text) < shortest or text in seen:
            continue
        label: Any = None if label_column is None else fields[label_column].strip()
        if label is not None and split is not None:
            label = _side(label, split, margin, number)
            if label is None:
                continue
        seen.add(text)
        yield Sample(f"row {number}", text.encode(), ".txt", label)


def _side(field: str, split: float, margin: float, number: int) -> int | None:
    try:
        value = float(field)
    except ValueError as error:
        raise ConfigError(f'the label "{field[:40]}" of row {number} is not a number') from error
    return None if abs(value - split) < margin else int(value > split)


def _table(root: Path, member: str) -> bytes:
    try:
        if not member:
            with root.open("rb") as file:
                return _bounded(file, root.name)
        if zipfile.is_zipfile(root):
            with zipfile.ZipFile(root) as archive, archive.open(member) as opened:
                return _bounded(opened, member)
        with tarfile.open(root) as tar:
            extracted = tar.extractfile(member)
            if extracted is None:
                raise ConfigError(f'"{member}" is not a file', where=str(root))
            with extracted:
                return _bounded(extracted, member)
    except KeyError as error:
        raise ConfigError(f'no "{member}" in the archive', where=str(root)) from error
    except (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile) as error:
        raise ConfigError(f"the table cannot be read: {error}", where=str(root)) from error


def _bounded(file: IO[bytes], name: str) -> bytes:
    data = file.read(MAX_TABLE_BYTES + 1)
    if len(data) > MAX_TABLE_BYTES:
        raise ConfigError("the table is over 64 MiB", where=name)
    return data
