"""What ssh says when it fails, in words that name the next step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit.wire.errors import DeviceError

NO_PYTHON = 97
_NO_LINK = 255
_CHANGED = (
    "if the board was set up anew: ssh-keygen -R {name}, then {login} and compare; "
    "if not, something else answers in its place"
)
_UNKNOWN = (
    "{login} once, compare the fingerprint with the board's own "
    "(ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub there), and say yes"
)


class LinkError(DeviceError):
    """The connection could not be made, or broke.

    Attributes:
        transient: Another try may help.
    """

    transient = False


class LostError(LinkError):
    """The connection broke; what it was for may be asked for again."""

    transient = True


@dataclass(frozen=True)
class SshSettings:
    """How a board is reached.

    Attributes:
        host: ``user@board``, or a name of the user's ssh configuration.
        port: Another one than 22.
        identity: The private key to log in with.
        config: An ssh configuration in place of the user's.
    """

    host: str
    port: int | None = None
    identity: Path | None = None
    config: Path | None = None


# What ssh says, whether another try may help, and what it means.
_SAID: tuple[tuple[str, bool, str, str], ...] = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        False,
        "the board's host key is another one than before",
        _CHANGED,
    ),
    (
        "Host key verification failed",
        False,
        "the board's host key is not known here",
        _UNKNOWN,
    ),
    (
        "Permission denied",
        False,
        "the board does not let us in: keys only, no passwords",
        "ssh-copy-id{port} {host}, or give --identity FILE",
    ),
    (
        "Could not resolve hostname",
        False,
        "no host of that name",
        "is it spelled right, and is the board up? Its address works, too",
    ),
    ("Connection refused", True, "nothing answers on the ssh port", "is sshd running there?"),
    ("Connection timed out", True, "the board does not answer", "is it up, and on this network?"),
    ("No route to host", True, "the board cannot be reached", "is it up, and on this network?"),
    ("Identity file", False, "the identity cannot be read", "does --identity name a private key?"),
)


def explain(code: int, said: str, settings: SshSettings) -> LinkError:
    """Say why a request came to nothing, from ssh's exit code and what it printed.

    Args:
        code: 255 is ssh's own, others are the remote command's.
        said: Its stderr.
        settings: How the board was to be reached.
    """
    port = f" -p {settings.port}" if settings.port else ""
    place = settings.host.rpartition("@")[2]
    names = {
        "host": settings.host,
        "port": port,
        "login": f"ssh{port} {settings.host}",
        "name": f"'[{place}]:{settings.port}'" if settings.port else place,
    }
    lines = [plain(line) for line in said.splitlines() if line.strip()]
    if code == NO_PYTHON:
        found = f"{lines[-1]} " if lines and lines[-1].startswith("Python") else "no Python "
        return LinkError(
            f"{found}is on the board; the agent needs 3.11 or newer",
            hint="Raspberry Pi OS 12 and Debian 12 have it; or put python3.11 on the board's PATH",
            where=settings.host,
        )
    for text, transient, message, hint in _SAID if code == _NO_LINK else ():
        if text in said:
            kind = LostError if transient else LinkError
            return kind(message, hint=hint.format(**names), where=settings.host)
    detail = f": {lines[-1][:200]}" if lines else ""
    if code in (_NO_LINK, 0) or code < 0:
        return LostError(
            f"the connection broke{detail}",
            hint="run it again: what came over is kept",
            where=settings.host,
        )
    return LinkError(
        f"the board's side ended with {code}{detail}",
        hint=f"does `{names['login']} sh -c true` work?",
        where=settings.host,
    )


def plain(text: str) -> str:
    """Return text of the board without what could repaint a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)
