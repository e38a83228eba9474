"""What pins a plan's inputs: digests of files and folders, versions of packages."""

from __future__ import annotations

import functools
import importlib.metadata
from pathlib import Path

from edgekit.wire.canonical import digest_of, sha256_file


def content_sha256(path: Path) -> str:
    """Digest of a file, or of all files below a folder with their names."""
    if path.is_file():
        return sha256_file(path)
    if not path.is_dir():
        return "missing"
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return digest_of([[str(p.relative_to(path)), sha256_file(p)] for p in files])


def digest_files(files: list[Path]) -> str:
    """Digest of files with their names, shortened."""
    entries = sorted((path.name, sha256_file(path)) for path in set(files) if path.is_file())
    return digest_of(entries)[:16]


@functools.cache
def version_of(package: str) -> str | None:
    """Return the installed version of a package without its local part, or None."""
    try:
        return importlib.metadata.version(package).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None
