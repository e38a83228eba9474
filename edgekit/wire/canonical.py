"""Canonical JSON and digests: the same value gives the same bytes on every machine."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TypeAlias

Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None

_CHUNK_BYTES = 1 << 20


def canonical_json(value: object) -> bytes:
    """Encode a value as canonical JSON: sorted keys, no spaces, UTF-8, no NaN.

    Args:
        value: Nested dicts, lists and scalars; tuples become lists.

    Raises:
        ValueError: The value holds NaN or an infinity.
        TypeError: The value holds something that JSON has no form for.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def sha256_hex(data: bytes) -> str:
    """Return the sha256 of some bytes as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file as 64 lower-case hex digits, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def digest_of(value: object) -> str:
    """Return the sha256 of a value's canonical JSON."""
    return sha256_hex(canonical_json(value))
