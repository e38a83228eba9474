"""``edgekit fleet export``: telemetry into a file for other tools."""

from __future__ import annotations

import time
from pathlib import Path

import click

from edgekit.cli.fleet_options import home_option
from edgekit.cli.output import Output, common_options

SCHEMA = "edgekit.fleet-export/1"
_KIB = 1024


@click.command("export")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--device", metavar="NAME", help="Of this device alone.")
@click.option("--since", metavar="TIME", help="Of the last 30m, 24h, 7d; all by default.")
@home_option
@common_options
def command(file: Path, device: str | None, since: str | None, home: Path, out: Output) -> None:
    """Write the raw telemetry into one FILE.parquet or FILE.csv.

    \b
    Examples:
      edgekit fleet export week.parquet --since 7d
      edgekit fleet export cam-03.csv --device cam-03
    """
    from edgekit.cli.commands.fleet_deploy import span_s
    from edgekit.fleet.export import Wanted, export
    from edgekit.fleet.opened import Opened

    since_s = None if since is None else time.time() - span_s(since, "--since")
    with Opened(home) as opened:
        rows = export(opened.source(), file, Wanted(device, since_s))
    size_bytes = file.stat().st_size
    out.emit(
        SCHEMA,
        {"file": str(file), "rows": rows, "size_bytes": size_bytes},
        lambda console: console.print(
            f"  {file}   {rows} rows, {size_bytes / _KIB:.4g} KiB", markup=False, soft_wrap=True
        ),
        quiet=str(file),
    )
