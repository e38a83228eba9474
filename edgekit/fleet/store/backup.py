"""A copy of a fleet's folder while it runs, and a folder from such a copy."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import Any

from edgekit.fleet.home import FleetHome, write_private
from edgekit.wire.errors import ConfigError, TrustError

MANIFEST = "backup.json"
SCHEMA = "edgekit.fleet-backup/1"
MAX_MANIFEST_BYTES = 256 << 20
_CHUNK = 1 << 20


def backup(home: FleetHome, target: Path) -> int:
    """Copy a fleet into a new folder, at one moment of its store; it may be running.

    The folder holds the key of the orders and the passwords: only its owner may look into it.

    Args:
        home: The fleet.
        target: The new folder; it counts once ``backup.json`` is in it.

    Returns:
        The number of files.

    Raises:
        ConfigError: The folder is there already, or something cannot be copied.
    """
    try:
        target.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise ConfigError(f"cannot be made: {error.strerror}", where=str(target)) from error
    held = home.raw.parent / f".backup-{secrets.token_hex(4)}"
    try:
        held.mkdir(mode=0o700)
        (target / "store").mkdir(mode=0o700)
        _hold_raw(home, target / "store" / "fleet.db", held)
        shutil.copytree(held, target / "store" / "raw")
        for source in (home.settings_file, home.alerts_file):
            if source.is_file():
                shutil.copy2(source, target / source.name)
        for folder in (home.keys, home.broker, home.bundles):
            if folder.is_dir():
                shutil.copytree(folder, target / folder.name, symlinks=True)
        files = dict(_listed(target))
        document = {"schema": SCHEMA, "files": files}
        write_private(target / MANIFEST, json.dumps(document, indent=1, sort_keys=True).encode())
    except (OSError, shutil.Error, sqlite3.Error) as error:
        raise ConfigError(f"the backup failed: {error}", where=str(target)) from error
    finally:
        shutil.rmtree(held, ignore_errors=True)
    return len(files)


def restore(source: Path, path: Path) -> FleetHome:
    """Make a fleet's folder from a backup.

    Args:
        source: The backup.
        path: The new folder, which is not there yet.

    Raises:
        TrustError: It is no whole backup, or a file is not what it was.
        ConfigError: The folder is there already, or cannot be written.
    """
    files = _read_manifest(source)
    found = dict(_listed(source))
    found.pop(MANIFEST, None)
    for name in sorted({*files, *found}):
        if files.get(name) != found.get(name):
            raise TrustError("not what it was when it was backed up", where=str(source / name))
    if path.exists():
        raise ConfigError("the folder is there already", hint="name a new one", where=str(path))
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        part.mkdir(mode=0o700, parents=True)
        for name in files:
            (part / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.copy2(source / name, part / name)
        part.rename(path)
    except OSError as error:
        raise ConfigError(f"the restore failed: {error}", where=str(path)) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return FleetHome.create(path)


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


def _listed(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise TrustError("a link in a backup", where=str(path))
        if path.is_file():
            yield path.relative_to(folder).as_posix(), _sha256(path)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _read_manifest(source: Path) -> dict[str, str]:
    path = source / MANIFEST
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise TrustError("too large", where=str(path))
        document: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrustError("no whole backup", where=str(path)) from error
    files = document.get("files") if isinstance(document, dict) else None
    if not isinstance(files, dict) or document.get("schema") != SCHEMA:
        raise TrustError(f"not a {SCHEMA}", where=str(path))
    for name in files:
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts:
            raise TrustError("a name that leads out of the backup", where=str(path))
    return files
