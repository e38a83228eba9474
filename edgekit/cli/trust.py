"""Whose bundles a command takes: the keys it is given, or this machine's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekit.wire.bundle import Bundle
    from edgekit.wire.signing import PublicKey


def trusted_keys(keys: Sequence[Path], key_file: Path | None = None) -> list[PublicKey]:
    """Return the keys that are given or, if none is, this machine's own where it has one.

    Args:
        keys: Public keys, PEM.
        key_file: The own signing key, where it is not the settings'.

    Raises:
        TrustError: A file is not a key.
    """
    from edgekit.cli.commands.keys import own_key_file
    from edgekit.wire.signing import load_private_key, load_public_key

    if keys:
        return [load_public_key(path) for path in keys]
    own = own_key_file(key_file)
    return [load_private_key(own).public] if own.exists() else []


def open_trusted(bundle: Path, keys: Sequence[Path]) -> Bundle:
    """Open a bundle, verified against trusted keys.

    Args:
        bundle: An .ekb file.
        keys: Public keys; none means this machine's own.

    Raises:
        UsageError: There is no such file.
        TrustError: It is signed by nobody who is trusted, or a digest does not hold.
    """
    from edgekit.wire.bundle import open_bundle
    from edgekit.wire.errors import TrustError, UsageError

    if not bundle.is_file():
        raise UsageError("no such bundle", where=str(bundle), hint="`edgekit build` makes one")
    trusted = trusted_keys(keys)
    if not trusted:
        raise TrustError(
            "there is no key to trust",
            where=str(bundle),
            hint="give the signer's with --key PUB.pem",
        )
    return open_bundle(bundle, trusted)
