"""``https:`` fetches one file; a member after ``!`` is taken out of an archive."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from edgekit.toolchain.recipe import SourceRef
from edgekit.toolchain.sources._archive import open_archive
from edgekit.toolchain.sources._context import (
    Context,
    Download,
    checksum,
    download_pinned,
    purl,
    split_member,
    unpack_pinned,
    wrong_sha256,
)
from edgekit.toolchain.sources._http import Transfer, check_url
from edgekit.wire.canonical import digest_of, sha256_file
from edgekit.wire.errors import ConfigError

SYNTAX = "https://HOST/PATH[!path/in/archive]"
EXAMPLE = "https://models.example/detector-1.2.onnx"


def describe(ref: SourceRef) -> str:
    """Return a generic purl with the address in it."""
    url, member = _parse(ref)
    return purl(
        "generic",
        _file_name(url),
        qualifiers={"download_url": url, **checksum(ref)},
        subpath=member,
    )


def fetch(ref: SourceRef, context: Context) -> Path:
    """Return the file, or the member; see :func:`edgekit.toolchain.sources.fetch`."""
    url, member = _parse(ref)
    download = _downloader(ref, context, url)
    if member is None:
        return download_pinned(ref, context, download)
    return unpack_pinned(ref, context, member=member, download=download, opened=open_archive)


def _parse(ref: SourceRef) -> tuple[str, str | None]:
    url, member = split_member(ref.uri)
    if not urlsplit(url).hostname:
        raise ConfigError(f'"{ref.uri}" has no host', hint=SYNTAX, where=ref.where)
    check_url(url)
    return url, member


def _file_name(url: str) -> str:
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    return "".join(c if c.isalnum() or c in "._+-" else "_" for c in name).strip(".") or "file"


def _downloader(ref: SourceRef, context: Context, url: str) -> Download:
    def download(folder: Path) -> Path:
        part = context.cache.part_path(ref.sha256 or digest_of(url))
        resumed = part.exists()
        transfer = Transfer(url, part, ref.uri, context.on_event)
        transfer.run()
        if ref.sha256:
            found = sha256_file(part)
            if found != ref.sha256 and resumed:
                # What was kept of an earlier try may have been of another file: once more, whole.
                part.unlink()
                transfer.run()
                found = sha256_file(part)
            if found != ref.sha256:
                part.unlink()
                raise wrong_sha256(ref, found)
        return part.rename(folder / _file_name(url))

    return download
