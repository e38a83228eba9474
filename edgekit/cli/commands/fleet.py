"""``edgekit fleet``: collect, keep and watch what every device reports, and send orders."""

from __future__ import annotations

import click

from edgekit.cli.groups import CommandFiles


@click.group("fleet", cls=CommandFiles, prefix="fleet_")
def command() -> None:
    """Collect, keep and watch what every device reports; send bundles to them.

    \b
    Examples:
      edgekit fleet devices
      edgekit fleet deploy dist/pets-rpi5.ekb --to site=roof
    """
