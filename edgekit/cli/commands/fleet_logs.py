"""``edgekit fleet logs``: the last lines that a device has logged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.fleet_options import home_option
from edgekit.cli.output import Output, common_options

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA = "edgekit.fleet-logs/1"
_STYLES = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "red", "DEBUG": "dim"}


@click.command("logs")
@click.argument("device")
@click.option(
    "-n", "--lines", type=click.IntRange(1, 200), default=50, show_default=True, help="How many."
)
@home_option
@common_options
def command(device: str, lines: int, home: Path, out: Output) -> None:
    """Ask a device that is online for the last lines of its agent's log.

    Times are by the device's own clock. Nothing of a log leaves a device unasked.

    \b
    Examples:
      edgekit fleet logs cam-03
      edgekit fleet logs cam-03 -n 200 --json
    """
    import secrets

    from edgekit.fleet.broker import credentials
    from edgekit.fleet.client import Fleet
    from edgekit.fleet.device_log import device_log
    from edgekit.fleet.home import FleetHome
    from edgekit.fleet.publisher import BrokerAddress
    from edgekit.fleet.settings import load_settings

    with Fleet(home) as fleet:
        fleet.device(device)  # one that is not registered would be waited for in vain
    place = FleetHome.open(home)
    settings = load_settings(place)
    address = BrokerAddress(settings.broker_host, settings.broker_port, *credentials(place, "web"))
    with out.progress() as progress:
        progress.add_task(f"{device} is asked", total=None)
        found = device_log(address, settings.name, device, lines, f"logs-{secrets.token_hex(8)}")

    def render(console: Console) -> None:
        from datetime import UTC, datetime

        from rich.text import Text

        if not found:
            console.print(f"  the log of {device} is empty")

        for line in found:
            at = datetime.fromtimestamp(line.time_s, UTC).strftime("%Y-%m-%d %H:%M:%S")
            text = Text(f"  {at}  ", style="dim")
            text.append(f"{line.level:<8} {line.text}", style=_STYLES.get(line.level, ""))
            console.print(text, soft_wrap=True)

    out.emit(
        SCHEMA, {"device": device, "lines": [vars(line) for line in found]}, render,
        quiet="\n".join(line.text for line in found),
    )  # fmt: skip
