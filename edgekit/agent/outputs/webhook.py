"""A webhook: every result as a POST with a JSON body.

Options:
    url: ``http://`` or ``https://``.
    headers: Sent along, such as ``{"authorization": "Bearer …"}``.
    timeout_s: For connecting, and for each wait, default 5.
    retries: More attempts after a failure that may pass (no answer, 429, 5xx), default 2.
    queue: Most results that wait; the oldest goes first; default 100.

A thread of its own sends, so that a slow receiver slows nothing down.
"""

from __future__ import annotations

import http.client
import json
import logging
import ssl
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from edgekit.agent.inputs.latest import Latest
from edgekit.agent.outputs import Result
from edgekit.runtime.options import Options
from edgekit.wire.errors import ConfigError

log = logging.getLogger(__name__)

_FIRST_WAIT_S, _CLOSE_S = 0.5, 5.0
_ANSWER_BYTES = 1 << 16


class Webhook:
    """The output; see the module's text for the options.

    Attributes:
        sent: Results that were taken.
        lost: Results that were refused or could not be delivered.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        timeout_s: float,
        retries: int,
        queue: int,
        first_wait_s: float = _FIRST_WAIT_S,
    ) -> None:
        parts = urlsplit(url)
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname or "", parts.port
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = {**headers, "content-type": "application/json"}
        self._timeout_s, self._retries, self._first_wait_s = timeout_s, retries, first_wait_s
        self._waiting: Latest[bytes] = Latest(queue)
        self._stop = threading.Event()
        self.sent = 0
        self._failed = 0
        self._thread = threading.Thread(target=self._work, name="webhook", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Results that were refused, could not be delivered or found no room."""
        return self._failed + self._waiting.dropped

    def send(self, result: Result) -> None:
        """Queue one result."""
        self._waiting.put(json.dumps(result, separators=(",", ":")).encode())

    def close(self) -> None:
        """Send what is waiting, for five seconds at most."""
        self._waiting.close()
        self._thread.join(_CLOSE_S)
        self._stop.set()

    def _work(self) -> None:
        while not self._waiting.ended and not self._stop.is_set():
            body = self._waiting.take(1.0)
            if body is not None:
                self._deliver(body)

    def _deliver(self, body: bytes) -> None:
        wait_s = self._first_wait_s
        reason = ""
        for attempt in range(self._retries + 1):
            if attempt and self._stop.wait(wait_s * 2 ** (attempt - 1)):
                break
            try:
                status = self._post(body)
            except (OSError, http.client.HTTPException) as error:
                reason = str(error) or type(error).__name__
                continue
            if 200 <= status < 300:  # noqa: PLR2004
                self.sent += 1
                return
            reason = f"status {status}"
            if status != 429 and status < 500:  # noqa: PLR2004 - it will not pass
                break
        self._failed += 1
        if self._failed == 1 or self._failed % 1000 == 0:
            log.warning("webhook %s: %s; %d results lost", self._host, reason, self._failed)

    def _post(self, body: bytes) -> int:
        connection: http.client.HTTPConnection
        if self._secure:
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(
                self._host, self._port, timeout=self._timeout_s, context=context
            )
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        try:
            connection.request("POST", self._path, body, self._headers)
            answer = connection.getresponse()
            answer.read(_ANSWER_BYTES)
            return answer.status
        finally:
            connection.close()


def create(options: Mapping[str, Any]) -> Webhook:
    """Make the output; see the module's text for the options.

    Raises:
        ConfigError: An option is wrong.
    """
    opts = Options(options, "output webhook")
    url = opts.get("url", str)
    headers = opts.get("headers", dict, {})
    timeout_s = opts.within("timeout_s", 0.1, 60, 5)
    retries = int(opts.within("retries", 0, 10, 2))
    queue = int(opts.within("queue", 1, 10_000, 100))
    opts.close()
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good or not url.isascii() or not url.isprintable() or " " in url:
        raise ConfigError(f'output webhook: "url" is {url!r}', hint="http://host:port/path")
    texts = (text for pair in headers.items() for text in pair)
    if not all(isinstance(t, str) and t.isprintable() and t.isascii() for t in texts):
        raise ConfigError('output webhook: "headers" must be plain strings')
    return Webhook(url, headers, timeout_s=timeout_s, retries=retries, queue=queue)
