"""``edgekit fleet down``: stop a fleet that runs elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.fleet_options import home_option
from edgekit.cli.output import Output, common_options

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA = "edgekit.fleet-down/1"


@click.command("down")
@home_option
@common_options
def command(home: Path, out: Output) -> None:
    """Stop the fleet of a folder; what it has kept stays.

    \b
    Example:
      edgekit fleet down --home roof
    """
    from edgekit.fleet.home import FleetHome
    from edgekit.fleet.up import stop_running

    stopped = stop_running(FleetHome.open(home))

    def render(console: Console) -> None:
        console.print("  stopped" if stopped else "  nothing runs")

    out.emit(SCHEMA, {"stopped": stopped}, render)
