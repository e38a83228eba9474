"""Sources: one string with a scheme names what a build fetches, and a sha256 pins it.

To add a scheme, add ``edgekit/toolchain/sources/<scheme>.py`` with

- ``SYNTAX`` and ``EXAMPLE``: what its URIs look like;
- ``describe(ref) -> str``: the package URL (purl) that stands in the SBOM; reads nothing;
- ``fetch(ref, context) -> Path``: the file or folder, taken from the cache where it is there.

Files whose names start with an underscore are shared between schemes and are none themselves.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

from edgekit.toolchain.cache import Cache
from edgekit.toolchain.events import OnEvent
from edgekit.toolchain.recipe import SourceRef
from edgekit.toolchain.sources._context import Context
from edgekit.wire.errors import ConfigError, did_you_mean

__all__ = ["Context", "describe", "fetch", "scheme_names", "scheme_of"]


def scheme_names() -> list[str]:
    """Return the names of all schemes."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def fetch(ref: SourceRef, *, cache: Cache, folder: Path, on_event: OnEvent, offline: bool) -> Path:
    """Return the file or folder that a source names; fetch it if the cache does not have it.

    What is cached needs neither a network nor the registry's client.

    Args:
        ref: The source.
        cache: Where it is kept.
        folder: Where relative paths start: the recipe's folder.
        on_event: Hears of progress, in bytes.
        offline: Never use the network.

    Returns:
        A file or a folder that must not be changed. For ``torch:``, the recipe's folder.

    Raises:
        ConfigError: The URI is malformed, has no sha256, or names a file that is not there.
        MissingToolError: The client of a registry is not installed.
        BuildError: No network, no such package, damaged archive, full disk.
        TrustError: The sha256 is another one, or an archive is hostile. Nothing is kept.
    """
    context = Context(cache=cache, folder=folder, on_event=on_event, offline=offline)
    path: Path = scheme_of(ref).fetch(ref, context)
    return path


def describe(ref: SourceRef) -> str:
    """Return the package URL (purl) of a source: ``pkg:pypi/magika@1.0.3?checksum=…``.

    Raises:
        ConfigError: The URI is malformed.
    """
    purl: str = scheme_of(ref).describe(ref)
    return purl


def scheme_of(ref: SourceRef) -> ModuleType:
    """Return the module of a source's scheme.

    Raises:
        ConfigError: There is no such scheme.
    """
    scheme, colon, _ = ref.uri.partition(":")
    known = scheme_names()
    if not colon or scheme not in known:
        close = did_you_mean(scheme, known)
        raise ConfigError(
            f'no scheme named "{scheme}"' if colon else f'"{ref.uri}" has no scheme',
            hint=f"did you mean {close}:?" if close and colon else f"schemes: {', '.join(known)}",
            where=ref.where,
        )
    return importlib.import_module(f"{__name__}.{scheme}")
