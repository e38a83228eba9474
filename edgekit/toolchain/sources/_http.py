"""Download over HTTP: resumed, bounded, retried; redirects lead to https alone."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from edgekit.toolchain.events import Event, OnEvent
from edgekit.toolchain.sources._context import MAX_DOWNLOAD_BYTES
from edgekit.wire.errors import BuildError, ConfigError, MissingToolError, TrustError

if TYPE_CHECKING:
    import httpx

# Waits between tries, seconds.
BACKOFF_S = (0.5, 2.0, 6.0)
MAX_REDIRECTS = 8
TIMEOUT_S = 60.0
_TOLD_BYTES = 1 << 18
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
_OK, _PARTIAL, _RANGE_NOT_SATISFIABLE = 200, 206, 416
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class _TryAgainError(Exception):
    """This try failed in a way that the next may not."""


@dataclass(frozen=True)
class Transfer:
    """One download.

    Attributes:
        url: Where from.
        part: File that holds what has come so far.
        subject: Its name in events.
        on_event: Hears of progress.
        limit_bytes: Largest file that is taken.
        sleep: Waits between tries.
    """

    url: str
    part: Path
    subject: str
    on_event: OnEvent
    limit_bytes: int = MAX_DOWNLOAD_BYTES
    sleep: Callable[[float], None] = time.sleep

    def run(self) -> None:
        """Download until the part is whole.

        Raises:
            ConfigError: The server does not have the file.
            MissingToolError: httpx is not installed.
            BuildError: No network, or the server fails over and over.
            TrustError: A redirect to plain http, or the file is over the limit.
        """
        check_url(self.url)
        client_library = _import_httpx()
        with client_library.Client(timeout=TIMEOUT_S, follow_redirects=False) as client:
            for wait in (*BACKOFF_S, None):
                try:
                    self._once(client)
                except (client_library.TransportError, _TryAgainError) as error:
                    if wait is None:
                        raise BuildError(
                            f"{self.url} cannot be fetched: {error or type(error).__name__}",
                            hint="no network? What is in the cache builds without it (--offline)",
                        ) from error
                    self.sleep(wait)
                else:
                    return

    def _once(self, client: httpx.Client) -> None:
        url = self.url
        for _ in range(MAX_REDIRECTS):
            have = self.part.stat().st_size if self.part.exists() else 0
            # identity: a range counts bytes of the file as it is, not of a compressed form.
            headers = {"Accept-Encoding": "identity"}
            if have:
                headers["Range"] = f"bytes={have}-"
            with client.stream("GET", url, headers=headers) as response:
                if response.status_code in _REDIRECTS:
                    url = urljoin(url, response.headers.get("location", ""))
                    check_url(url)
                    continue
                return self._take(response, have)
        raise BuildError(f"{self.url} redirects over {MAX_REDIRECTS} times")

    def _take(self, response: httpx.Response, have: int) -> None:
        status = response.status_code
        if status == _RANGE_NOT_SATISFIABLE:
            # The part is as long as the file, or longer: it is whole, or of no use.
            if response.headers.get("content-range", "") == f"bytes */{have}":
                return
            self.part.unlink(missing_ok=True)
            raise _TryAgainError("the part that was kept does not fit")
        if status in _RETRIED:
            raise _TryAgainError(f"the server answered {status}")
        if status not in {_OK, _PARTIAL}:
            raise ConfigError(f"{self.url}: the server answered {status}", hint="check the address")
        if status == _OK or not response.headers.get("content-range", "").startswith(
            f"bytes {have}-"
        ):
            if status == _PARTIAL:
                self.part.unlink(missing_ok=True)
                raise _TryAgainError("the server sent another range than it was asked for")
            have = 0
        total = _total(response, have)
        if total is not None and total > self.limit_bytes:
            raise self._too_large()
        with self.part.open("ab" if have else "wb") as file:
            told = have
            # Without a chunk size: httpx would lose what it had gathered when the line breaks.
            for chunk in response.iter_raw():
                have += len(chunk)
                if have > self.limit_bytes:
                    raise self._too_large()
                file.write(chunk)
                if have - told >= _TOLD_BYTES or have == total:
                    told = have
                    self.on_event(Event(self.subject, "fetch", have, total, "bytes"))

    def _too_large(self) -> TrustError:
        self.part.unlink(missing_ok=True)
        limit_mib = self.limit_bytes / 2**20
        return TrustError(f"{self.url} is over {limit_mib:.0f} MiB; nothing was kept")


def check_url(url: str) -> None:
    """Refuse what is not https; plain http is for this machine alone.

    Raises:
        TrustError: Another protocol, or plain http to another machine.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https" and host:
        return
    if parts.scheme == "http" and _is_loopback(host):
        return
    raise TrustError(
        f"refused: {url} is not https", hint="plain http is for a server on this machine alone"
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _total(response: httpx.Response, have: int) -> int | None:
    length = response.headers.get("content-length", "")
    return have + int(length) if length.isdecimal() else None


def _import_httpx() -> ModuleType:
    try:
        import httpx
    except ImportError as error:
        raise MissingToolError(
            "downloads need httpx", hint='pip install "edgekit[build]"'
        ) from error
    return httpx
