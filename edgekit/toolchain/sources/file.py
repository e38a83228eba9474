"""``file:`` names a file or a folder; relative paths start at the recipe's folder."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from edgekit.toolchain.recipe import SourceRef
from edgekit.toolchain.sources._archive import open_archive
from edgekit.toolchain.sources._context import (
    Context,
    checksum,
    purl,
    split_member,
    unpack_pinned,
    wrong_sha256,
)
from edgekit.toolchain.sources._local import content_sha256
from edgekit.wire.errors import ConfigError

SYNTAX = "file:PATH[!path/in/archive]"
EXAMPLE = "file:digits_cnn.onnx"


def _parse(ref: SourceRef) -> tuple[str, str | None]:
    path, member = split_member(ref.uri.removeprefix("file:"))
    if not path or "\0" in path:
        raise ConfigError(f'"{ref.uri}" names no file', hint=f"expected {SYNTAX}", where=ref.where)
    return path, member


def describe(ref: SourceRef) -> str:
    """Return a generic purl of the file's name; the path to it stays private."""
    path, member = _parse(ref)
    return purl("generic", Path(path).name or "folder", qualifiers=checksum(ref), subpath=member)


def fetch(ref: SourceRef, context: Context) -> Path:
    """Return the file or folder where it stands; with a sha256, checked against it."""
    name, member = _parse(ref)
    path = context.folder / Path(name).expanduser()
    if not path.exists():
        raise ConfigError(
            f"no such file: {path}",
            hint=f"relative paths start at {context.folder}",
            where=ref.where,
        )
    if member is None:
        if ref.sha256:
            found = content_sha256(path, context.cache)
            if found != ref.sha256:
                raise wrong_sha256(ref, found)
        return path
    pinned = SourceRef(ref.uri, ref.sha256 or content_sha256(path, context.cache), ref.where)

    def download(folder: Path) -> Path:
        return Path(shutil.copyfile(path, folder / path.name))

    # It lies on this machine: no network is needed.
    here = dataclasses.replace(context, offline=False)
    return unpack_pinned(pinned, here, member=member, download=download, opened=open_archive)
