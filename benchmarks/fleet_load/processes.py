"""The fleet's processes under load: started, measured, killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from edgekit.fleet.ports import listens

START_S = 60.0


@dataclass
class Part:
    """One process of the fleet.

    Attributes:
        name: ``broker``, ``ingest``, ``simulator``.
        command: What starts it.
        folder: For its log.
        cpu_s: Of all its lives that are over.
        peak_bytes: Largest resident memory seen.
        starts: How often it was started.
    """

    name: str
    command: Sequence[str]
    folder: Path
    port: int = 0
    cpu_s: float = 0.0
    peak_bytes: int = 0
    starts: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _last_s: float = 0.0

    def start(self) -> Part:
        """Start it, and wait until it listens where it is to."""
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self._process = subprocess.Popen(list(self.command), stdout=log, stderr=log)
        self.starts += 1
        deadline = time.monotonic() + START_S
        while self.port and not listens("127.0.0.1", self.port):
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError(f"{self.name} does not listen: {self.log[-2000:]}")
            time.sleep(0.05)
        return self

    def adopt(self, process: subprocess.Popen[bytes]) -> None:
        """Take over a process that was started elsewhere."""
        self._process = process
        self.starts += 1

    @property
    def log(self) -> str:
        """What it has said."""
        return (self.folder / f"{self.name}.log").read_text(encoding="utf-8", errors="replace")

    @property
    def runs(self) -> bool:
        """Whether it is there."""
        return self._process is not None and self._process.poll() is None

    def look(self) -> None:
        """Measure memory and CPU."""
        if self._process is None:
            return
        try:
            process = psutil.Process(self._process.pid)
            self.peak_bytes = max(self.peak_bytes, process.memory_info().rss)
            times = process.cpu_times()
            self._last_s = times.user + times.system
        except psutil.Error:
            pass

    def stop(self, *, kill: bool = False) -> None:
        """Stop it, politely or not."""
        self.look()
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
            self._process.wait(120)
            self.cpu_s, self._last_s = self.cpu_s + self._last_s, 0.0
            self._process = None

    def to_json(self, seconds: float) -> dict[str, Any]:
        """Return what it cost, over the time of the load."""
        self.look()
        return {
            "peak_rss_mb": round(self.peak_bytes / 1e6, 1),
            "cores": round((self.cpu_s + self._last_s) / seconds, 3),
            "starts": self.starts,
        }


def python(*words: str) -> list[str]:
    """Return a command of this Python."""
    return [sys.executable, *words]


def files_limit() -> int:
    """Raise the limit of open files, which children inherit; return it."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else os.sysconf("SC_OPEN_MAX")
