"""``edgekit fleet restore``: a fleet's folder from a backup."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli.fleet_options import home_option
from edgekit.cli.output import Output, common_options
from edgekit.wire.errors import MissingToolError

SCHEMA = "edgekit.fleet-restored/1"


@click.command("restore")
@click.argument("source", type=click.Path(path_type=Path))
@home_option
@common_options
def command(source: Path, home: Path, out: Output) -> None:
    """Make the fleet's folder, which is not there yet, from the backup SOURCE.

    Each file is checked by its digest. The restored fleet is the same one to its devices: never
    let both run.

    \b
    Example:
      edgekit fleet restore /mnt/disk/fleet-2026-11-27 --home fleet-again
    """
    from edgekit.cli.commands.fleet_backup import copying
    from edgekit.fleet.settings import load_settings

    try:
        from edgekit.fleet.store import open_store
        from edgekit.fleet.store.backup import restore
        from edgekit.fleet.store.queries import Reader, summary
    except ImportError as error:
        raise MissingToolError(
            f"the fleet needs {error.name}", hint="pip install 'edgekit[fleet]'"
        ) from error
    with copying(out, "restoring") as tell:
        fleet = restore(source, home, tell)
    engine = open_store(fleet.database)
    devices = summary(Reader(engine, fleet.raw)).total
    engine.dispose()
    name = load_settings(fleet).name
    out.emit(
        SCHEMA,
        {"home": str(home), "name": name, "devices": devices},
        lambda console: console.print(
            f"  {home}   fleet {name}, {devices} device{'' if devices == 1 else 's'}"
            f"\n  next: edgekit fleet up --home {home}",
            markup=False,
            soft_wrap=True,
        ),
        quiet=str(home),
    )
