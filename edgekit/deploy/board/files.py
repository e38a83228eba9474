"""Files that come over: by their digest, from where an earlier try stopped.

``<prefix>/files/<sha256>/<name>`` is whole and checked; ``<prefix>/incoming/<sha256>`` is on its
way.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgekit.deploy.board.channel import BoardError, Channel, Request

MARKER = ".edgekit"
_CHUNK_BYTES = 1 << 18
_TELL_BYTES = 1 << 20
_LOCK_S = 45.0
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,199}")


def file_path(prefix: Path, sha256: str, name: str) -> Path:
    """Return where a whole file lies, or would."""
    if not _SHA256.fullmatch(sha256) or not _NAME.fullmatch(name):
        raise BoardError(f"no file's name: {name[:80]!r}")
    return prefix / "files" / sha256 / name


def prepare(prefix: Path) -> None:
    """Make the folder of the deployment, and take none that belongs to others."""
    with explaining(prefix):
        prefix.mkdir(parents=True, exist_ok=True)
        if not (prefix / MARKER).exists():
            if any(prefix.iterdir()):
                raise BoardError(
                    f"{prefix} holds files that edgekit did not put there",
                    hint="another --prefix, or empty that folder",
                )
            (prefix / MARKER).touch()
        for name in ("files", "incoming", "venvs"):
            (prefix / name).mkdir(exist_ok=True)


@contextlib.contextmanager
def alone(prefix: Path) -> Iterator[None]:
    """Hold the prefix while something in it changes; wait a while for who has it."""
    with explaining(prefix):
        lock = os.open(prefix / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        until = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise BoardError(
                        "another deployment is at work on this board",
                        hint="wait until it has ended",
                    ) from None
                time.sleep(0.2)
        yield
    finally:
        os.close(lock)


def have(request: Request) -> dict[str, Any]:
    """Say how much of each file is here: all of it, a part, or nothing."""
    prefix = Path(request["prefix"])
    found = []
    for item in request["files"]:
        path = file_path(prefix, item["sha256"], item["name"])
        part = prefix / "incoming" / item["sha256"]
        size = item["size_bytes"] if path.is_file() else _size(part)
        found.append(min(size, item["size_bytes"]))
    return {"have": found}


def put(request: Request, channel: Channel) -> dict[str, Any]:
    """Take files one behind the other, each from its offset on."""
    prefix = Path(request["prefix"])
    prepare(prefix)
    with alone(prefix):
        for item in request["files"]:
            with explaining(prefix):
                _receive(prefix, item, channel)
    return {}


def _receive(prefix: Path, item: dict[str, Any], channel: Channel) -> None:
    path = file_path(prefix, item["sha256"], item["name"])
    part = prefix / "incoming" / item["sha256"]
    offset, size_bytes = int(item["offset"]), int(item["size_bytes"])
    if not path.is_file() and _size(part) < offset:
        raise BoardError("the part of the file that was here has gone", hint="run it again")
    with part.open("r+b" if part.exists() else "w+b") as file:
        file.truncate(offset)
        file.seek(offset)
        _copy(channel, file, offset, size_bytes, item["name"])
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != item["sha256"]:
        part.unlink()
        raise BoardError(f"{item['name']} came over damaged", hint="run it again")
    part.chmod(0o644)
    path.parent.mkdir(exist_ok=True)
    part.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the medium."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _copy(channel: Channel, file: Any, offset: int, size_bytes: int, name: str) -> None:  # noqa: ANN401
    told = offset
    while offset < size_bytes:
        chunk = channel.read(min(_CHUNK_BYTES, size_bytes - offset))
        if not chunk:
            raise BoardError("the connection ended")
        file.write(chunk)
        offset += len(chunk)
        if offset - told >= _TELL_BYTES or offset == size_bytes:
            file.flush()
            channel.send(name=name, done=offset - told)
            told = offset


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


@contextlib.contextmanager
def explaining(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` into an error that says what to do."""
    try:
        yield
    except OSError as error:
        hint = "the disk may be failing, or mounted read-only"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(path if path.exists() else "/").free
            hint = f"free some space: {free >> 20} MiB are left"
        elif error.errno in (errno.EACCES, errno.EPERM):
            hint = "log in as root or as a user with sudo, or give a --prefix of your own"
        raise BoardError(
            f"{error.filename or path} cannot be written: {error.strerror}", hint=hint
        ) from error
