"""TOML whose every value knows its file and line.

``tomllib`` parses; a scan of the lines, which the parser has accepted, finds where each key stands.
A :class:`Table` then reads values by type, and :meth:`Table.close` names whatever nobody read.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from edgekit.wire.errors import ConfigError, did_you_mean

T = TypeVar("T")

_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(
    r"""^\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*="""
)
_LINE_IN_MESSAGE = re.compile(r"\(at line (\d+), column \d+\)")
MAX_TOML_BYTES = 1 << 20

Path_ = tuple[str | int, ...]


@dataclass(frozen=True)
class Value:
    """A value of a plan and where it came from.

    Attributes:
        value: Plain JSON.
        origin: ``targets/rpi5.toml:12``, ``--dist``, ``EDGEKIT_DIST_DIR``, ``default``.
    """

    value: Any
    origin: str


@dataclass
class Table:
    """One table of a TOML file, read by type.

    Attributes:
        values: What the parser gave.
        file: Name of the file as shown to people.
        lines: Line of every key, by its path from the file's root.
        path: This table's path.
    """

    values: Mapping[str, Any]
    file: str
    lines: Mapping[Path_, int]
    path: Path_ = ()
    _read: set[str] = field(default_factory=set)

    def where(self, key: str | None = None) -> str:
        """Return ``file:line`` of a key, or of the table itself."""
        path = self.path if key is None else (*self.path, key)
        while path and path not in self.lines:
            path = path[:-1]
        line = self.lines.get(path)
        return f"{self.file}:{line}" if line else self.file

    def has(self, key: str) -> bool:
        """Tell whether a key is there."""
        return key in self.values

    def get(self, key: str, kind: type[T], default: T | None = None) -> T:
        """Read a value.

        Args:
            key: Its name.
            kind: ``str``, ``int``, ``float`` (takes an int too), ``bool``, ``list`` or ``dict``.
            default: Taken when the key is absent; None makes the key mandatory.

        Raises:
            ConfigError: Absent and mandatory, or of another type.
        """
        self._read.add(key)
        if key not in self.values:
            if default is None:
                name = ".".join(str(p) for p in (*self.path, key))
                raise ConfigError(f'"{name}" is missing', where=self.where())
            return default
        value = self.values[key]
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ConfigError(
                f'"{key}" is {type(value).__name__}, expected {kind.__name__}',
                where=self.where(key),
            )
        return value

    def optional(self, key: str, kind: type[T]) -> T | None:
        """Read a value that may be absent."""
        self._read.add(key)
        return self.get(key, kind) if key in self.values else None

    def strings(self, key: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """Read a list of strings."""
        if key not in self.values and default is not None:
            self._read.add(key)
            return default
        items = self.get(key, list)
        if not all(isinstance(item, str) for item in items):
            raise ConfigError(f'"{key}" must be a list of strings', where=self.where(key))
        return tuple(items)

    def table(self, key: str) -> Table:
        """Read a sub-table; an absent one is empty."""
        self._read.add(key)
        value = self.values.get(key, {})
        if not isinstance(value, dict):
            raise ConfigError(f'"{key}" must be a table', where=self.where(key))
        return Table(value, self.file, self.lines, (*self.path, key))

    def tables(self, key: str) -> list[Table]:
        """Read an array of tables; an absent one is empty."""
        self._read.add(key)
        value = self.values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise ConfigError(f'"{key}" must be an array of tables', where=self.where(key))
        return [
            Table(item, self.file, self.lines, (*self.path, key, i)) for i, item in enumerate(value)
        ]

    def rest(self) -> dict[str, Any]:
        """Read everything that has not been read yet."""
        left = {k: v for k, v in self.values.items() if k not in self._read}
        self._read.update(left)
        return left

    def names(self) -> Iterator[str]:
        """Iterate over the names of the keys in the file's order."""
        return iter(self.values)

    def close(self) -> None:
        """Refuse keys that nobody read.

        Raises:
            ConfigError: Names the first unknown key, its line and the closest known one.
        """
        for key in self.values:
            if key not in self._read:
                close = did_you_mean(key, self._read)
                raise ConfigError(
                    f'unknown key "{key}"',
                    hint=f"did you mean {close}?"
                    if close
                    else f"known: {', '.join(sorted(self._read))}",
                    where=self.where(key),
                )


def load_toml(path: Path, shown_as: str | None = None) -> Table:
    """Read a TOML file.

    Args:
        path: The file; at most 1 MiB.
        shown_as: Its name in messages; the path itself by default.

    Raises:
        ConfigError: Missing, unreadable, too large or malformed; names the line.
    """
    name = shown_as or str(path)
    try:
        if path.stat().st_size > MAX_TOML_BYTES:
            raise ConfigError("the file is over 1 MiB", where=name)
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", where=name) from error
    return parse_toml(text, name)


def parse_toml(text: str, name: str) -> Table:
    """Parse TOML text; see :func:`load_toml`."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        match = _LINE_IN_MESSAGE.search(message)
        line = int(match.group(1)) if match else len(text.splitlines()) or 1
        raise ConfigError(
            f"malformed TOML: {_LINE_IN_MESSAGE.sub('', message).strip()}", where=f"{name}:{line}"
        ) from error
    return Table(values, name, _key_lines(text))


def _key_lines(text: str) -> dict[Path_, int]:
    lines: dict[Path_, int] = {}
    counts: dict[Path_, int] = {}
    prefix: Path_ = ()
    in_string: str | None = None
    depth = 0
    for number, line in enumerate(text.splitlines(), start=1):
        if in_string:
            if in_string in line:
                in_string = None
            continue
        if depth == 0 and (header := _HEADER.match(line)):
            prefix = _enter(header.group(1) == "[[", _parts(header.group(2)), counts)
            lines[prefix] = number
            for length in range(1, len(prefix)):
                lines.setdefault(prefix[:length], number)
            continue
        if depth == 0 and (key := _KEY.match(line)):
            path: Path_ = prefix
            for part in _parts(key.group(1)):
                path = (*path, part)
                lines.setdefault(path, number)
            for inner in re.finditer(r"[{,]\s*([A-Za-z0-9_-]+)\s*=", line):
                lines.setdefault((*path, inner.group(1)), number)
        for quote in ('"""', "'''"):
            if line.count(quote) % 2:
                in_string = quote
        bare = re.sub(r'"(?:\\.|[^"\\])*"|\'[^\']*\'|#.*', "", line)
        depth = max(
            0, depth + bare.count("[") + bare.count("{") - bare.count("]") - bare.count("}")
        )
    return lines


def _enter(is_array: bool, parts: list[str], counts: dict[Path_, int]) -> Path_:
    path: Path_ = ()
    for index, part in enumerate(parts):
        path = (*path, part)
        if is_array and index == len(parts) - 1:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path


def _parts(dotted: str) -> list[str]:
    found = re.findall(r'"([^"]*)"|\'([^\']*)\'|([A-Za-z0-9_-]+)', dotted)
    return ["".join(group) for group in found]
