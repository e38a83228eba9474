"""What of a fleet runs and where it listens: pid files, ``ports.json``, ports that are taken."""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path

from edgekit.fleet.home import FleetHome, write_private
from edgekit.fleet.settings import Settings, in_url
from edgekit.wire.errors import ConfigError, DeviceError

_MAX_BYTES = 4096
_CONNECT_S = 1.0
TOKEN_FILE = "login.token"  # noqa: S105 - the name of a file


def write_pid(home: FleetHome, name: str, pid: int) -> None:
    """Keep which process a part of the fleet is.

    Raises:
        ConfigError: The file cannot be written.
    """
    document = {"pid": pid, "started": _started(pid)}
    write_private(home.run / f"{name}.pid", json.dumps(document).encode())


def read_pid(home: FleetHome, name: str) -> int | None:
    """Return a part's process; None where it does not run, or the number is another's."""
    try:
        with (home.run / f"{name}.pid").open("rb") as file:
            document = json.loads(file.read(_MAX_BYTES))
        pid, started = int(document["pid"]), document["started"]
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    return pid if pid > 1 and started is not None and _started(pid) == started else None


def forget_pid(home: FleetHome, name: str) -> None:
    """Delete a part's pid file."""
    (home.run / f"{name}.pid").unlink(missing_ok=True)


def write_ports(home: FleetHome, ports: Mapping[str, str]) -> None:
    """Keep what listens where; empty when nothing does.

    Raises:
        ConfigError: The file cannot be written.
    """
    path = home.run / "ports.json"
    if ports:
        write_private(path, (json.dumps(dict(ports), indent=2) + "\n").encode())
    else:
        path.unlink(missing_ok=True)


def read_ports(home: FleetHome) -> dict[str, str]:
    """Return what listens where; empty where nothing does."""
    try:
        with (home.run / "ports.json").open("rb") as file:
            document = json.loads(file.read(_MAX_BYTES))
        return {str(key): str(value) for key, value in document.items()}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def login_token(home: FleetHome) -> str:
    """Return the token of the first login as admin; a new one for each start of the fleet.

    Raises:
        ConfigError: The file cannot be written.
    """
    token = secrets.token_urlsafe(24)
    write_private(home.run / TOKEN_FILE, token.encode())
    return token


def check_free(host: str, port: int, setting: str) -> None:
    """Make sure that a port can be listened on.

    Args:
        host: Address.
        port: Port.
        setting: What chooses it, for the message.

    Raises:
        DeviceError: Somebody else listens there.
        ConfigError: It is not this machine's address, or not allowed.
    """
    with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise DeviceError(
                    f"port {port} of {host} is taken",
                    hint=f"free it, or choose another one: {setting}",
                ) from error
            raise ConfigError(
                f"nothing can listen on {host} port {port}: {error.strerror}", hint=setting
            ) from error


def check_ports(settings: Settings) -> None:
    """Make sure that all parts of a fleet can listen where its settings say.

    Raises:
        DeviceError: Somebody else listens there.
        ConfigError: Two parts are to listen at one place, or one cannot.
    """
    wanted = [
        (settings.broker_host, settings.broker_port, "--broker-port"),
        (settings.http_host, settings.http_port, "--port"),
    ]
    if settings.broker_listen:
        tls = (settings.broker_listen, settings.broker_tls_port, "broker.tls_port in fleet.toml")
        wanted.append(tls)
    for index, (host, port, setting) in enumerate(wanted):
        for other, at, its in wanted[:index]:
            if port == at and (host == other or _is_any(host) or _is_any(other)):
                raise ConfigError(
                    f"port {port} is asked for twice", hint=f"change {its} or {setting}"
                )
        check_free(host, port, setting)


def addresses(settings: Settings) -> dict[str, str]:
    """Return what of a fleet listens where, by protocol."""
    found = {"mqtt": f"{in_url(settings.broker_host)}:{settings.broker_port}"}
    if settings.broker_listen:
        found["mqtts"] = f"{in_url(settings.broker_listen)}:{settings.broker_tls_port}"
    found["http"] = f"{in_url(settings.http_host)}:{settings.http_port}"
    return found


def listens(host: str, port: int) -> bool:
    """Tell whether somebody listens on a port of this machine."""
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        host = "127.0.0.1" if address.version == 4 else "::1"  # noqa: PLR2004 - IP's
    with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
        probe.settimeout(_CONNECT_S)
        return probe.connect_ex((host, port)) == 0


def _is_any(host: str) -> bool:
    return ipaddress.ip_address(host).is_unspecified


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _started(pid: int) -> str | None:
    """Return when a process started, so that a number that is used again is told apart."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return _exists(pid)
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


def _exists(pid: int) -> str | None:
    if Path("/proc/self").exists():
        return None
    try:
        os.kill(pid, 0)
    except OSError:
        return None
    return "unknown"
