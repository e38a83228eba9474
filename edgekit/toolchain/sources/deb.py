"""``deb:`` takes a Debian package through apt, from the sources that this host has set up."""

from __future__ import annotations

import re
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit.toolchain.recipe import SourceRef
from edgekit.toolchain.sources._archive import Member, tar_members
from edgekit.toolchain.sources._client import only_file, run_client
from edgekit.toolchain.sources._context import (
    Context,
    checksum,
    purl,
    split_member,
    unpack_pinned,
)
from edgekit.wire.errors import BuildError, ConfigError, MissingToolError

SYNTAX = "deb:PACKAGE[:ARCH][=VERSION][!path/in/package]"
EXAMPLE = "deb:tuxpaint-stamps-default=2022.06.04-1!usr/share/tuxpaint/stamps"

_MISSING = "deb: sources need a Debian or Ubuntu host with apt-get and dpkg-deb"
_REFERENCE = re.compile(
    r"deb:(?P<name>[a-z0-9][a-z0-9+.-]+)(?::(?P<arch>[a-z0-9-]+))?"
    r"(?:=(?P<version>[0-9][A-Za-z0-9.+:~-]*))?"
)


def _parse(ref: SourceRef) -> tuple[str, str, str, str]:
    package, member = split_member(ref.uri)
    match = _REFERENCE.fullmatch(package)
    if match is None:
        raise ConfigError(f'"{ref.uri}" is malformed', hint=f"expected {SYNTAX}", where=ref.where)
    return match["name"], match["arch"] or "", match["version"] or "", member or ""


def describe(ref: SourceRef) -> str:
    """Return the purl."""
    name, arch, version, member = _parse(ref)
    return purl(
        "deb",
        name,
        version,
        namespace="debian",
        qualifiers={"arch": arch, **checksum(ref)},
        subpath=member or None,
    )


def fetch(ref: SourceRef, context: Context) -> Path:
    """Return the member or the unpacked folder; see :func:`edgekit.toolchain.sources.fetch`."""
    name, arch, version, member = _parse(ref)
    package = name + (f":{arch}" if arch else "") + (f"={version}" if version else "")

    def download(folder: Path) -> Path:
        # As root apt would change to a user of its own, who cannot write into our folder.
        run_client(
            ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", package],
            ref,
            folder=folder,
            missing=_MISSING,
            hint="`apt-get update` refreshes what apt offers; another version is another sha256",
        )
        return only_file(folder, ref, (".deb",))

    return unpack_pinned(ref, context, member=member, download=download, opened=_open_deb)


@contextmanager
def _open_deb(path: Path) -> Iterator[Iterator[Member]]:
    """Stream the files of a .deb: dpkg-deb knows its compressions, our code writes the files."""
    try:
        process = subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except FileNotFoundError as error:
        raise MissingToolError("dpkg-deb is not installed", hint=_MISSING) from error
    try:
        with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
            yield tar_members(tar)
    except tarfile.ReadError as error:
        raise BuildError("not a Debian package, or a damaged one", where=path.name) from error
    finally:
        if process.stdout is not None:
            process.stdout.close()
        process.kill()
        process.wait()
