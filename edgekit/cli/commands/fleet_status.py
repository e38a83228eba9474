"""``edgekit fleet status``: whether a fleet runs, and where it listens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.fleet_options import home_option
from edgekit.cli.output import Output, common_options
from edgekit.wire.errors import DeviceError

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA = "edgekit.fleet-status/1"
PARTS = ("up", "broker", "ingest", "web", "alerts")


@click.command("status")
@home_option
@common_options
def command(home: Path, out: Output) -> int:
    """Show whether the fleet of a folder runs, and where it listens; exit code 8 if it does not.

    \b
    Example:
      edgekit fleet status --json
    """
    from edgekit.fleet.home import FleetHome
    from edgekit.fleet.ports import read_pid, read_ports

    fleet = FleetHome.open(home)
    found = {name: read_pid(fleet, name) for name in PARTS}
    parts = {name: pid for name, pid in found.items() if pid is not None}
    runs = "up" in parts
    ports = read_ports(fleet) if runs else {}

    def render(console: Console) -> None:
        from rich.text import Text

        if not parts:
            console.print(Text(f"  nothing runs in {home}   next: edgekit fleet up --home {home}"))
        for name, pid in parts.items():
            console.print(Text(f"  {name:8} process {pid}"))
        for kind, where in ports.items():
            console.print(Text(f"  {kind:8} {where}"))

    out.emit(SCHEMA, {"runs": runs, "parts": parts, "listens": ports}, render)
    return 0 if runs else DeviceError.exit_code
