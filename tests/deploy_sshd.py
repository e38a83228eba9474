"""A real sshd on loopback with its own keys, port and files; and packages without a network."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

from edgekit.deploy.wheel import pack_wheel

FOLDERS = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))


@dataclass
class Sshd:
    """A server that runs.

    Attributes:
        folder: Its files, and the client's.
        port: Where it listens.
        process: The server.
    """

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def host(self) -> str:
        """What ``--host`` takes."""
        return f"{getpass.getuser()}@127.0.0.1"

    @property
    def config(self) -> Path:
        """The client's configuration: it knows the server's key."""
        return self.folder / "client_config"

    @property
    def identity(self) -> Path:
        """A key that the server lets in."""
        return self.folder / "client_key"

    def arguments(self) -> list[str]:
        """Return the options of ``edgekit deploy``."""
        return [
            *("--host", self.host, "--port", str(self.port)),
            *("--identity", str(self.identity), "--ssh-config", str(self.config)),
        ]

    def sessions(self) -> list[int]:
        """Return the processes that serve one connection each."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text(encoding="ascii").split()]

    def cut(self) -> int:
        """Kill every connection, as a network that goes away does; the server goes on.

        Returns:
            How many there were.
        """
        found = self.sessions()
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(found)


@contextmanager
def sshd(folder: Path) -> Iterator[Sshd]:
    """Run a server with everything of its own below a folder."""
    program = shutil.which("sshd", path=FOLDERS)
    assert program is not None
    folder.mkdir(mode=0o700)
    for name in ("host_key", "client_key", "other_key"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True
        )
    (folder / "authorized_keys").write_bytes((folder / "client_key.pub").read_bytes())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nPidFile none\nStrictModes no\n"
        "UsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        "PermitRootLogin prohibit-password\nPrintMotd no\nMaxStartups 50\n"
        # The board's Python is the one that the wheels are for, whatever a shell puts first.
        f'ForceCommand PATH="{sys.base_prefix}/bin:$PATH" sh -c "$SSH_ORIGINAL_COMMAND"\n'
    )
    trust(folder, port, "host_key")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # it insists
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen(
            [program, "-D", "-e", "-f", str(folder / "sshd_config")], stdout=log, stderr=log
        )
    server = Sshd(folder, port, process)
    try:
        _wait(server)
        yield server
    finally:
        server.cut()
        process.terminate()
        process.wait(10)


def trust(folder: Path, port: int, key: str | None) -> None:
    """Let the client know a host key as the server's, or none."""
    line = f"[127.0.0.1]:{port} {(folder / f'{key}.pub').read_text()}" if key else ""
    (folder / "known_hosts").write_text(line)
    (folder / "client_config").write_text(
        f"UserKnownHostsFile {folder}/known_hosts\nGlobalKnownHostsFile /dev/null\n"
    )


def _wait(server: Sshd) -> None:
    until = time.monotonic() + 20
    while True:
        assert server.process.poll() is None, (server.folder / "sshd.log").read_text()
        with suppress(OSError), socket.create_connection(("127.0.0.1", server.port), 1):
            return
        assert time.monotonic() < until
        time.sleep(0.05)


def pack_dependencies(folder: Path) -> None:
    """Write wheels of everything that edgekit needs on a device, from what is installed here."""
    folder.mkdir()
    todo, seen = ["edgekit"], set()
    while todo:
        found = distribution(todo.pop())
        if found.name in seen:
            continue
        seen.add(found.name)
        if found.name != "edgekit":
            pack_wheel(found, folder)
        for line in found.requires or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                with suppress(PackageNotFoundError):
                    todo.append(distribution(needed.name).name)
