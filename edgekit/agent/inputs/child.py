"""A program whose output is read for as long as it lives, and which is started again after that."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edgekit.wire.errors import MissingToolError

log = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 16
_ERROR_BYTES = 4096
_LAST_WORDS_S = 0.3
# There is no such program. Whatever else keeps one from starting (memory, processes) may pass.
_MISSING = (FileNotFoundError, PermissionError, NotADirectoryError)


@dataclass(frozen=True)
class Restarts:
    """When a program is started again.

    Attributes:
        first_s: Wait after it has ended, doubled each time until it has said something.
        most_s: Longest wait.
        stall_s: A program that says nothing for so long is ended.
    """

    first_s: float = 0.5
    most_s: float = 30.0
    stall_s: float = 10.0


def chunks(
    command: Sequence[str], restarts: Restarts, clock: Callable[[], float], stop: threading.Event
) -> Iterator[bytes | None]:
    """Run a program again and again and yield what it writes.

    Args:
        command: Program and arguments; no shell.
        restarts: When it is started again.
        clock: Seconds that only grow.
        stop: Ends it.

    Yields:
        Bytes of its standard output; None whenever it has been started.

    Raises:
        MissingToolError: There is no such program.
    """
    wait_s = restarts.first_s
    while not stop.is_set():
        try:
            process = _start(command)
        except OSError as error:
            reason = f"not started: {error.strerror}"
        else:
            yield None
            try:
                for chunk in _read(process, restarts.stall_s, clock, stop):
                    wait_s = restarts.first_s
                    yield chunk
            finally:
                reason = _end(process, 0.0 if stop.is_set() else _LAST_WORDS_S)
        if stop.wait(wait_s):
            return
        log.warning("%s ended (%s); started again after %.1f s", command[0], reason, wait_s)
        wait_s = min(restarts.most_s, 2 * wait_s)


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
    except _MISSING as error:
        raise MissingToolError(
            f"{command[0]} cannot be started: {error.strerror}", hint=f"install {command[0]}"
        ) from error


def _read(
    process: subprocess.Popen[bytes],
    stall_s: float,
    clock: Callable[[], float],
    stop: threading.Event,
) -> Iterator[bytes]:
    assert process.stdout is not None  # noqa: S101 - Popen was given pipes
    assert process.stderr is not None  # noqa: S101
    out, err = process.stdout.fileno(), process.stderr.fileno()
    watched, said = [out, err], clock()
    while not stop.is_set() and clock() - said < stall_s:
        ready, _, _ = select.select(watched, [], [], min(0.5, stall_s))
        if err in ready:
            text = os.read(err, _ERROR_BYTES)
            if text:
                log.info("%s: %s", process.args, text.decode("utf-8", "replace").strip()[-500:])
            else:
                watched.remove(err)
        if out in ready:
            chunk = os.read(out, _CHUNK_BYTES)
            if not chunk:
                return
            said = clock()
            yield chunk


def _end(process: subprocess.Popen[bytes], grace_s: float) -> str:
    """End a program and its children; returns how it ended.

    Args:
        process: The program.
        grace_s: One that has closed its output is given so long to end by itself.
    """
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=grace_s)
    code = process.poll()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=2)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    return "stopped" if code is None else f"exit {code}"
