"""A fleet's folder: where its settings, store, keys and bundles lie.

Only its owner may look into it: it holds the key that gives orders and the broker's passwords.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgekit.wire.errors import ConfigError

SETTINGS_FILE = "fleet.toml"
_FOLDER_MODE = 0o700
_FILE_MODE = 0o600
_OTHERS = 0o077
LOG_BYTES = 4 << 20
_LEAST_BYTES = 1 << 20


@dataclass(frozen=True)
class FleetHome:
    """The places in a fleet's folder.

    Attributes:
        path: The folder.
    """

    path: Path

    @classmethod
    def open(cls, path: Path) -> FleetHome:
        """Open the folder of a fleet.

        Raises:
            ConfigError: There is no such folder, or it is no fleet's.
        """
        home = cls(path)
        if not home.settings_file.is_file():
            raise ConfigError(
                "no fleet lives in this folder",
                hint="`edgekit fleet up` makes one; --home names another folder",
                where=str(path),
            )
        return home

    @classmethod
    def create(cls, path: Path) -> FleetHome:
        """Make the folder and those in it, where they are not there yet; close those in it.

        Raises:
            ConfigError: It is no folder, or cannot be written.
        """
        home = cls(path)
        try:
            path.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
            store = home.database.parent
            for folder in (home.keys, home.broker, store, home.raw, home.bundles, home.run):
                folder.mkdir(mode=_FOLDER_MODE, exist_ok=True)
                if stat.S_IMODE(folder.stat().st_mode) & _OTHERS:
                    folder.chmod(_FOLDER_MODE)
        except OSError as error:
            raise ConfigError(
                f"the fleet's folder cannot be made: {error.strerror}",
                hint="--home names another one",
                where=str(path),
            ) from error
        return home

    @property
    def settings_file(self) -> Path:
        """``fleet.toml``."""
        return self.path / SETTINGS_FILE

    @property
    def alerts_file(self) -> Path:
        """``alerts.toml``, which need not be there."""
        return self.path / "alerts.toml"

    @property
    def keys(self) -> Path:
        """Folder of the key that signs orders."""
        return self.path / "keys"

    @property
    def broker(self) -> Path:
        """Folder of the broker's settings, passwords and rights."""
        return self.path / "broker"

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.path / "store" / "fleet.db"

    @property
    def raw(self) -> Path:
        """Folder of raw telemetry."""
        return self.path / "store" / "raw"

    @property
    def bundles(self) -> Path:
        """Folder of the bundles that devices are offered."""
        return self.path / "bundles"

    @property
    def run(self) -> Path:
        """Folder of what is true only while the fleet runs."""
        return self.path / "run"


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read; it is there whole or not at all.

    Raises:
        ConfigError: It cannot be written.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", where=str(path)) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def shorten_log(path: Path, most_bytes: int = LOG_BYTES) -> None:
    """Move what is in a long log to another file; who appends to it need not know."""
    try:
        if path.stat().st_size > most_bytes:
            shutil.copy(path, path.with_suffix(".log.1"))
            os.truncate(path, 0)
    except OSError:
        return  # there is none yet, or the disk is full: the next look does it


def room_hint(folder: Path) -> str | None:
    """Return what to do where a full disk explains a failure; None where it does not."""
    try:
        is_full = shutil.disk_usage(folder).free < _LEAST_BYTES
    except OSError:
        return None
    return "the disk is full: make room" if is_full else None
