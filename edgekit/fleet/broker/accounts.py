"""Accounts at the broker: the fleet's own parts and its devices, as mosquitto's files have them.

A device's user name is its name. The fleet's parts are called ``.ingest`` and so on: no device can
be, for a name has no dot in front. Of a device's password only a hash is kept; those of the parts
lie in files that only the owner reads.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, get_args

from edgekit.fleet.home import FleetHome, write_private
from edgekit.wire.errors import ConfigError
from edgekit.wire.topics import PREFIX, check_name

Role = Literal["ingest", "web", "alerts"]
ROLES: tuple[Role, ...] = get_args(Role)
PASSWORD_BYTES = 32
_SALT_BYTES = 12
_ITERATIONS = 101  # mosquitto_passwd's own; the passwords are random, not guessed
_MAX_ITERATIONS = 1_000_000
_MAX_FILE_BYTES = 64 << 20
_DEVICE_WRITES = ("telemetry", "state", "hello", "reply", "reported", "output/#")

Random = Callable[[int], bytes]


def credentials(home: FleetHome, role: Role) -> tuple[str, str]:
    """Return user name and password of a part of the fleet; made at its first use.

    Raises:
        ConfigError: The file of the password cannot be read or written.
    """
    path = home.broker / f"{role}.password"
    if not path.exists():
        write_private(path, new_password().encode())
    try:
        return f".{role}", path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("the password cannot be read", where=str(path)) from error


def new_password(random: Random = secrets.token_bytes) -> str:
    """Return a new password of 256 random bits."""
    return base64.urlsafe_b64encode(random(PASSWORD_BYTES)).decode().rstrip("=")


def hash_password(password: str, random: Random = secrets.token_bytes) -> str:
    """Return a password's hash as mosquitto's password file has it.

    ``$7$`` is PBKDF2 with SHA-512 (mosquitto_passwd(1)); iterations, salt and key follow.
    """
    salt = random(_SALT_BYTES)
    key = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ITERATIONS)
    return f"$7${_ITERATIONS}${_b64(salt)}${_b64(key)}"


def is_password(password: str, hashed: str) -> bool:
    """Tell whether a password has this hash; never raises."""
    try:
        _, kind, iterations, salt, key = hashed.split("$")
        count, known = int(iterations), base64.b64decode(key)
        if kind != "7" or not 1 <= count <= _MAX_ITERATIONS:
            return False
        found = hashlib.pbkdf2_hmac("sha512", password.encode(), base64.b64decode(salt), count)
    except ValueError:
        return False
    return hmac.compare_digest(found, known)


def read_passwords(home: FleetHome) -> dict[str, str]:
    """Return the hashes by user name; empty before there are any.

    Raises:
        ConfigError: The file cannot be read or is not one.
    """
    path = home.broker / "passwords"
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise ConfigError("too large for a password file", where=str(path))
        lines = path.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("the passwords cannot be read", where=str(path)) from error
    found = {}
    for number, line in enumerate(lines, 1):
        name, colon, hashed = line.partition(":")
        if not colon:
            raise ConfigError("not a line of a password file", where=f"{path}:{number}")
        found[name] = hashed
    return found


def write_passwords(home: FleetHome, passwords: Mapping[str, str]) -> None:
    """Write the hashes; the broker reads them when it is told to.

    Raises:
        ConfigError: The file cannot be written.
    """
    lines = "".join(f"{name}:{hashed}\n" for name, hashed in sorted(passwords.items()))
    write_private(home.broker / "passwords", lines.encode("ascii"))


def with_roles(home: FleetHome, passwords: Mapping[str, str]) -> dict[str, str]:
    """Return the hashes with those of the fleet's own parts."""
    found = dict(passwords)
    for role in ROLES:
        name, password = credentials(home, role)
        if not is_password(password, found.get(name, "")):
            found[name] = hash_password(password)
    return found


@contextmanager
def locked(home: FleetHome) -> Iterator[None]:
    """Be the only one who adds and removes accounts."""
    with (home.broker / "passwords.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def rights(fleet: str) -> str:
    """Return mosquitto's access list: a device writes under its own name alone.

    Raises:
        TrustError: The fleet's name is not plain.
    """
    root = f"{PREFIX}/{check_name(fleet, 'fleet')}"
    lines = [f"pattern write {root}/%u/{leaf}" for leaf in _DEVICE_WRITES]
    lines.append(f"pattern read {root}/%u/#")
    lines += ["", "user .ingest", f"topic read {root}/#", f"topic write {root}/+/ack"]
    lines += ["", "user .web", f"topic readwrite {root}/#"]
    lines += ["", "user .alerts", f"topic readwrite {root}/#", "topic write edgekit-alerts/#"]
    return "\n".join(lines) + "\n"


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
