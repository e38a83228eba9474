"""Versions of everything that the fleet's benchmarks measure."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess

from edgekit.fleet.broker import mosquitto

PACKAGES = ("duckdb", "sqlalchemy", "paho-mqtt", "orjson", "amqtt", "nicegui", "backports.zstd")


def versions() -> dict[str, str]:
    """Return the versions of everything that is measured."""
    program = mosquitto.find_mosquitto()
    text = subprocess.run([program or "false", "-h"], capture_output=True, text=True, check=False)
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    first = text.stdout.split("\n")[0].removeprefix("mosquitto version ")
    return {"python": platform.python_version(), "mosquitto": first, **found}
