"""Free JSON inside messages: what a reader takes, and how a writer makes any value fit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from edgekit.wire.canonical import Json
from edgekit.wire.errors import TrustError
from edgekit.wire.strict import MAX_INTEGER, MAX_ITEMS, MAX_TEXT

MAX_VALUE_DEPTH = 8
MAX_VALUE_TEXT = 4000

_WITHOUT_BREAKS = str.maketrans("", "", "\n\t")


def check_value(value: Json, left: int, where: str) -> None:
    """Refuse a value that is too deep, too long, or that another JSON reader would not take.

    Args:
        value: What was parsed.
        left: Levels that it may still be nested.
        where: Its name in messages.

    Raises:
        TrustError: It is refused.
    """
    if isinstance(value, str):
        if len(value) > MAX_VALUE_TEXT or not value.translate(_WITHOUT_BREAKS).isprintable():
            raise TrustError("a text is too long or cannot be printed", where=where)
    elif isinstance(value, int | float):
        if not abs(value) <= MAX_INTEGER or not math.isfinite(value):
            raise TrustError("a number is out of bounds", where=where)
    elif value is not None:
        if left <= 0:
            raise TrustError(f"nested deeper than {MAX_VALUE_DEPTH}", where=where)
        if len(value) > MAX_ITEMS:
            raise TrustError(f"over {MAX_ITEMS} entries", where=where)
        for key in value if isinstance(value, dict) else ():
            if len(key) > MAX_TEXT or not key.isprintable():
                raise TrustError("a name is too long or cannot be printed", where=where)
        for item in value.values() if isinstance(value, dict) else value:
            check_value(item, left - 1, where)


def tidy(values: Mapping[str, object]) -> dict[str, Json]:
    """Make values that every reader will take, whatever they were.

    A number without a JSON form (NaN, infinity, an integer beyond 2**53) becomes absent; text is
    cut at 4,000 characters and its control characters become ``?``; what is nested too deep or of a
    foreign type becomes absent.
    """
    found = {
        _tidy_name(key): _tidy(value, MAX_VALUE_DEPTH - 1)
        for key, value in list(values.items())[:MAX_ITEMS]
    }
    return {key: value for key, value in found.items() if value is not None}


def _tidy(value: object, left: int) -> Json:
    if isinstance(value, str):
        return _tidy_text(value)
    if isinstance(value, int | float):
        return value if abs(value) <= MAX_INTEGER else None
    if left <= 0:
        return None
    if isinstance(value, Mapping):
        inner = {_tidy_name(k): _tidy(v, left - 1) for k, v in value.items()}
        return {k: v for k, v in list(inner.items())[:MAX_ITEMS] if v is not None}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        # A place in a list keeps its meaning: what has no form is null there.
        return [_tidy(item, left - 1) for item in value[:MAX_ITEMS]]
    return None


def _tidy_text(text: str) -> str:
    kept = (c if c.isprintable() or c in "\n\t" else "?" for c in text[:MAX_VALUE_TEXT])
    return "".join(kept)


def _tidy_name(name: object) -> str:
    return "".join(c if c.isprintable() else "?" for c in str(name)[:MAX_TEXT])
