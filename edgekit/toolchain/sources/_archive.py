"""Unpack archives that nobody vouches for: bounded, and never outside their folder."""

from __future__ import annotations

import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from edgekit.wire.errors import BuildError, ConfigError, TrustError, did_you_mean

MAX_MEMBERS = 200_000
MAX_NAME_CHARS = 1024
# Weights hardly compress; a text data set does by 20. The floor lets small archives be odd.
MAX_RATIO = 100
FLOOR_BYTES = 512 << 20
MAX_TOTAL_BYTES = 8 << 30
_CHUNK_BYTES = 1 << 20
# NotImplementedError is zipfile's word for a compression that it does not know.
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
)
_NAMES_KEPT = 5000


@dataclass(frozen=True)
class Member:
    """One file of an archive.

    Attributes:
        name: As it stands in the archive.
        size_bytes: As the archive claims.
        regular: False for folders, links and devices.
        open: Opens it for reading; only until the next member is asked for.
    """

    name: str
    size_bytes: int
    regular: bool
    open: Callable[[], IO[bytes]]


def limit_for(archive_bytes: int) -> int:
    """Return how many bytes an archive of some size may unpack to."""
    return min(MAX_TOTAL_BYTES, max(FLOOR_BYTES, MAX_RATIO * archive_bytes))


@contextmanager
def open_archive(path: Path) -> Iterator[Iterator[Member]]:
    """Open a zip, a wheel or a tar (plain, gz, bz2, xz).

    Raises:
        BuildError: It is neither, or damaged.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield _zip_members(archive)
        else:
            with tarfile.open(path) as tar:
                yield tar_members(tar)
    except (OSError, *_DAMAGED) as error:
        if not _is_damage(error):
            raise
        raise BuildError(
            f"not a readable archive, or a damaged one: {error}", where=path.name
        ) from error


def _is_damage(error: Exception) -> bool:
    # gzip and bz2 report damaged data as an OSError that no system call made.
    return not isinstance(error, OSError) or error.errno is None


def _zip_members(archive: zipfile.ZipFile) -> Iterator[Member]:
    for info in archive.infolist():
        if info.flag_bits & 1:
            raise BuildError(f"{info.filename} is encrypted", where=archive.filename)
        kind = stat.S_IFMT(info.external_attr >> 16)
        regular = not info.is_dir() and kind in {0, stat.S_IFREG}
        yield Member(
            info.filename,
            info.file_size,
            regular,
            lambda info=info: archive.open(info),  # type: ignore[misc]
        )


def tar_members(tar: tarfile.TarFile) -> Iterator[Member]:
    """Iterate over the members of an open tar, in its order."""
    for info in tar:
        yield Member(
            info.name,
            info.size,
            info.isreg(),
            lambda info=info: _opened(tar, info),  # type: ignore[misc]
        )


def _opened(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(info)
    if file is None:
        raise BuildError(f"{info.name} is not a file")
    return file


def unpack(
    members: Iterator[Member],
    out: Path,
    *,
    member: str,
    strip: bool,
    archive_bytes: int,
    suffixes: tuple[str, ...] = (),
    where: str = "",
) -> None:
    """Unpack a file, a folder or everything.

    Links and devices are left out. File modes and times are not kept.

    Args:
        members: The archive's members.
        out: An empty folder: gets ``file/<name>`` if the member is a file, else ``tree/…``.
        member: Path inside the archive; empty for everything.
        strip: Paths start inside the archive's one top folder.
        archive_bytes: Size of the archive; bounds what may come out of it.
        suffixes: When not empty, a folder gives files of these suffixes alone.
        where: The place for errors.

    Raises:
        ConfigError: There is no such member.
        BuildError: The archive is damaged.
        TrustError: A name leads outside the folder or stands there twice, or the archive unpacks to
            far more than its size allows.
    """
    wanted = safe_parts(member, where) if member else ()
    budget = _Budget(limit_for(archive_bytes), where)
    names: list[str] = []
    found = False
    try:
        for entry in members:
            budget.count(entry)
            parts = safe_parts(entry.name, where)[1 if strip else 0 :]
            if not entry.regular or not parts or parts[: len(wanted)] != wanted:
                if entry.regular and len(names) < _NAMES_KEPT:
                    names.append("/".join(parts))
                continue
            inside = parts[len(wanted) :]
            if inside and suffixes and not parts[-1].endswith(suffixes):
                continue
            found = True
            _write(
                entry,
                (out / "tree").joinpath(*inside) if inside else out / "file" / parts[-1],
                budget,
                where,
            )
            if not inside:
                return
    except (OSError, *_DAMAGED) as error:
        if not _is_damage(error):
            raise
        raise BuildError(f"the archive is damaged: {error}", where=where) from error
    if not found and member:
        close = did_you_mean(member, names)
        hint = f"did you mean {close}?" if close else f"the archive starts with {names[:3]}"
        raise ConfigError(f"no file {member} in the archive", hint=hint, where=where)
    (out / "tree").mkdir(exist_ok=True)


def safe_parts(name: str, where: str = "") -> tuple[str, ...]:
    """Split a member's name; refuse one that leads outside the folder.

    Raises:
        TrustError: The name is absolute, climbs, is overlong or holds a NUL or a backslash.
    """
    bad = name.startswith("/") or "\\" in name or "\0" in name or len(name) > MAX_NAME_CHARS
    parts = tuple(part for part in name.split("/") if part not in {"", "."})
    if bad or ".." in parts or (parts and parts[0].endswith(":")):
        raise TrustError(f"hostile archive: it holds the name {name[:80]!r}", where=where)
    return parts


@dataclass
class _Budget:
    left_bytes: int
    where: str
    members: int = 0
    claimed_bytes: int = 0

    def count(self, entry: Member) -> None:
        # A member that is skipped is decompressed all the same, so what it claims counts.
        self.members += 1
        self.claimed_bytes += max(0, entry.size_bytes)
        if self.members > MAX_MEMBERS or self.claimed_bytes > self.left_bytes:
            raise self._refusal()

    def take(self, size: int) -> None:
        self.left_bytes -= size
        self.claimed_bytes -= size
        if self.left_bytes < 0:
            raise self._refusal()

    def _refusal(self) -> TrustError:
        return TrustError(
            "hostile archive: it unpacks to far more than its size allows", where=self.where
        )


def _write(entry: Member, path: Path, budget: _Budget, where: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with entry.open() as source, path.open("xb") as target:
            while chunk := source.read(_CHUNK_BYTES):
                budget.take(len(chunk))
                target.write(chunk)
    except (FileExistsError, NotADirectoryError) as error:
        raise TrustError(
            f"hostile archive: it holds {entry.name[:80]!r} twice", where=where
        ) from error
