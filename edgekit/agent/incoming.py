"""Fetching a bundle's bytes into a file, from where an earlier try stopped."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from edgekit.agent.disk import Disk, explained, explaining, remove_flat, write_all
from edgekit.wire.errors import DeviceError

_CHUNK_BYTES = 1 << 20

# From an offset in bytes to the bytes of a bundle from there on, in chunks of any size.
Source = Callable[[int], Iterable[bytes]]


def receive(
    disk: Disk,
    path: Path,
    sha256: str,
    size_bytes: int,
    source: Source,
    make_room: Callable[[int], None],
) -> None:
    """Fetch a file. What ``source`` raises goes through, and what came until then is kept.

    Args:
        disk: What changes files.
        path: Where it goes, in a folder of its own.
        sha256: Its digest.
        size_bytes: Its exact size.
        source: Returns its bytes from an offset on.
        make_room: Called with the number of bytes that will be written; raises if that is too much.

    Raises:
        FullDiskError: There is no space; what had come is removed.
        DeviceError: The bytes are other ones, or the disk fails; what had come is removed.
    """
    # What an earlier process left may have been cut by its crash: then once more, from the start.
    for _ in range(1 + path.exists()):
        digest = hashlib.sha256()
        have = hash_file(digest.update, path)
        if have <= size_bytes:
            make_room(size_bytes - have)
            have = _append(disk, path, have, size_bytes, source, digest.update)
        if have == size_bytes and digest.hexdigest() == sha256:
            return
        with explaining("what came cannot be removed", path):
            remove_flat(disk, path.parent)
    raise DeviceError(
        "what came is not the bundle that was ordered",
        hint="does the URL of the order lead to it?",
        where=sha256[:12],
    )


def hash_file(update: Callable[[bytes], object], path: Path) -> int:
    """Hash a file that may not be there.

    Args:
        update: Takes its bytes.
        path: The file.

    Returns:
        Its size in bytes; 0 where it is not there.
    """
    size_bytes = 0
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            update(chunk)
            size_bytes += len(chunk)
    return size_bytes


def _append(
    disk: Disk,
    path: Path,
    have: int,
    size_bytes: int,
    source: Source,
    update: Callable[[bytes], object],
) -> int:
    """Write what comes behind what is there, at most one chunk too much; return the size."""
    with _undoing(disk, path):
        file = _open(disk, path)
    try:
        chunks = iter(source(have)) if have < size_bytes else iter(())
        while have <= size_bytes:
            # What goes wrong here is the network's; what goes wrong below is the disk's.
            chunk = next(chunks, None)
            if chunk is None:
                break
            with _undoing(disk, path):
                write_all(disk, file, chunk)
            update(chunk)
            have += len(chunk)
        with _undoing(disk, path):
            disk.sync(file)
    finally:
        with contextlib.suppress(OSError):
            disk.close(file)
    return have


def _open(disk: Disk, path: Path) -> int:
    if not path.parent.exists():
        disk.make_folder(path.parent)
    return disk.extend(path) if path.exists() else disk.create(path)


@contextlib.contextmanager
def _undoing(disk: Disk, path: Path) -> Iterator[None]:
    """Remove what had come where the disk fails."""
    try:
        yield
    except OSError as error:
        with contextlib.suppress(OSError):
            remove_flat(disk, path.parent)
        raise explained(error, "nothing changed", path) from error
