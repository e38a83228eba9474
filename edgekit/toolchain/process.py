"""Run other programs: list arguments, bounded output, a time limit, and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from edgekit.wire.errors import BuildError, MissingToolError

MAX_OUTPUT_BYTES = 1 << 20


@dataclass(frozen=True)
class Finished:
    """A program that has ended.

    Attributes:
        code: Exit code; negative for the signal that ended it.
        output: Its standard output and error as they came, the last MiB at most.
    """

    code: int
    output: str

    def tail(self, lines: int = 3) -> str:
        """Return the last lines that say something, errors before all, in one line."""
        said = [line.strip() for line in self.output.splitlines() if line.strip()]
        said = [line for line in said if "error" in line[:16].lower() or line[:2] == "E:"] or said
        return " / ".join(said[-lines:])[:500]


def run(
    args: Sequence[str],
    *,
    timeout_s: float,
    missing: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    on_line: Callable[[str], None] | None = None,
) -> Finished:
    """Run a program in a process group of its own and wait for it.

    The group is killed when the time is up and when the caller is interrupted.

    Args:
        args: The program and its arguments.
        timeout_s: Longest wall time, seconds.
        missing: What to do where the program is not installed; becomes the error's hint.
        cwd: Its working directory.
        env: Its whole environment; None passes ours on.
        stdin: What it reads.
        on_line: Called with every line of its output, in another thread.

    Raises:
        MissingToolError: The program is not installed.
        BuildError: The time is up.
    """
    try:
        process = subprocess.Popen(
            list(args),
            cwd=cwd,
            env=None if env is None else dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise MissingToolError(f"{args[0]} is not installed", hint=missing) from error
    lines = bytearray()
    reader = threading.Thread(target=_read, args=(process.stdout, lines, on_line), daemon=True)
    reader.start()
    try:
        _feed(process, stdin)
        code = process.wait(timeout_s)
    except subprocess.TimeoutExpired as error:
        raise BuildError(
            f"{Path(args[0]).name} took over {timeout_s:.0f} s and was stopped"
        ) from error
    finally:
        _kill_group(process)
        reader.join(timeout=5)
    return Finished(code, bytes(lines).decode(errors="replace"))


def _feed(process: subprocess.Popen[bytes], data: bytes) -> None:
    if process.stdin is None:
        return
    try:
        process.stdin.write(data)
        process.stdin.close()
    except BrokenPipeError:
        return  # it ended without reading: its exit code tells


def _read(stream: IO[bytes] | None, kept: bytearray, on_line: Callable[[str], None] | None) -> None:
    if stream is None:
        return
    with stream:
        while line := stream.readline(65536):
            kept += line
            if len(kept) > MAX_OUTPUT_BYTES:
                del kept[: len(kept) - MAX_OUTPUT_BYTES]
            if on_line is not None:
                on_line(line.decode(errors="replace").rstrip())


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill whatever is left of the group; the leader may have left children."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
