"""A copy of a fleet's folder while it runs, and a folder from such a copy."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from edgekit.fleet.home import FleetHome, write_private
from edgekit.wire.errors import ConfigError, TrustError

MANIFEST = "backup.json"
SCHEMA = "edgekit.fleet-backup/1"
MAX_MANIFEST_BYTES = 256 << 20
_CHUNK = 1 << 20

# Hears how many bytes of how many are copied.
Tell = Callable[[int, int], None]


def backup(home: FleetHome, target: Path, tell: Tell | None = None) -> int:
    """Copy a fleet into a new folder, at one moment of its store; it may be running.

    The folder holds the key of the orders and the passwords: only its owner may look into it.

    Args:
        home: The fleet.
        target: The new folder; it counts once ``backup.json`` is in it.
        tell: Hears of the progress.

    Returns:
        The number of files.

    Raises:
        ConfigError: The folder is there already, or something cannot be copied; nothing is left
            of it then.
    """
    try:
        target.mkdir(mode=0o700, parents=True)
    except FileExistsError as error:
        raise ConfigError(
            "it is there already", hint="name a new one", where=str(target)
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot be made: {error.strerror}", where=str(target)) from error
    held = home.raw.parent / f".backup-{secrets.token_hex(4)}"
    with _undone(target, "the backup failed", target):
        try:
            held.mkdir(mode=0o700)
            (target / "store").mkdir(mode=0o700)
            database = target / "store" / "fleet.db"
            _hold_raw(home, database, held)
            files = {"store/fleet.db": _sha256(database)}
            files |= _copy_all(_sources(home, held), target, tell)
            document = {"schema": SCHEMA, "files": files}
            text = json.dumps(document, indent=1, sort_keys=True)
            write_private(target / MANIFEST, text.encode())
        finally:
            shutil.rmtree(held, ignore_errors=True)
    return len(files)


def restore(source: Path, path: Path, tell: Tell | None = None) -> FleetHome:
    """Make a fleet's folder from a backup.

    Args:
        source: The backup.
        path: The new folder, which is not there yet.
        tell: Hears of the progress.

    Raises:
        TrustError: It is no whole backup, or a file is not what it was.
        ConfigError: The folder is there already, or cannot be written.
    """
    files = _read_manifest(source)
    found = {name for name, _ in _listed(source)} - {MANIFEST}
    for name in sorted(found ^ set(files)):
        raise TrustError(
            "not in the backup's list" if name in found else "missing from the backup",
            hint="restore another backup",
            where=str(source / name),
        )
    if path.exists():
        raise ConfigError(
            "the folder is there already", hint="--home names a new one", where=str(path)
        )
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    with _undone(part, "the restore failed", path):
        part.mkdir(mode=0o700, parents=True)
        copied = _copy_all({name: source / name for name in files}, part, tell)
        for name, digest in copied.items():
            if digest != files[name]:
                raise TrustError(
                    "not what it was when it was backed up",
                    hint="restore another backup",
                    where=str(source / name),
                )
        part.rename(path)
    return FleetHome.create(path)


@contextmanager
def _undone(folder: Path, what: str, where: Path) -> Iterator[None]:
    """Leave nothing of a new folder behind where the body fails."""
    try:
        yield
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if not isinstance(error, OSError | sqlite3.Error):
            raise
        is_full = isinstance(error, sqlite3.Error) or error.errno == errno.ENOSPC
        hint = "name a folder on a disk with more room" if is_full else None
        raise ConfigError(f"{what}: {error}", hint=hint, where=str(where)) from error


def _hold_raw(home: FleetHome, copy: Path, held: Path) -> None:
    """Copy the database, and link the files that it names before upkeep may delete them."""
    with closing(sqlite3.connect(home.database)) as store, closing(sqlite3.connect(copy)) as copied:
        store.backup(copied)
        # The copy is one file: no -wal beside it.
        copied.execute("PRAGMA journal_mode = DELETE")
        copied.execute("DELETE FROM raw_files WHERE gone_s IS NOT NULL")
        copied.commit()
        names = [str(name) for (name,) in copied.execute("SELECT name FROM raw_files")]
    copy.chmod(0o600)
    for name in names:
        (held / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.link(home.raw / name, held / name)


def _sources(home: FleetHome, held: Path) -> dict[str, Path]:
    """Return what is copied beside the database: name in the backup to file."""
    found = {f"store/raw/{name}": path for name, path in _listed(held)}
    for file in (home.settings_file, home.alerts_file):
        if file.is_file():
            found[file.name] = file
    for folder in (home.keys, home.broker, home.bundles):
        # What is being written goes by another name when it is whole.
        parts = ((name, path) for name, path in _listed(folder) if path.suffix != ".part")
        found |= {f"{folder.name}/{name}": path for name, path in parts}
    return found


def _listed(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise TrustError("a link, which no backup holds", where=str(path))
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path


def _copy_all(sources: Mapping[str, Path], folder: Path, tell: Tell | None) -> dict[str, str]:
    """Copy files, durably, and return the digest of each."""
    total = sum(path.stat().st_size for path in sources.values())
    done = 0
    digests: dict[str, str] = {}
    for name, source in sources.items():
        target = folder / name
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        digest = hashlib.sha256()
        for chunk in _copied(source, target):
            digest.update(chunk)
            done += len(chunk)
            if tell is not None:
                tell(done, max(done, total))
        digests[name] = digest.hexdigest()
    return digests


def _copied(source: Path, target: Path) -> Iterator[bytes]:
    opened = os.open(source, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(opened, "rb") as file:
        mode = os.fstat(file.fileno()).st_mode & 0o700
        made = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(made, "wb") as copy:
            while chunk := file.read(_CHUNK):
                copy.write(chunk)
                yield chunk
            copy.flush()
            os.fsync(copy.fileno())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_manifest(source: Path) -> dict[str, str]:
    path = source / MANIFEST
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
        document: Any = json.loads(data) if len(data) <= MAX_MANIFEST_BYTES else None
    except (OSError, ValueError) as error:
        raise TrustError(
            "no whole backup", hint="`edgekit fleet backup` makes one", where=str(path)
        ) from error
    files = document.get("files") if isinstance(document, dict) else None
    if not isinstance(files, dict) or document.get("schema") != SCHEMA:
        raise TrustError(f"not a {SCHEMA}", where=str(path))
    for name in files:
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts:
            raise TrustError("a name that leads out of the backup", where=str(path))
    return files
