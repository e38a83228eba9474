"""Digests of files that lie on this machine, remembered so that large ones are read once."""

from __future__ import annotations

import time
from pathlib import Path

from edgekit.toolchain.cache import Cache
from edgekit.wire.canonical import digest_of, sha256_file
from edgekit.wire.errors import BuildError, ConfigError

# Below this, reading the file again is as cheap as remembering it.
_REMEMBERED_BYTES = 4 << 20
# A file this young may still change without its time stamp telling.
_SETTLED_S = 2.0


def content_sha256(path: Path, cache: Cache) -> str:
    """Return the digest of a file, or of all files below a folder with their names.

    Args:
        path: The file or folder.
        cache: Remembers the digests of large files by path, size, inode and time of change.
    """
    if path.is_file():
        return _file(path, cache)
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return digest_of([[p.relative_to(path).as_posix(), _file(p, cache)] for p in files])


def _file(path: Path, cache: Cache) -> str:
    status = path.stat()
    settled = time.time() - max(status.st_mtime, status.st_ctime) > _SETTLED_S
    if status.st_size < _REMEMBERED_BYTES or not settled:
        return sha256_file(path)
    stamp = [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]
    key = digest_of([str(path.resolve()), stamp])

    def produce(out: Path) -> None:
        (out / "sha256").write_text(sha256_file(path), encoding="ascii")

    try:
        folder, _ = cache.stage("digest", key, produce)
    except (BuildError, ConfigError):
        return sha256_file(path)  # a full or read-only cache costs time, nothing else
    return (folder / "sha256").read_text(encoding="ascii")
