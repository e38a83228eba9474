"""Files of a folder as samples, labelled by what kind of file they are.

Options:
    include, exclude, take: Which files; as the reader ``files`` has them.
    types: A table from a suffix without its dot (``py``), or from a folder's name, to the label.
        Files of other types are left out.
    by: Where the type stands: ``"suffix"`` (default; in lower case) or ``"folder"``, the name of
        the folder that the file lies in.
    each: Most files of one label, taken evenly over their paths; 0, the default, takes all.
    min_bytes, max_bytes: Smaller and larger files are left out; default 64 and 4 194 304.

A sample's name is its path below the folder. Files with the same content count once: the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from edgekit.runtime.options import Options
from edgekit.toolchain.readers import Sample
from edgekit.toolchain.readers.files import chosen_paths
from edgekit.wire.errors import ConfigError

T = TypeVar("T")


def read(
    root: Path | None,
    options: Mapping[str, Any],
    extra: Mapping[str, Path],  # noqa: ARG001
) -> Iterator[Sample]:
    """Read the files of a folder; see the module's text for the options.

    Raises:
        ConfigError: An option is wrong, nothing matches, or a file cannot be read.
    """
    opts = Options(options, "reader files-by-type")
    paths = chosen_paths(root, opts)
    types = opts.get("types", dict)
    if not types or not all(isinstance(v, str) for v in types.values()):
        raise ConfigError('reader files-by-type: "types" must map types to labels')
    by_folder = opts.choice("by", ("suffix", "folder"), "suffix") == "folder"
    each = int(opts.within("each", 0, 1 << 20, 0))
    smallest = int(opts.within("min_bytes", 0, 1 << 30, 64))
    largest = int(opts.within("max_bytes", 0, 1 << 30, 4 << 20))
    opts.close()
    groups: dict[str, list[tuple[str, Path]]] = {}
    for name, path in paths:
        label = types.get(type_of(name, by_folder=by_folder))
        if label is not None and smallest <= _size(path) <= largest:
            groups.setdefault(label, []).append((name, path))
    if not groups:
        raise ConfigError("no file has one of the types", where=str(root))
    chosen = [
        (name, path, label)
        for label, group in groups.items()
        for name, path in (spread(group, each) if each else group)
    ]
    seen: set[str] = set()
    for name, path, label in sorted(chosen, key=lambda item: item[0]):
        sample = Sample(name, _read(path), path.suffix.lower(), label)
        if sample.sha256 not in seen:
            seen.add(sample.sha256)
            yield sample


def type_of(name: str, *, by_folder: bool) -> str:
    """Return a path's suffix without its dot in lower case, or the name of its folder."""
    path = PurePosixPath(name)
    return path.parent.name if by_folder else path.suffix[1:].lower()


def spread(items: list[T], count: int) -> list[T]:
    """Take a number of items evenly over a list; all of them where there are fewer."""
    if len(items) <= count:
        return items
    return [items[i * len(items) // count] for i in range(count)]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise ConfigError(f"cannot be read: {error}", where=str(path)) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error}", where=str(path)) from error
