"""Whose bundles a command takes: the keys it is given, or this machine's own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekit.wire.bundle import Bundle


def open_trusted(bundle: Path, keys: Sequence[Path]) -> Bundle:
    """Open a bundle, verified against trusted keys.

    Args:
        bundle: An .ekb file.
        keys: Public keys; none means this machine's own.

    Raises:
        TrustError: It is signed by nobody who is trusted, or a digest does not hold.
    """
    from edgekit.toolchain.settings import load_settings
    from edgekit.wire.bundle import open_bundle
    from edgekit.wire.errors import TrustError
    from edgekit.wire.signing import load_private_key, load_public_key

    if not bundle.is_file():
        raise TrustError("no such bundle", where=str(bundle), hint="`edgekit build` makes one")
    trusted = [load_public_key(path) for path in keys]
    if not keys:
        own = load_settings(Path.cwd(), {}, os.environ).key_file
        trusted = [load_private_key(own).public] if own.exists() else []
    if not trusted:
        raise TrustError(
            "there is no key to trust",
            where=str(bundle),
            hint="give the signer's with --key PUB.pem",
        )
    return open_bundle(bundle, trusted)
