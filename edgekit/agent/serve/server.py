"""The HTTP server: one thread with an event loop of its own, which costs nothing while idle.

uvicorn's ``Server`` wakes ten times a second, which is a third of a percent of a core; its protocol
alone does not.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from uvicorn.server import ServerState

from edgekit.agent.config import HttpTls
from edgekit.agent.engine import Engine
from edgekit.agent.serve.api import Api
from edgekit.agent.serve.asgi import App, BodyLimits, call_soon
from edgekit.agent.serve.protocol import Connection, Patience, make_config
from edgekit.wire.errors import ConfigError

log = logging.getLogger(__name__)

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
_SWEEP_S = 1.0
_BACKLOG = 128
_HANDSHAKE_S = 10.0


@dataclass(frozen=True)
class HttpSettings:
    """Where and how the agent serves HTTP.

    Attributes:
        host: Address to listen on. Loopback unless told otherwise.
        port: 0 takes a free one.
        token: Bearer token that requests must carry; None asks for none.
        body: Limits of bodies.
        patience: Timeouts and the number of connections.
        tls: Certificate and key for HTTPS; plain HTTP without.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    token: str | None = None
    body: BodyLimits = field(default_factory=BodyLimits)
    patience: Patience = field(default_factory=Patience)
    tls: HttpTls | None = None


class HttpServer:
    """Serves an engine over HTTP in a thread.

    Args:
        engine: What is served.
        settings: Where and how.
        healthy: Whether the agent as a whole is well.
        clock: Seconds that only grow; the engine's.
    """

    def __init__(
        self,
        engine: Engine,
        settings: HttpSettings | None = None,
        *,
        healthy: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings or HttpSettings()
        hosts = LOOPBACK if _is_loopback(self.settings.host) else None
        api = Api(engine, token=self.settings.token, hosts=hosts, healthy=healthy)
        self._clock = clock
        self._app = App(api, self.settings.body, clock)
        self._state = ServerState()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._grace_s = 0.0
        self._sweeping = False
        self._thread: threading.Thread | None = None
        self._asked_s: float | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """Address of the page."""
        host = self.settings.host
        scheme = "http" if self.settings.tls is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}/"

    def start(self) -> None:
        """Listen; requests are answered from here on.

        Raises:
            ConfigError: The address cannot be taken, or the certificate or its key cannot be read.
        """
        context = _context(self.settings.tls) if self.settings.tls is not None else None
        listening = _listen(self.settings.host, self.settings.port)
        self.port = listening.getsockname()[1]
        if self.settings.token is None and not _is_loopback(self.settings.host):
            log.warning(
                "%s is served without a token: everyone who reaches it may use it", self.url
            )
        started = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(listening, started, context)),
            name="http",
            daemon=True,
        )
        self._thread.start()
        started.wait()

    def silent_s(self) -> float:
        """Ask the server's thread for a sign of life; return for how long it has given none."""
        loop = self._loop
        if loop is None:
            return 0.0
        asked_s = self._asked_s
        if asked_s is None:
            asked_s = self._asked_s = self._clock()
            call_soon(loop, self._heard)
        return self._clock() - asked_s

    def _heard(self) -> None:
        self._asked_s = None

    def stop(self, grace_s: float = 5.0) -> None:
        """Take no more connections, answer what is under way, and end.

        Args:
            grace_s: What is not answered by then is cut off.
        """
        loop, stopping = self._loop, self._stopping
        if self._thread is None or loop is None or stopping is None:
            return
        self._grace_s = grace_s
        loop.call_soon_threadsafe(stopping.set)
        self._thread.join()
        self._thread = self._loop = None

    async def _serve(
        self, listening: socket.socket, started: threading.Event, context: ssl.SSLContext | None
    ) -> None:
        loop = self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        patience = self.settings.patience
        config = make_config(self._app, patience)
        server = await loop.create_server(
            lambda: Connection(config, self._state, patience, loop, self._watch),
            sock=listening,
            backlog=_BACKLOG,
            ssl=context,
            ssl_handshake_timeout=_HANDSHAKE_S if context is not None else None,
        )
        started.set()
        await self._stopping.wait()
        server.close()
        for connection in self._connections():
            connection.shutdown()
        end = loop.time() + self._grace_s
        while self._busy() and loop.time() < end:  # noqa: ASYNC110 - sets tell nobody that they are empty
            await asyncio.sleep(0.02)
        for connection in self._connections():
            connection.transport.abort()
        await asyncio.sleep(0)

    def _busy(self) -> bool:
        return bool(self._state.connections or self._state.tasks)

    def _connections(self) -> list[Connection]:
        return cast("list[Connection]", list(self._state.connections))

    def _watch(self) -> None:
        """Sweep once a second for as long as there is a connection."""
        if self._loop is not None and not self._sweeping:
            self._sweeping = True
            self._loop.call_later(_SWEEP_S, self._sweep, self._loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        connections = self._connections()
        for connection in connections:
            connection.sweep()
        self._sweeping = bool(connections)
        if connections:
            loop.call_later(_SWEEP_S, self._sweep, loop)


def _context(tls: HttpTls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # No passphrase is asked for at the terminal of a service.
        context.load_cert_chain(tls.certificate, tls.key, password=lambda: "")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"HTTPS cannot be served: {error}",
            hint="http.tls.cert_file and http.tls.key_file are PEM files that belong together",
            where=str(tls.certificate),
        ) from error
    return context


def _is_loopback(host: str) -> bool:
    return host.strip("[]") in ("localhost", "127.0.0.1", "::1")


def _listen(host: str, port: int) -> socket.socket:
    bare = host.strip("[]")
    listening = socket.socket(socket.AF_INET6 if ":" in bare else socket.AF_INET)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((bare, port))
    except (OSError, OverflowError) as error:
        listening.close()
        reason = error.strerror if isinstance(error, OSError) else "no such port"
        raise ConfigError(
            f"cannot listen on {host}:{port}: {reason}",
            hint="another program may have the port; set http.port in agent.json to a free one",
        ) from error
    listening.setblocking(False)
    return listening
