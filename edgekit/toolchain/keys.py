"""The signing keys of this machine: made once, kept private, never in a cache.

There is no unsigned path: the first build makes a developer key. Two builds that start at once
agree on one: a complete file appears under the key's name, and whoever comes second reads it.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from edgekit.wire.errors import TrustError, UsageError
from edgekit.wire.signing import PrivateKey, generate_key, key_name, load_private_key

KEY_FILE_VARIABLE = "EDGEKIT_KEY_FILE"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def signing_key(key_file: Path, env: Mapping[str, str]) -> tuple[PrivateKey, bool]:
    """Return the key that this machine signs with; make the developer key where there is none.

    Args:
        key_file: The settings' key file.
        env: The environment. With ``EDGEKIT_KEY_FILE`` in it no key is made: CI signs with the
            key that it was given, or not at all.

    Returns:
        The key, and True if it was made just now.

    Raises:
        TrustError: The key is readable by others, of another kind, missing where the environment
            names it, or cannot be written.
    """
    if _is_there(key_file):
        return load_private_key(key_file), False
    if env.get(KEY_FILE_VARIABLE):
        raise TrustError(
            f"no such key file, and {KEY_FILE_VARIABLE} is set",
            hint="write the key there with mode 0600 (`edgekit keys create` makes a new one), or "
            "unset the variable",
            where=str(key_file),
        )
    return create_key(key_file)


def create_key(key_file: Path) -> tuple[PrivateKey, bool]:
    """Make a key at mode 0600, unless another process has just made it.

    Args:
        key_file: Where it goes; its folder is made at mode 0700.

    Returns:
        The key in the file, and True if this call made it.

    Raises:
        TrustError: The folder cannot be written.
    """
    key = generate_key(key_name(key_file))
    partial = key_file.with_name(f".{key_file.name}.{secrets.token_hex(4)}.part")
    try:
        key_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_private(partial, key.to_pem())
        try:
            # A link fails where the name is taken, and shows a complete file where it is not.
            os.link(partial, key_file)
        except FileExistsError:
            return load_private_key(key_file), False
    except OSError as error:
        raise TrustError(
            f"the signing key cannot be written: {error.strerror}",
            hint=f"{KEY_FILE_VARIABLE} names a key elsewhere",
            where=str(key_file),
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
    return key, True


def key_files(folder: Path) -> list[Path]:
    """Return the signing keys in a folder, by name."""
    try:
        found = sorted(folder.glob("*.pem"))
    except OSError:
        return []
    return [path for path in found if not path.name.endswith(".pub.pem") and path.is_file()]


def named_key_file(key_file: Path, name: str | None) -> Path:
    """Return the file of a key by its name; the settings' own key without one.

    Args:
        key_file: The settings' key file; other keys stand beside it.
        name: ``release`` for ``release.pem``.

    Raises:
        UsageError: The name is not a plain one.
    """
    if name is None:
        return key_file
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a key's name", hint="letters, digits, - and _ make a name"
        )
    return key_file.with_name(f"{name}.pem")


def _write_private(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        # Not searchable: reading or writing it says why.
        return False
