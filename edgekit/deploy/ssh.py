"""Requests to a board over the system's ssh.

One connection serves all requests (ControlMaster). Nothing asks: no password, no unknown host key.
What is run on the board is one constant line; a request and the sources that serve it go over
stdin.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import json
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import IO, Any, Self

from edgekit.deploy.board import MODULES
from edgekit.deploy.ssh_errors import NO_PYTHON, SshSettings, explain, plain
from edgekit.wire.errors import ConfigError, DeviceError, MissingToolError, UsageError

OnEvent = Callable[[Mapping[str, Any]], None]

_MAX_LINE = 4 << 20
_MAX_EVENTS = 1_000_000
_CHUNK_BYTES = 1 << 16
_HOST = re.compile(
    r"(?:[A-Za-z0-9_][A-Za-z0-9._-]*@)?[A-Za-z0-9_\[][A-Za-z0-9._:\[\]%-]*", re.ASCII
)
_BOOT = "import sys;r=sys.stdin.buffer;exec(r.read(int(r.readline())))"
_PYTHONS = "python3 python3.14 python3.13 python3.12 python3.11"
_LOADER = """
import json, types
sources = json.loads(r.read(int(r.readline())))
for name in ("edgekit", "edgekit.deploy", "edgekit.deploy.board"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = []
for name, source in sources:
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
sys.exit(module.main())
"""


class Ssh:
    """The board's other end. Use it in a ``with``.

    Args:
        settings: How the board is reached.

    Raises:
        MissingToolError: There is no ssh here.
        UsageError: The host is no host's name.
    """

    def __init__(self, settings: SshSettings) -> None:
        if shutil.which("ssh") is None:
            raise MissingToolError("ssh is not installed", hint="apt-get install openssh-client")
        if not _HOST.fullmatch(settings.host):
            raise UsageError(f"no host: {settings.host[:80]!r}", hint="--host user@board")
        self.settings = settings
        self.as_root = False
        self._folder = tempfile.TemporaryDirectory(prefix="ek-")
        self._running: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; what is under way ends with it."""
        if self._running is not None and self._running.poll() is None:
            self._running.kill()
            self._running.wait()
        subprocess.run(
            [*self._ssh(), "-O", "exit", self.settings.host],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        self._folder.cleanup()

    def call(
        self,
        request: Mapping[str, Any],
        *,
        payload: Iterable[bytes] = (),
        on_event: OnEvent = lambda _event: None,
    ) -> dict[str, Any]:
        """Send one request and wait for what comes of it.

        Args:
            request: See :mod:`edgekit.deploy.board.main`.
            payload: Bytes behind it.
            on_event: Gets what the board says meanwhile.

        Returns:
            The result.

        Raises:
            LinkError: The board cannot be reached, or the connection broke.
            DeviceError: The board said no.
            ConfigError: Settings on the board are wrong.
        """
        with tempfile.TemporaryFile() as errors:
            # Not a pipe: the master that stays behind holds it open.
            process = subprocess.Popen(
                [*self._ssh(), self.settings.host, remote_command(as_root=self.as_root)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
            self._running = process
            try:
                answer = self._converse(process, request, payload, on_event)
            finally:
                _end(process)
                self._running = None
            if answer is None:
                errors.seek(0)
                said = errors.read(_CHUNK_BYTES).decode(errors="replace")
                raise explain(process.returncode, said, self.settings)
        return _result(answer)

    def _ssh(self) -> list[str]:
        own = self.settings
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "ControlMaster": "auto",
            "ControlPersist": "60",
            "ControlPath": f"{self._folder.name}/%C",
            "ConnectTimeout": "15",
            "ServerAliveInterval": "10",
            "ServerAliveCountMax": "3",
            "ForwardAgent": "no",
            "ForwardX11": "no",
            "ClearAllForwardings": "yes",
            "RequestTTY": "no",
            "LogLevel": "ERROR",
        }
        argv = ["ssh", *(["-F", str(own.config)] if own.config else [])]
        for name, value in options.items():
            argv += ["-o", f"{name}={value}"]
        if own.port is not None:
            argv += ["-p", str(own.port)]
        if own.identity is not None:
            argv += ["-o", "IdentitiesOnly=yes", "-i", str(own.identity)]
        return argv

    def _converse(
        self,
        process: subprocess.Popen[bytes],
        request: Mapping[str, Any],
        payload: Iterable[bytes],
        on_event: OnEvent,
    ) -> dict[str, Any] | None:
        if process.stdin is None or process.stdout is None:
            raise AssertionError("both are pipes")
        # Beside the reading: the board may say no before it has read everything.
        writer = threading.Thread(
            target=_write, args=(process.stdin, request, payload), daemon=True
        )
        writer.start()
        for _ in range(_MAX_EVENTS):
            line = process.stdout.readline(_MAX_LINE)
            if not line.endswith(b"\n"):
                return None
            event = _parse(line)
            if "result" in event or "error" in event:
                return event
            on_event(event)
        return None


def _write(stdin: IO[bytes], request: Mapping[str, Any], payload: Iterable[bytes]) -> None:
    loader, sources = _LOADER.encode(), json.dumps(board_sources()).encode()
    # A board that goes away is told by its silence.
    with contextlib.suppress(OSError, ValueError):
        for part in (loader, sources):
            stdin.write(b"%d\n" % len(part))
            stdin.write(part)
        stdin.write(json.dumps(request).encode() + b"\n")
        stdin.flush()
        for chunk in payload:
            stdin.write(chunk)
        stdin.flush()


def _end(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def board_sources() -> list[tuple[str, str]]:
    """Return the modules that run on the board, in the order in which they need each other."""
    folder = importlib.resources.files("edgekit.deploy.board")
    return [
        (f"edgekit.deploy.board.{name}", (folder / f"{name}.py").read_text(encoding="utf-8"))
        for name in MODULES
    ]


def remote_command(*, as_root: bool) -> str:
    """Return the one line that is run on a board: a Python that is new enough, and its loader."""
    root = "sudo -n -- " if as_root else ""
    script = (
        f"for p in {_PYTHONS}; do q=$(command -v $p) && "
        f'"$q" -c "import sys; sys.exit(sys.version_info < (3, 11))" && '
        f'exec {root}"$q" -I -c {shlex.quote(_BOOT)}; done; '
        f"python3 -V >&2; exit {NO_PYTHON}"
    )
    return f"sh -c {shlex.quote(script)}"


def _parse(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict):
        raise DeviceError(
            f"the board said something unexpected: {plain(line.decode(errors='replace'))[:120]!r}",
            hint="its shell must print nothing when it starts: look into ~/.bashrc there",
        )
    return event


def _result(answer: Mapping[str, Any]) -> dict[str, Any]:
    if "error" in answer:
        said = answer.get("said")
        lines = [plain(str(line)) for line in said[:12]] if isinstance(said, list) else []
        message = plain(str(answer["error"]))[:600]
        kind = ConfigError if answer.get("kind") == "config" else DeviceError
        raise kind(
            "\n  | ".join([message, *lines]),
            hint=plain(str(answer.get("hint") or ""))[:400] or None,
        )
    result = answer["result"]
    if not isinstance(result, dict):
        raise DeviceError("the board's answer is no object")
    return result
