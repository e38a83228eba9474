"""The bundles that a fleet offers: put aside once, then served over HTTP by their digest.

A device fetches ``GET /bundles/<sha256>.ekb``, from where it stopped (``Range: bytes=N-``). The
name is the digest that its signed order tells, so the transport need not be trusted; nobody can
list what is there. The handler is plain ASGI and may be mounted anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import stat
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.wire.bundle import open_bundle
from edgekit.wire.canonical import sha256_file
from edgekit.wire.errors import ConfigError, TrustError, UsageError
from edgekit.wire.signing import PublicKey

MAX_DOWNLOADS = 64
CHUNK_BYTES = 256 * 1024
# A device that takes nothing for so long has gone.
STALL_S = 60.0
_NAME = re.compile(r"/?([0-9a-f]{64})\.ekb", re.ASCII)
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Offer:
    """A bundle that lies ready.

    Attributes:
        sha256: Of the whole file.
        size_bytes: Of the whole file.
        model: Its model: the slot on the device.
        target: The target it was built for.
        serial: Of its model.
        p95_limit_ms: The contract's limit of the p95 latency; None where it has none.
        signed_by: Label of the key.
    """

    sha256: str
    size_bytes: int
    model: str
    target: str
    serial: int
    p95_limit_ms: float | None
    signed_by: str


def read_offer(path: Path, keys: Sequence[PublicKey] | None) -> Offer:
    """Verify a bundle and say what it is.

    Args:
        path: The file.
        keys: Of which one must have signed it; None for a file that was verified when it was put
            aside.

    Raises:
        UsageError: There is no such file.
        TrustError: It is signed by nobody who is trusted, or a digest does not hold.
    """
    if not path.is_file():
        raise UsageError("no such bundle", where=str(path), hint="`edgekit build` makes one")
    with open_bundle(path, keys) as bundle:
        manifest, signer = bundle.manifest, bundle.signed_by
        limits = [
            line.maximum
            for line in manifest.contract
            if line.metric == "latency_p95_ms" and line.vs == "absolute" and line.maximum
        ]
        return Offer(
            sha256=bundle.sha256(),
            size_bytes=bundle.size_bytes,
            model=manifest.model,
            target=manifest.target.name,
            serial=manifest.serial,
            p95_limit_ms=min(limits, default=None),
            signed_by=signer.label if signer else "",
        )


def put_bundle(folder: Path, path: Path, keys: Sequence[PublicKey]) -> Offer:
    """Verify a bundle and put it where devices fetch it from. Doing it again changes nothing.

    Args:
        folder: Of the offered bundles.
        path: The bundle.
        keys: Of which one must have signed it.

    Raises:
        TrustError: As of :func:`read_offer`.
        ConfigError: The folder cannot be written.
    """
    offer = read_offer(path, keys)
    place = bundle_path(folder, offer.sha256)
    if place.is_file() and sha256_file(place) == offer.sha256:
        return offer
    part = folder / f".{offer.sha256}.{secrets.token_hex(4)}.part"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.open("rb") as source, part.open("xb") as sink:
            while chunk := source.read(1 << 20):
                sink.write(chunk)
            sink.flush()
            os.fsync(sink.fileno())
        if sha256_file(part) != offer.sha256:
            raise TrustError("the bundle changed while it was read", where=str(path))
        part.replace(place)
        _sync_folder(folder)
    except OSError as error:
        raise ConfigError(
            f"the bundle cannot be put there: {error.strerror}", where=str(folder)
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return offer


def bundle_path(folder: Path, sha256: str) -> Path:
    """Return where a bundle of this digest lies."""
    return folder / f"{sha256}.ekb"


def bundle_url(base: str, sha256: str) -> str:
    """Return where a device finds a bundle.

    Args:
        base: The fleet's address as devices reach it: ``http://fleet.lan:8070``.
        sha256: Of the bundle.
    """
    return f"{base.rstrip('/')}/bundles/{sha256}.ekb"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class BundleApp:
    """Serves a folder of bundles: an ASGI application for ``/bundles``.

    Args:
        folder: Where ``<sha256>.ekb`` files lie; nothing else in it is ever served.
        max_downloads: At once; a device that finds them taken comes again.
        stall_s: A device that takes nothing for so long is hung up on.
    """

    def __init__(
        self, folder: Path, *, max_downloads: int = MAX_DOWNLOADS, stall_s: float = STALL_S
    ) -> None:
        self._folder = folder
        self._free = max_downloads
        self._stall_s = stall_s

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        if scope["method"] not in {"GET", "HEAD"}:
            await _answer(send, 405, [(b"allow", b"GET, HEAD")])
            return
        # A mount may have left its prefix in the path.
        path = str(scope["path"]).removeprefix(str(scope.get("root_path", "")))
        name = _NAME.fullmatch(path.removeprefix("/bundles"))
        if name is None:
            await _answer(send, 404)
            return
        if self._free <= 0:
            await _answer(send, 503, [(b"retry-after", b"10")])
            return
        self._free -= 1
        try:
            await self._serve(scope, send, name.group(1))
        finally:
            self._free += 1

    async def _serve(self, scope: Scope, send: Send, sha256: str) -> None:
        try:
            descriptor = await asyncio.to_thread(_open, bundle_path(self._folder, sha256))
        except OSError:
            await _answer(send, 404)
            return
        try:
            size = os.fstat(descriptor).st_size
            etag = f'"{sha256}"'.encode()
            headers = {bytes(key).lower(): bytes(value) for key, value in scope["headers"]}
            found = _range(headers, size, etag)
            common = [
                (b"accept-ranges", b"bytes"),
                (b"etag", etag),
                # The name is the digest: what is behind it never changes.
                (b"cache-control", b"private, max-age=31536000, immutable"),
            ]
            if found is None:
                await _answer(send, 416, [*common, (b"content-range", f"bytes */{size}".encode())])
                return
            first, last, status = found
            if status == 206:  # noqa: PLR2004 - Partial Content
                common.append((b"content-range", f"bytes {first}-{last}/{size}".encode()))
            common.append((b"content-length", str(last - first + 1).encode()))
            common.append((b"content-type", b"application/octet-stream"))
            await send({"type": "http.response.start", "status": status, "headers": common})
            if scope["method"] == "HEAD":
                await send({"type": "http.response.body", "body": b""})
                return
            await self._pour(send, descriptor, first, last)
        finally:
            os.close(descriptor)

    async def _pour(self, send: Send, descriptor: int, first: int, last: int) -> None:
        offset = first
        while offset <= last:
            want = min(CHUNK_BYTES, last - offset + 1)
            chunk = await asyncio.to_thread(os.pread, descriptor, want, offset)
            if not chunk:
                # Shorter than it said: the server breaks the connection, and the device comes back.
                raise OSError("the bundle got shorter while it was sent")
            offset += len(chunk)
            body = {"type": "http.response.body", "body": chunk, "more_body": offset <= last}
            await asyncio.wait_for(send(body), self._stall_s)


def _open(path: Path) -> int:
    # No link leads out of the folder, and no pipe makes a thread wait.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(path)
    return descriptor


def _range(headers: dict[bytes, bytes], size: int, etag: bytes) -> tuple[int, int, int] | None:
    """Return first and last byte, and the status; None where the range cannot be had (RFC 9110)."""
    whole = (0, size - 1, 200)
    asked = headers.get(b"range")
    if asked is None or headers.get(b"if-range", etag) != etag:
        return whole
    match = _RANGE.fullmatch(asked.decode("latin-1").strip())
    if match is None or match.groups() == ("", ""):
        return whole  # several ranges, or another unit: a server may send it all
    first_text, last_text = match.groups()
    if not first_text:
        count = min(int(last_text), size)
        return (size - count, size - 1, 206) if count else None
    first = int(first_text)
    last = min(int(last_text), size - 1) if last_text else size - 1
    if first >= size:
        return None
    return whole if last < first else (first, last, 206)


async def _answer(send: Send, status: int, headers: Headers | None = None) -> None:
    lines = [(b"content-length", b"0"), *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    with contextlib.suppress(OSError):
        await send({"type": "http.response.body", "body": b""})
