"""The narrow seam to the file system: everything that changes what a power cut would leave.

What writes durably (the slots) gets a :class:`Disk` and calls nothing else that changes files.
Tests pass one that ends the process between any two operations, or that forgets what was not
synced. Reading needs no seam: it changes nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from edgekit.wire.errors import DeviceError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class Disk:
    """The real file system. Every method is one system call, or fails with ``OSError``."""

    def create(self, path: Path) -> int:
        """Create a file that must not be there, readable by its owner alone.

        Returns:
            Its descriptor.
        """
        return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)

    def extend(self, path: Path) -> int:
        """Open a file to write at its end.

        Returns:
            Its descriptor.
        """
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)

    def write(self, descriptor: int, data: bytes) -> int:
        """Write some bytes.

        Returns:
            How many; a disk that runs full may take a part.
        """
        return os.write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        """Wait until a file's content is on the medium."""
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        """Close a file; its content may still be in memory."""
        os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file or folder another name, in place of what has it, at once."""
        source.rename(target)

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()

    def make_folder(self, path: Path) -> None:
        """Make a folder that must not be there, for its owner alone."""
        path.mkdir(mode=0o700)

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder."""
        path.rmdir()

    def sync_folder(self, path: Path) -> None:
        """Wait until the names in a folder are on the medium."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def free_bytes(self, path: Path) -> int:
        """Return how much this process may still write to the file system of a folder."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize


def write_all(disk: Disk, descriptor: int, data: bytes) -> None:
    """Write all of some bytes.

    Raises:
        OSError: The disk is full or fails.
    """
    left = memoryview(data)
    while left:
        left = left[disk.write(descriptor, bytes(left)) :]


def write_file(disk: Disk, path: Path, data: bytes) -> None:
    """Write a new file and wait until its content is on the medium; its name may still be lost.

    Raises:
        OSError: It is there already, the disk is full or fails.
    """
    file = disk.create(path)
    try:
        write_all(disk, file, data)
        disk.sync(file)
    finally:
        disk.close(file)


def remove_flat(disk: Disk, folder: Path) -> None:
    """Remove a folder that holds files only; one that is not there is no error.

    Raises:
        OSError: The disk fails.
    """
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            disk.unlink(path)
        disk.remove_folder(folder)


@contextlib.contextmanager
def explaining(what: str, path: Path) -> Iterator[None]:
    """Turn the ``OSError`` of a disk into an error that says what to do; see :func:`explained`."""
    try:
        yield
    except OSError as error:
        raise explained(error, what, path) from error


def explained(error: OSError, what: str, path: Path) -> DeviceError:
    """Return the error that says what could not be written, and what to do.

    Args:
        error: Of the system call.
        what: What was to be written, and what stays as it was: ``the bundle; nothing changed``.
        path: Where.
    """
    if error.errno in FULL:
        return FullDiskError(f"the disk is full: {what}", hint="free some space", where=str(path))
    if error.errno in _READ_ONLY:
        hint = "the agent's user must be able to write there; is the disk mounted read-only?"
        return DeviceError(f"cannot be written: {what}", hint=hint, where=str(path))
    return DeviceError(
        f"{error.strerror or error}: {what}", hint="the disk may be failing", where=str(path)
    )


class FullDiskError(DeviceError):
    """There is no space left for it."""
