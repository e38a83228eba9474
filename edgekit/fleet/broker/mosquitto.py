"""Mosquitto as the fleet's broker: its settings, written anew at each start, and how it reloads."""

from __future__ import annotations

import datetime as dt
import os
import shutil
from pathlib import Path

from edgekit.fleet.broker.accounts import read_passwords, rights, with_roles, write_passwords
from edgekit.fleet.broker.authority import certify, server_names
from edgekit.fleet.home import FleetHome, write_private
from edgekit.fleet.settings import Settings

# Debian keeps servers where a user's PATH does not look.
_FOLDERS = "/usr/sbin:/usr/local/sbin"
MAX_PACKET_BYTES = 2 << 20  # a batch is at most 1 MiB
# When ingest connects, what is retained of all devices is queued for it at once, three messages
# each; what finds no place is dropped. The bytes bound what a client that is slow may cost.
_QUEUED = 300_000
_QUEUED_BYTES = 128 << 20


def find_mosquitto() -> str | None:
    """Return where the program is; None where it is not installed."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path=_FOLDERS)


def command(home: FleetHome) -> list[str]:
    """Return what starts the broker, once :func:`prepare` has written its files."""
    program = find_mosquitto()
    return [program or "mosquitto", "-c", str((home.broker / "mosquitto.conf").resolve())]


def prepare(home: FleetHome, settings: Settings) -> None:
    """Write passwords, rights and settings.

    Raises:
        ConfigError: A file cannot be read or written.
    """
    write_passwords(home, with_roles(home, read_passwords(home)))
    write_private(home.broker / "rights", rights(settings.name).encode())
    if settings.broker_listen:
        certify(home.broker, server_names(settings), dt.datetime.now(dt.UTC))
    write_private(home.broker / "mosquitto.conf", _text(home, settings).encode())


def _text(home: FleetHome, settings: Settings) -> str:
    folder = home.broker.resolve()
    lines = [
        "# Written by edgekit at each start.",
        f"listener {settings.broker_port} {settings.broker_host}",
        "allow_anonymous false",
        f"password_file {_plain(folder / 'passwords')}",
        f"acl_file {_plain(folder / 'rights')}",
        "persistence true",
        f"persistence_location {_plain(folder)}/",
        f"max_packet_size {MAX_PACKET_BYTES}",
        f"max_queued_messages {_QUEUED}",
        f"max_queued_bytes {_QUEUED_BYTES}",
        "max_inflight_messages 100",
        "log_type error",
        "log_type warning",
    ]
    if settings.broker_listen:
        lines += [
            f"listener {settings.broker_tls_port} {settings.broker_listen}",
            f"certfile {_plain(folder / 'server.pem')}",
            f"keyfile {_plain(folder / 'server.key.pem')}",
            "tls_version tlsv1.2",
        ]
    if os.geteuid() == 0:
        # It would change to a user who may not read this folder.
        lines.append("user root")
    return "\n".join(lines) + "\n"


def _plain(path: Path) -> str:
    text = str(path)
    if not text.isprintable():
        raise ValueError(f"a folder's name that no settings file can hold: {text!r}")
    return text
