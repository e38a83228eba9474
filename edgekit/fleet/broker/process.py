"""Which broker a fleet has, what starts it, and how it hears that accounts have changed."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Sequence

from edgekit.fleet.broker import mosquitto, retained
from edgekit.fleet.broker.accounts import credentials
from edgekit.fleet.home import FleetHome
from edgekit.fleet.ports import read_pid
from edgekit.fleet.publisher import BrokerAddress
from edgekit.fleet.settings import Settings
from edgekit.wire.errors import DeviceError, MissingToolError

MODULE = "edgekit.fleet.broker.python_broker"


def kind_of(settings: Settings) -> str:
    """Return ``mosquitto`` or ``amqtt``.

    Raises:
        MissingToolError: What the settings ask for is not installed.
    """
    has_mosquitto = mosquitto.find_mosquitto() is not None
    if settings.broker_kind != "amqtt" and has_mosquitto:
        return "mosquitto"
    install = "apt install mosquitto"
    if settings.broker_kind == "mosquitto":
        raise MissingToolError("mosquitto is not installed", hint=install)
    if settings.broker_listen:
        change = 'delete `kind = "amqtt"` in fleet.toml' if has_mosquitto else install
        raise MissingToolError("beyond loopback the broker must be mosquitto", hint=change)
    if importlib.util.find_spec("amqtt") is None:
        raise MissingToolError(
            "no broker is installed", hint=f"pip install 'edgekit[fleet]' or {install}"
        )
    return "amqtt"


def start_command(home: FleetHome, settings: Settings) -> list[str]:
    """Write the broker's files and return what starts it.

    Raises:
        ConfigError: A file cannot be read or written.
        MissingToolError: No broker is installed.
    """
    kind = kind_of(settings)
    mosquitto.prepare(home, settings)
    if kind == "mosquitto":
        return mosquitto.command(home)
    return [sys.executable, "-m", MODULE, str(home.path.resolve())]


def forget(home: FleetHome, settings: Settings, devices: Sequence[str]) -> bool:
    """Clear what the fleet's broker keeps of devices that are no more; False where none runs."""
    if read_pid(home, "broker") is None:
        return False
    username, password = credentials(home, "web")
    address = BrokerAddress(settings.broker_host, settings.broker_port, username, password)
    try:
        retained.forget(address, settings.name, devices)
    except DeviceError:
        return False  # it has just ended; the next start clears it
    return True


def reload(home: FleetHome) -> bool:
    """Tell the fleet's broker to read its accounts anew; False where none runs."""
    pid = read_pid(home, "broker")
    if pid is None:
        return False
    try:
        os.kill(pid, signal.SIGHUP)
    except ProcessLookupError:
        return False  # it has just ended; the next one reads them at its start
    return True
