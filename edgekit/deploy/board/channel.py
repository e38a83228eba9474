"""Requests in, events out: one JSON document a line, and the payload of an upload behind it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

MAX_REQUEST_BYTES = 4 << 20
_MAX_SAID = 300
_TAIL = 12

Request = Mapping[str, Any]


class BoardError(Exception):
    """Something on the board is not as it must be.

    Args:
        message: What is wrong.
        hint: The next thing to do.
        kind: ``device``, or ``config`` for settings that are wrong.
        said: The last lines of a program or log, which say more.
    """

    def __init__(
        self, message: str, *, hint: str = "", kind: str = "device", said: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.kind = kind
        self.said = tuple(said)


class Channel:
    """The connection as the board sees it.

    Args:
        source: Requests and payloads.
        sink: Events.
    """

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source = source
        self._sink = sink
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None

    def request(self) -> dict[str, Any]:
        """Read the request."""
        request: dict[str, Any] = json.loads(self._source.readline(MAX_REQUEST_BYTES))
        return request

    def read(self, size_bytes: int) -> bytes:
        """Read some of the payload; less than was asked for only at its end."""
        return self._source.read(size_bytes)

    def send(self, **event: object) -> None:
        """Tell the other side; one that is gone is no reason to stop half-way."""
        with self._lock:
            try:
                self._sink.write(json.dumps(event).encode() + b"\n")
                self._sink.flush()
            except (OSError, ValueError):
                # Nothing can be written to a broken pipe at exit, either.
                self._sink = open(os.devnull, "wb")  # noqa: PTH123, SIM115 - until the end

    def end_with_connection(self) -> None:
        """End this process, with the program that it runs, when the other side goes away."""
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        # Nothing is sent after a request: what can be read is the end. Not through the buffered
        # file, whose lock would be held while Python exits.
        while os.read(self._source.fileno(), 4096):
            pass
        child = self._child
        if child is not None and child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        os._exit(1)

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        on_line: Callable[[str], None] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> tuple[int, list[str]]:
        """Run a program; its lines are told as they come.

        Args:
            argv: The program and its arguments.
            timeout_s: It is killed after that.
            on_line: Gets each line, cut and printable.
            env: Added to the environment.

        Returns:
            Its exit code and its last lines.
        """
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        self._child = child
        alarm = threading.Timer(timeout_s, lambda: os.killpg(child.pid, signal.SIGKILL))
        alarm.daemon = True
        alarm.start()
        tail: list[str] = []
        try:
            for line in child.stdout or ():
                shown = printable(line)
                if shown:
                    tail = [*tail, shown][-_TAIL:]
                    if on_line is not None:
                        on_line(shown)
            return child.wait(), tail
        finally:
            alarm.cancel()
            self._child = None


def printable(text: str) -> str:
    """Return a line that cannot repaint a terminal, and is not endless."""
    shown = "".join(c if c.isprintable() else " " for c in text[: 2 * _MAX_SAID])
    return shown.strip()[:_MAX_SAID]


def read_small(path: Path, most_bytes: int) -> bytes | None:
    """Read a file; None where it is not there, cannot be read or is larger."""
    try:
        with path.open("rb") as file:
            data = file.read(most_bytes + 1)
    except OSError:
        return None
    return data if len(data) <= most_bytes else None


def python_of(environment: Path) -> str:
    """Return the interpreter of an environment."""
    return str(environment / "bin" / "python")


def plain_environment() -> dict[str, str]:
    """Return what every Python that is started here gets: nothing of the user's own settings."""
    return {"PYTHONNOUSERSITE": "1", "PYTHONPATH": "", "ORT_DISABLE_TELEMETRY": "1"}


def version() -> str:
    """Return this Python's version."""
    return ".".join(map(str, sys.version_info[:3]))
