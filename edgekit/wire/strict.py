"""A strict reader of JSON that strangers wrote: each field by type and bound, nothing left over."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import TypeVar

from edgekit.wire.canonical import Json, canonical_json
from edgekit.wire.errors import TrustError

T = TypeVar("T", bound=str)

# Every integer up to here is exact in the doubles of other JSON readers.
MAX_INTEGER = 2**53 - 1
MAX_TEXT = 1000
MAX_ITEMS = 4096
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Fields:
    """One JSON object, read field by field; :meth:`close` refuses what nobody read.

    Args:
        values: The object.
        name: Its name in messages: ``manifest.json golden``.
    """

    def __init__(self, values: dict[str, Json], name: str) -> None:
        self._left = dict(values)
        self.name = name

    def refuse(self, key: str, problem: str) -> TrustError:
        """Return the error that says what is wrong with a field."""
        return TrustError(f'"{key}" {problem}', where=self.name)

    def has(self, key: str) -> bool:
        """Tell whether a field is there and not yet read."""
        return key in self._left

    def null(self, key: str) -> bool:
        """Tell whether a field is null; then it counts as read."""
        if self._left.get(key, key) is not None:
            return False
        del self._left[key]
        return True

    def names(self) -> tuple[str, ...]:
        """Return the names of the fields that are not yet read."""
        return tuple(self._left)

    def text(
        self, key: str, *, most: int = MAX_TEXT, pattern: re.Pattern[str] | None = None
    ) -> str:
        """Read a string of up to ``most`` printable characters that matches the whole pattern."""
        value = self._take(key)
        if not isinstance(value, str):
            raise self.refuse(key, "must be a string")
        if len(value) > most:
            raise self.refuse(key, f"is longer than {most} characters")
        # Control characters would let a hostile bundle repaint a terminal.
        if not value.isprintable():
            raise self.refuse(key, "has characters that cannot be printed")
        if pattern is not None and not pattern.fullmatch(value):
            raise self.refuse(key, f"is not of the form {pattern.pattern}")
        return value

    def choice(self, key: str, choices: tuple[T, ...]) -> T:
        """Read a string that is one of a few."""
        value = self.text(key)
        for choice in choices:
            if value == choice:
                return choice
        raise self.refuse(key, f"must be one of {', '.join(choices)}")

    def sha256(self, key: str) -> str:
        """Read 64 lower-case hex digits."""
        return self.text(key, pattern=_SHA256)

    def integer(self, key: str, low: int = 0, high: int = MAX_INTEGER) -> int:
        """Read an integer within ``low`` and ``high``, both included."""
        value = self._take(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.refuse(key, "must be an integer")
        if not low <= value <= high:
            raise self.refuse(key, f"must be within {low} and {high}")
        return value

    def number(
        self, key: str, low: float = -float(MAX_INTEGER), high: float = float(MAX_INTEGER)
    ) -> float:
        """Read a finite number within ``low`` and ``high``, both included."""
        value = self._take(key)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self.refuse(key, "must be a number")
        # Compare first: an integer of 400 digits has no float.
        if not low <= value <= high or not math.isfinite(value):
            raise self.refuse(key, f"must be within {low:g} and {high:g}")
        return float(value)

    def boolean(self, key: str) -> bool:
        """Read true or false."""
        value = self._take(key)
        if not isinstance(value, bool):
            raise self.refuse(key, "must be true or false")
        return value

    def object(self, key: str) -> Fields:
        """Read an object."""
        return Fields(self.mapping(key), f"{self.name} {key}")

    def mapping(self, key: str, *, most: int = MAX_ITEMS) -> dict[str, Json]:
        """Read an object whose keys are free."""
        value = self._take(key)
        if not isinstance(value, dict):
            raise self.refuse(key, "must be an object")
        if len(value) > most:
            raise self.refuse(key, f"has over {most} entries")
        return value

    def texts(self, key: str, *, most: int = MAX_ITEMS) -> dict[str, str]:
        """Read an object of strings."""
        fields = self.object(key)
        names = fields.names()
        if len(names) > most:
            raise self.refuse(key, f"has over {most} entries")
        if not all(name.isprintable() and len(name) <= MAX_TEXT for name in names):
            raise self.refuse(key, "has a name that cannot be printed")
        return {name: fields.text(name) for name in names}

    def objects(self, key: str, *, most: int = MAX_ITEMS) -> Iterator[Fields]:
        """Read a list of objects."""
        for index, item in enumerate(self.array(key, most=most)):
            if not isinstance(item, dict):
                raise self.refuse(key, "must be a list of objects")
            yield Fields(item, f"{self.name} {key}[{index}]")

    def array(self, key: str, *, most: int = MAX_ITEMS) -> list[Json]:
        """Read a list."""
        value = self._take(key)
        if not isinstance(value, list):
            raise self.refuse(key, "must be a list")
        if len(value) > most:
            raise self.refuse(key, f"has over {most} entries")
        return value

    def close(self) -> None:
        """Refuse fields that nobody read.

        Raises:
            TrustError: Names the first one.
        """
        for key in self._left:
            raise TrustError(f"unknown field {key[:80]!r}", where=self.name)

    def _take(self, key: str) -> Json:
        if key not in self._left:
            raise TrustError(f'"{key}" is missing', where=self.name)
        return self._left.pop(key)


def parse_object(data: bytes, name: str, *, most_bytes: int) -> dict[str, Json]:
    """Decode a JSON object that strangers wrote.

    Args:
        data: UTF-8.
        name: The document's name in messages.
        most_bytes: Its largest size.

    Raises:
        TrustError: Too large, not UTF-8, not JSON, nested too deep or not an object.
    """
    if len(data) > most_bytes:
        raise TrustError(f"the document is over {most_bytes} bytes", where=name)
    try:
        document = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise TrustError("not a JSON document", where=name) from error
    if not isinstance(document, dict):
        raise TrustError("not a JSON object", where=name)
    return document


def require_canonical(data: bytes, document: dict[str, Json], name: str) -> None:
    """Refuse a document that has another spelling than the canonical one.

    One meaning, one spelling: repeated keys, which readers resolve differently, fall out here.

    Raises:
        TrustError: The bytes are not the canonical form of the document.
    """
    try:
        same = canonical_json(document) == data
    except (ValueError, RecursionError) as error:
        raise TrustError("holds a value that JSON has no form for", where=name) from error
    if not same:
        raise TrustError("not in canonical form", where=name)
