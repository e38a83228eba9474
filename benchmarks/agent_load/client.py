"""A load that costs little: a few keep-alive connections, one request under way on each."""

from __future__ import annotations

import os
import selectors
import socket
import time
from dataclasses import dataclass
from pathlib import Path

HEAD_END = b"\r\n\r\n"
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Load:
    """What one run came to.

    Attributes:
        requests: Answered with 200.
        seconds: Of wall time.
        server_cpu_s: Of the serving process.
        p50_ms: Latency as the client sees it.
        p99_ms: The same.
    """

    requests: int
    seconds: float
    server_cpu_s: float
    p50_ms: float
    p99_ms: float

    @property
    def per_second(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds

    @property
    def cpu_us(self) -> float:
        """Microseconds of the server's CPU a request."""
        return self.server_cpu_s / self.requests * 1e6


def post(path: str, body: bytes, *headers: str) -> bytes:
    """Return a request as it goes over the wire."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_mib(pid: int) -> float:
    """Return a process's resident memory in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


def handles(pid: int) -> int:
    """Return the number of a process's open files."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def drive(port: int, pid: int, request: bytes, *, connections: int, seconds: float) -> Load:
    """Send one request over and over.

    Args:
        port: On loopback.
        pid: Of the server, for its CPU time.
        request: The same each time.
        connections: That are open at a time.
        seconds: How long.

    Raises:
        RuntimeError: An answer is not 200.
    """
    selector = selectors.DefaultSelector()
    for _ in range(connections):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(request)
        selector.register(sock, selectors.EVENT_READ, [b"", time.perf_counter()])
    latencies: list[float] = []
    before, start = cpu_s(pid), time.perf_counter()
    while (now := time.perf_counter()) - start < seconds:
        for key, _ in selector.select(1):
            state = key.data
            state[0] += key.fileobj.recv(1 << 16)
            if not _whole(state[0]):
                continue
            if not state[0].startswith(b"HTTP/1.1 200"):
                raise RuntimeError(state[0][:500].decode("latin-1"))
            now = time.perf_counter()
            latencies.append(now - state[1])
            key.data[:] = [b"", now]
            key.fileobj.sendall(request)
    used_s, elapsed_s = cpu_s(pid) - before, time.perf_counter() - start
    for key in list(selector.get_map().values()):
        key.fileobj.close()
    latencies.sort()
    p50, p99 = (latencies[int(share * (len(latencies) - 1))] * 1e3 for share in (0.5, 0.99))
    return Load(len(latencies), elapsed_s, used_s, p50, p99)


def _whole(received: bytes) -> bool:
    end = received.find(HEAD_END)
    if end < 0:
        return False
    for line in received[:end].lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(received) >= end + len(HEAD_END) + int(line[15:])
    raise RuntimeError("an answer without a length")
