"""What every scheme is given, and the steps that they share: pinned download, unpacking, purls."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from edgekit.toolchain.cache import Cache
from edgekit.toolchain.events import Event, OnEvent
from edgekit.toolchain.recipe import SourceRef
from edgekit.toolchain.sources._archive import Member, unpack
from edgekit.wire.canonical import digest_of, sha256_file
from edgekit.wire.errors import BuildError, ConfigError, TrustError

# Larger downloads are refused: no model for these devices is near it.
MAX_DOWNLOAD_BYTES = 4 << 30

# Downloads one file into the folder it is given, and returns it.
Download = Callable[[Path], Path]
# Opens an archive and gives its members.
OpenArchive = Callable[[Path], AbstractContextManager[Iterator[Member]]]


@dataclass(frozen=True)
class Context:
    """How a source is fetched.

    Attributes:
        cache: Where it is kept.
        folder: Where relative paths start.
        on_event: Hears of progress.
        offline: Never use the network.
        suffixes: When not empty, folders are unpacked with files of these suffixes alone.
    """

    cache: Cache
    folder: Path
    on_event: OnEvent
    offline: bool
    suffixes: tuple[str, ...] = ()

    def only(self, suffixes: Iterable[str]) -> Context:
        """Return this context with a choice of suffixes."""
        return dataclasses.replace(self, suffixes=tuple(suffixes))


def split_member(text: str) -> tuple[str, str | None]:
    """Split ``what!path/inside``.

    Returns:
        What stands before the first ``!``, and the path: None without ``!``, empty for the whole
        archive.
    """
    before, mark, member = text.partition("!")
    return before, member.strip("/") if mark else None


def download_pinned(ref: SourceRef, context: Context, download: Download) -> Path:
    """Return the downloaded file of a source; download and check it if it is not in the cache.

    Raises:
        ConfigError: The source has no sha256; the hint has the right one.
        BuildError: Offline and not cached.
        TrustError: The file has another sha256; it is not kept.
    """
    if not ref.sha256:
        _demand_sha256(ref, context, download)
    cached = context.cache.has("download", ref.sha256)
    if not cached and context.offline:
        raise BuildError(
            f"{ref.uri} is not in the cache, and this build is offline",
            hint="build once with the network; after that the cache serves it",
            where=ref.where,
        )

    def produce(folder: Path) -> None:
        file = download(folder)
        found = sha256_file(file)
        if found != ref.sha256:
            raise wrong_sha256(ref, found)

    started = time.monotonic()
    folder, _ = context.cache.stage("download", ref.sha256, produce)
    file = next(folder.iterdir())
    if not cached:
        size = file.stat().st_size
        seconds = time.monotonic() - started
        context.on_event(Event(ref.uri, "fetch", size, size, "bytes", seconds=seconds))
    return file


def wrong_sha256(ref: SourceRef, found: str) -> TrustError:
    """Return the error for content that is not what the recipe pins."""
    return TrustError(
        f"wrong sha256 of {ref.uri}: expected {ref.sha256}, got {found}; nothing was kept",
        hint="if the publisher replaced the file on purpose, check it and change the sha256",
        where=ref.where,
    )


def unpack_pinned(
    ref: SourceRef,
    context: Context,
    *,
    member: str,
    download: Download,
    opened: OpenArchive,
    strip: bool = False,
) -> Path:
    """Return a member of a pinned archive, unpacked in the cache.

    Args:
        ref: The source.
        context: How it is fetched.
        member: A file or folder inside; empty for all.
        download: Downloads the archive, where it is not in the cache.
        opened: Reads its members.
        strip: Paths start inside the archive's one top folder.

    Raises:
        ConfigError: The source has no sha256, or the archive has no such member.
        BuildError: The archive cannot be fetched, or is damaged.
        TrustError: Wrong sha256, or the archive is hostile.
    """
    if not ref.sha256:
        _demand_sha256(ref, context, download)
    key = digest_of([ref.sha256, member, strip, list(context.suffixes)])

    def produce(out: Path) -> None:
        archive = download_pinned(ref, context, download)
        with opened(archive) as members:
            unpack(
                members,
                out,
                member=member,
                strip=strip,
                suffixes=context.suffixes,
                archive_bytes=archive.stat().st_size,
                where=ref.where or ref.uri,
            )

    folder, cached = context.cache.stage("source", key, produce)
    if cached:
        context.on_event(Event(ref.uri, "fetch", cached=True))
    tree = folder / "tree"
    return tree if tree.is_dir() else next((folder / "file").iterdir())


def _demand_sha256(ref: SourceRef, context: Context, download: Download) -> None:
    """Raise the error for a source without a sha256; its hint has the right one."""

    def produce(folder: Path) -> None:
        file = download(folder)
        found = sha256_file(file)
        # It is kept under what it is, so that adding the line does not fetch it again.
        context.cache.stage("download", found, lambda out: _move(file, out))
        raise _missing_sha256(ref, f'add sha256 = "{found}"')

    if context.offline:
        raise _missing_sha256(ref, "build once with the network: the error then shows the sha256")
    context.cache.stage("unpinned", digest_of(ref.uri), produce)


def _missing_sha256(ref: SourceRef, hint: str) -> ConfigError:
    return ConfigError(f"{ref.uri} has no sha256", hint=hint, where=ref.where)


def _move(file: Path, folder: Path) -> None:
    file.rename(folder / file.name)


def purl(
    kind: str,
    name: str,
    version: str = "",
    *,
    namespace: str = "",
    qualifiers: Mapping[str, str] | None = None,
    subpath: str | None = None,
) -> str:
    """Return a package URL as https://github.com/package-url/purl-spec defines it.

    Args:
        kind: ``pypi``, ``npm``, ``deb``, ``huggingface``, ``generic``.
        name: The package.
        version: Its version, if it has one.
        namespace: ``@scope`` of npm, the distribution of deb, the owner on a hub.
        qualifiers: Empty values are left out.
        subpath: Path inside the package.
    """
    parts = [kind, *(quote(p, safe="") for p in namespace.split("/") if p), quote(name, safe="")]
    text = "pkg:" + "/".join(parts)
    if version:
        text += "@" + quote(version, safe="")
    given = sorted((k, v) for k, v in (qualifiers or {}).items() if v)
    if given:
        text += "?" + "&".join(f"{k}={quote(v, safe='/:')}" for k, v in given)
    if subpath:
        text += "#" + quote(subpath, safe="/")
    return text


def checksum(ref: SourceRef) -> dict[str, str]:
    """Return the purl qualifier of a source's sha256."""
    return {"checksum": f"sha256:{ref.sha256}"} if ref.sha256 else {}
