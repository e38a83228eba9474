"""Writing a bundle: the same manifest, members and key give the same bytes everywhere.

The zip is laid out by :mod:`edgekit.wire.storedzip`, not by the standard library's zip module,
whose choices differ between Python versions. The file is written beside its place, read back with
the device's own reader and renamed: it is there whole, or it is not there.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from edgekit.wire.bundle import MANIFEST_NAME, SIGNATURE_NAME, open_bundle
from edgekit.wire.canonical import sha256_file
from edgekit.wire.errors import BuildError, TrustError
from edgekit.wire.manifest import Manifest, Member, parse_manifest
from edgekit.wire.signing import PrivateKey
from edgekit.wire.storedzip import MAX_ARCHIVE_BYTES, Entry, directory, local_header

_CHUNK_BYTES = 1 << 20
# What differs between two machines that build the same plan.
_NOT_IN_TOOLS = frozenset({"python", "numpy", "host", "hostname", "platform", "time", "date"})
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)


@dataclass(frozen=True)
class Packed:
    """A bundle that was written.

    Attributes:
        path: The file.
        sha256: Of the whole file.
        size_bytes: Of the whole file.
        key_id: Of the key that signed it.
        manifest: With its members and key id.
    """

    path: Path
    sha256: str
    size_bytes: int
    key_id: str
    manifest: Manifest


@dataclass(frozen=True)
class _Source:
    name: str
    content: bytes | Path
    member: Member
    crc32: int


def write_bundle(
    path: Path, draft: Manifest, members: Mapping[str, bytes | Path], key: PrivateKey
) -> Packed:
    """Write a signed bundle.

    Args:
        path: Where it goes; its folder is made, an older file there is replaced at the end.
        draft: The manifest; its ``members`` and ``key_id`` are filled in here.
        members: Content by path inside the bundle, as bytes or as a file to copy.
        key: Signs it.

    Returns:
        What was written.

    Raises:
        BuildError: A member cannot be read or has a path that a bundle refuses, the draft holds
            something that the format has no place for, the folder is read-only, the disk is full.
    """
    public = key.public
    sources = [_measure(name, members[name]) for name in sorted(members)]
    filled = replace(
        draft, key_id=public.key_id, members={source.name: source.member for source in sources}
    )
    machine = sorted(_NOT_IN_TOOLS & {name.lower() for name in filled.tools})
    if machine:
        raise BuildError(f"a bundle does not name the {machine[0]} that it was built with")
    try:
        # Through the parser: it spells numbers one way, and refuses now what a device would later.
        manifest = parse_manifest(filled.to_bytes())
    except (TrustError, ValueError, TypeError) as error:
        raise BuildError(f"the manifest cannot be written: {error}", where=str(path)) from error
    data = manifest.to_bytes()
    head = [_in_memory(MANIFEST_NAME, data), _in_memory(SIGNATURE_NAME, key.sign(data))]
    total = sum(source.member.size_bytes for source in sources) + len(data)
    if total > MAX_ARCHIVE_BYTES - (1 << 20):
        raise BuildError("the bundle would be over 4 GiB", where=str(path))
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("xb") as file:
            _write(file, [*head, *sources])
            file.flush()
            os.fsync(file.fileno())
        with open_bundle(partial, [public]):
            pass
        packed = Packed(path, sha256_file(partial), partial.stat().st_size, public.key_id, manifest)
        partial.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise _explained(error, path, total) from error
    except TrustError as error:
        raise BuildError(
            f"the written file does not read back: {error.message}",
            hint="the disk may be failing; build again into another folder",
            where=str(path),
        ) from error
    finally:
        # Also on Ctrl-C; after the rename there is nothing left to remove.
        with contextlib.suppress(OSError):
            partial.unlink()
    return packed


def _in_memory(name: str, data: bytes) -> _Source:
    member = Member(size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    return _Source(name, data, member, zlib.crc32(data))


def _measure(name: str, content: bytes | Path) -> _Source:
    if isinstance(content, bytes):
        return _in_memory(name, content)
    digest, crc, size = hashlib.sha256(), 0, 0
    for chunk in _chunks(content):
        digest.update(chunk)
        crc = zlib.crc32(chunk, crc)
        size += len(chunk)
    return _Source(name, content, Member(size, digest.hexdigest()), crc)


def _write(file: BinaryIO, sources: list[_Source]) -> None:
    entries: list[Entry] = []
    for source in sources:
        offset = entries[-1].end_offset if entries else 0
        entry = Entry(source.name, source.member.size_bytes, source.crc32, offset)
        file.write(local_header(entry))
        if isinstance(source.content, bytes):
            file.write(source.content)
        else:
            file.writelines(_chunks(source.content))
        entries.append(entry)
    file.write(directory(entries))


def _chunks(path: Path) -> Iterator[bytes]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise BuildError(f"cannot be read: {error.strerror}", where=str(path)) from error
    with file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explained(error: OSError, path: Path, size_bytes: int) -> BuildError:
    if error.errno in _FULL:
        return BuildError(
            "the disk is full; nothing was written",
            hint=f"the bundle needs {size_bytes / 2**20:.1f} MiB; free some, or choose another "
            "folder with -o",
            where=str(path),
        )
    if error.errno in _FORBIDDEN:
        return BuildError(
            "the folder cannot be written; nothing was written",
            hint="choose another folder with -o",
            where=str(path.parent),
        )
    return BuildError(f"cannot be written: {error.strerror or error}", where=str(path))
