"""Files of a folder as samples.

Options:
    include: Globs over paths below the folder, with ``/``; default ``["**"]``. ``*`` and ``?`` stay
        within one folder, ``**`` crosses folders, ``{a,b}`` is either.
    exclude: Globs of what is left out; default none.
    take: Which of the included files, in the order of their paths: ``"all"``, ``"even"`` (the 1st,
        3rd, …), ``"odd"`` (the 2nd, 4th, …) or ``"i/n"``, each file whose number modulo n is i
        (``"0/2"`` is ``"even"``). Two sets with different parts of one split never share a file.
    label: A regular expression that is searched in the path; its one group is the label.
    labels: Path of a file with the labels: below the folder, or the name of an ``extra`` file. JSON
        maps a path (or a file's name) to any JSON value; ``.tsv`` and ``.csv`` hold a path and a
        label a line, ``#`` starts a comment. Files without an entry are left out.
    label_type: ``"str"`` (default) or ``"int"``; for ``label``, ``.tsv`` and ``.csv``.
    max_mib: Largest file that is read; a larger one is an error. Default 64.

A sample's name is its path below the folder; its suffix is the file's, in lower case. When the
source is a single file, that file is the only sample. Symbolic links are left out.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from edgekit.runtime.options import Options
from edgekit.toolchain.readers import Sample
from edgekit.wire.errors import ConfigError

MAX_LABELS_BYTES = 64 << 20
Labels = Callable[[str], tuple[bool, Any]]


def read(
    root: Path | None, options: Mapping[str, Any], extra: Mapping[str, Path]
) -> Iterator[Sample]:
    """Read the files of a folder; see the module's text for the options.

    Raises:
        ConfigError: An option is wrong, nothing matches, or a file has no label or is too large.
    """
    opts = Options(options, "reader files")
    paths = chosen_paths(root, opts)
    labels = _labels(opts, root, extra)
    max_bytes = int(opts.within("max_mib", 0.001, 4096, 64) * 2**20)
    opts.close()
    found = False
    for name, path in paths:
        kept, label = labels(name)
        if not kept:
            continue
        found = True
        yield Sample(name, _read(path, max_bytes), path.suffix.lower(), label)
    if not found:
        raise ConfigError("no file has a label", where=str(root))


def chosen_paths(root: Path | None, options: Options) -> list[tuple[str, Path]]:
    """List the files that ``include``, ``exclude`` and ``take`` choose.

    Args:
        root: The folder, or a single file.
        options: Where the three options are read from.

    Returns:
        Paths below the root, with ``/``, and the files themselves, in the order of the former.

    Raises:
        ConfigError: There is no root, an option is wrong, or nothing matches.
    """
    if root is None:
        raise ConfigError(f'{options.owner} needs a "uri"')
    include = [glob_regex(g) for g in options.strings("include", ("**",))]
    exclude = [glob_regex(g) for g in options.strings("exclude", ())]
    index, count = parse_take(options.get("take", str, "all"))
    found = [
        (name, path)
        for name, path in _walk(root)
        if any(g.fullmatch(name) for g in include) and not any(g.fullmatch(name) for g in exclude)
    ]
    chosen = [item for number, item in enumerate(found) if number % count == index]
    if not chosen:
        raise ConfigError(
            f"no file matches {', '.join(options.strings('include', ('**',)))}",
            hint="`include` holds globs over paths below the source's folder",
            where=str(root),
        )
    return chosen


def _walk(root: Path) -> list[tuple[str, Path]]:
    if root.is_file():
        return [(root.name, root)]
    found = []
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                found.append((path.relative_to(root).as_posix(), path))
    return sorted(found)


def glob_regex(glob: str) -> re.Pattern[str]:
    """Turn a glob into a regular expression; see the module's text.

    Raises:
        ConfigError: A ``{`` without its ``}``.
    """
    out, depth, position = [], 0, 0
    while position < len(glob):
        if glob.startswith("**/", position):
            out.append("(?:.*/)?")
            position += 3
            continue
        if glob.startswith("**", position):
            out.append(".*")
            position += 2
            continue
        char = glob[position]
        position += 1
        if char == "{":
            depth += 1
        elif char == "}" and depth:
            depth -= 1
            out.append(")")
            continue
        special = {"*": "[^/]*", "?": "[^/]", "{": "(?:"}
        out.append("|" if char == "," and depth else special.get(char, re.escape(char)))
    if depth:
        raise ConfigError(f'the glob "{glob}" has a {{ without its }}')
    return re.compile("".join(out), re.DOTALL)


def parse_take(text: str) -> tuple[int, int]:
    """Parse ``all``, ``even``, ``odd`` or ``i/n`` into i and n.

    Raises:
        ConfigError: Anything else.
    """
    words = {"all": (0, 1), "even": (0, 2), "odd": (1, 2)}
    if text in words:
        return words[text]
    match = re.fullmatch(r"(\d{1,4})/(\d{1,4})", text)
    if match and int(match[1]) < int(match[2]):
        return int(match[1]), int(match[2])
    raise ConfigError(
        f'"take" is "{text}"', hint='"all", "even", "odd" or "i/n" with i below n, such as "0/4"'
    )


def _labels(options: Options, root: Path | None, extra: Mapping[str, Path]) -> Labels:
    kind = options.choice("label_type", ("str", "int"), "str")
    if options.has("labels"):
        return _labels_of_file(options.get("labels", str), kind, root, extra)
    if not options.has("label"):
        return lambda _: (True, None)
    pattern = options.get("label", str)
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f'"label" is not a regular expression: {error}') from error
    if regex.groups != 1:
        raise ConfigError(f'"label" has {regex.groups} groups, expected one', hint=pattern)

    def from_name(name: str) -> tuple[bool, Any]:
        match = regex.search(name)
        if match is None:
            raise ConfigError(
                f'"label" finds nothing in "{name}"', hint="narrow `include`, or correct `label`"
            )
        return True, _convert(match[1], kind, name)

    return from_name


def _labels_of_file(where: str, kind: str, root: Path | None, extra: Mapping[str, Path]) -> Labels:
    path = extra.get(where)
    if path is None:
        if root is None or ".." in PurePosixPath(where).parts or PurePosixPath(where).is_absolute():
            raise ConfigError(f'"labels" must name a file below the folder, not "{where}"')
        path = root / where
    suffix = PurePosixPath(where).suffix or path.suffix
    text = _read(path, MAX_LABELS_BYTES).decode("utf-8", errors="replace")
    table: dict[str, Any] = {}
    if suffix == ".json":
        try:
            parsed = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"malformed JSON: {error}", where=where) from error
        if not isinstance(parsed, dict):
            raise ConfigError("the labels must be an object", where=where)
        table = parsed
    elif suffix in (".tsv", ".csv"):
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
        for row in csv.reader(lines, delimiter="\t" if suffix == ".tsv" else ","):
            if len(row) != 2:  # noqa: PLR2004 - a path and a label
                raise ConfigError(f"{len(row)} columns, expected a path and a label", where=where)
            table[row[0]] = _convert(row[1], kind, row[0])
    else:
        raise ConfigError(f'labels are .json, .tsv or .csv, not "{suffix}"', where=where)

    def from_table(name: str) -> tuple[bool, Any]:
        for key in (name, PurePosixPath(name).name):
            if key in table:
                return True, table[key]
        return False, None

    return from_table


def _convert(text: str, kind: str, name: str) -> str | int:
    if kind == "str":
        return text
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(f'the label "{text}" of "{name}" is not a whole number') from error


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise ConfigError(
                f"the file has {size / 2**20:.1f} MiB, over {max_bytes / 2**20:g}",
                where=str(path),
            )
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error}", where=str(path)) from error
