"""The one zip layout that a bundle has: stored members, fixed headers, no gaps, no choice.

A general zip reader believes two tables of contents and skips what lies between members, so two
readers can see two archives in one file. Here the layout follows wholly from names, sizes and
checksums: the writer makes it with these functions, and the reader compares every byte with them.
Record layouts: PKWARE's APPNOTE 6.3.10, sections 4.3.7, 4.3.12 and 4.3.16.
"""

from __future__ import annotations

import re
import stat
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgekit.wire.errors import TrustError

# The classic format's 32-bit offsets; zip64 is not used.
MAX_ARCHIVE_BYTES = 2**32 - 2
MAX_NAME = 200
_PART = r"[A-Za-z0-9_][A-Za-z0-9._+@=-]*"
_NAME = re.compile(rf"{_PART}(?:/{_PART})*", re.ASCII)

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
LOCAL_BYTES = _LOCAL.size
_LOCAL_FIELDS = (
    "signature", "version", "flags", "compression", "time", "date",
    "checksum", "stored size", "size", "name length", "extra field",
)  # fmt: skip
_CENTRAL_FIELDS = (
    "signature", "creator", "version", "flags", "compression", "time", "date", "checksum",
    "stored size", "size", "name length", "extra field", "comment", "disk", "internal attributes",
    "permissions", "offset",
)  # fmt: skip

_VERSION = 10  # 1.0: stored files in folders
_MADE_BY = (3 << 8) | 20  # Unix, so that the permissions below count
_DATE = (0 << 9) | (1 << 5) | 1  # 1980-01-01, the first day that the format knows
_MODE = (stat.S_IFREG | 0o644) << 16


@dataclass(frozen=True)
class Entry:
    """One member of an archive.

    Attributes:
        name: Its path.
        size_bytes: Length of its content.
        crc32: The zip format's checksum of its content.
        offset: Where its local header starts.
    """

    name: str
    size_bytes: int
    crc32: int
    offset: int

    @property
    def data_offset(self) -> int:
        """Where its content starts."""
        return self.offset + LOCAL_BYTES + len(self.name)

    @property
    def end_offset(self) -> int:
        """Where its content has ended."""
        return self.data_offset + self.size_bytes


def check_name(name: str) -> str | None:
    """Say what is wrong with a member's path; None where it is fine.

    Relative, ASCII letters, digits and ``_ . + @ = -``, folders separated by ``/``; no part starts
    with a dot, so there is neither ``..`` nor a hidden file.
    """
    if len(name) > MAX_NAME:
        return f"is longer than {MAX_NAME} characters"
    if not _NAME.fullmatch(name):
        return "is not a plain relative path"
    return None


def check_names(names: Iterable[str]) -> str | None:
    """Say what is wrong with a set of paths: bad, equal but for case, or a file as a folder."""
    seen: dict[str, str] = {}
    for name in names:
        problem = check_name(name)
        if problem:
            return f"{name[:MAX_NAME]!r} {problem}"
        if name.lower() in seen:
            return f"{name!r} and {seen[name.lower()]!r} are the same file on some systems"
        seen[name.lower()] = name
    for name in seen:
        for cut in (i for i, c in enumerate(name) if c == "/"):
            if name[:cut] in seen:
                return f"{name[:cut]!r} is a file and a folder"
    return None


def local_header(entry: Entry) -> bytes:
    """Return what stands before a member's content."""
    return _LOCAL.pack(*_local_values(entry)) + entry.name.encode("ascii")


def directory(entries: Sequence[Entry]) -> bytes:
    """Return what stands behind the last member: the central directory and its end record."""
    central = b"".join(
        _CENTRAL.pack(*_central_values(entry)) + entry.name.encode("ascii") for entry in entries
    )
    start = entries[-1].end_offset
    end = _END.pack(b"PK\5\6", 0, 0, len(entries), len(entries), len(central), start, 0)
    return central + end


def parse_local_header(raw: bytes, offset: int) -> tuple[Entry, int]:
    """Read the fixed part of a local header.

    Args:
        raw: :data:`LOCAL_BYTES` bytes.
        offset: Where they stand in the file.

    Returns:
        The entry, still without its name, and the name's length.

    Raises:
        TrustError: Any field is not as :func:`local_header` writes it.
    """
    values = _LOCAL.unpack(raw)
    size, crc, name_length = values[8], values[6], values[9]
    expected = list(_local_values(Entry("", size, crc, offset)))
    expected[9] = name_length
    _compare(values, expected, _LOCAL_FIELDS, f"the header at byte {offset}")
    if not 0 < name_length <= MAX_NAME:
        raise TrustError(f"the header at byte {offset} has a name of {name_length} bytes")
    return Entry("", size, crc, offset), name_length


def check_directory(raw: bytes, entries: Sequence[Entry]) -> None:
    """Compare what stands behind the last member with what must stand there.

    Args:
        raw: Everything up to the file's end.
        entries: The members that were read.

    Raises:
        TrustError: A single byte differs, is missing or is too much.
    """
    expected = directory(entries)
    if raw == expected:
        return
    at = 0
    for entry in entries:
        fixed = raw[at : at + _CENTRAL.size]
        if len(fixed) < _CENTRAL.size:
            raise TrustError("the file is truncated")
        _compare(
            _CENTRAL.unpack(fixed),
            _central_values(entry),
            _CENTRAL_FIELDS,
            f'the directory\'s entry of "{entry.name}"',
        )
        at += _CENTRAL.size
        if raw[at : at + len(entry.name)] != entry.name.encode("ascii"):
            raise TrustError(f'the directory names another file than "{entry.name}"')
        at += len(entry.name)
    if len(raw) < len(expected):
        raise TrustError("the file is truncated")
    if len(raw) > len(expected):
        raise TrustError("something stands behind the end of the archive")
    raise TrustError("the directory's end record differs from what edgekit writes")


def _local_values(entry: Entry) -> tuple[bytes | int, ...]:
    return (
        b"PK\3\4", _VERSION, 0, 0, 0, _DATE,
        entry.crc32, entry.size_bytes, entry.size_bytes, len(entry.name), 0,
    )  # fmt: skip


def _central_values(entry: Entry) -> tuple[bytes | int, ...]:
    return (
        b"PK\1\2", _MADE_BY, _VERSION, 0, 0, 0, _DATE, entry.crc32, entry.size_bytes,
        entry.size_bytes, len(entry.name), 0, 0, 0, 0, _MODE, entry.offset,
    )  # fmt: skip


def _compare(
    found: Sequence[bytes | int],
    expected: Sequence[bytes | int],
    fields: tuple[str, ...],
    place: str,
) -> None:
    for value, wanted, field in zip(found, expected, fields, strict=True):
        if value == wanted:
            continue
        if field == "permissions" and isinstance(value, int) and stat.S_ISLNK(value >> 16):
            raise TrustError(f"{place} is a symbolic link")
        if field == "compression":
            raise TrustError(f"{place} is compressed; members are stored as they are")
        if field == "flags" and isinstance(value, int) and value & 1:
            raise TrustError(f"{place} is encrypted")
        raise TrustError(f'{place} has another "{field}" than edgekit writes')
