"""``edgekit fleet backup``: a copy of a fleet's folder, while the fleet runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from edgekit.cli.fleet_options import home_option
from edgekit.cli.output import Output, common_options
from edgekit.wire.errors import MissingToolError

SCHEMA = "edgekit.fleet-backup-made/1"
MIB = 1 << 20


@click.command("backup")
@click.argument("target", type=click.Path(path_type=Path))
@home_option
@common_options
def command(target: Path, home: Path, out: Output) -> None:
    """Copy a fleet into the new folder TARGET, at one moment; the fleet may be running.

    It holds the key that signs orders and the broker's passwords: keep it like those.

    \b
    Examples:
      edgekit fleet backup /mnt/disk/fleet-2026-11-27
      edgekit fleet backup backups/monday --home roof
    """
    from edgekit.fleet.home import FleetHome

    fleet = FleetHome.open(home)
    try:
        from edgekit.fleet.store import open_store
        from edgekit.fleet.store.backup import backup

        # A backup is of the present schema.
        open_store(fleet.database).dispose()
    except ImportError as error:
        raise MissingToolError(
            f"the fleet needs {error.name}", hint="pip install 'edgekit[fleet]'"
        ) from error
    with copying(out, "copying") as tell:
        files = backup(fleet, target, tell)
    size_bytes = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    out.emit(
        SCHEMA,
        {"target": str(target), "files": files, "size_bytes": size_bytes},
        lambda console: console.print(
            f"  {target}   {files} files, {size_bytes / MIB:.3g} MiB"
            f"\n  next: edgekit fleet restore {target} --home NEW",
            markup=False,
            soft_wrap=True,
        ),
        quiet=str(target),
    )


@contextmanager
def copying(out: Output, what: str) -> Iterator[Callable[[int, int], None]]:
    """Draw a bar in MiB while the body runs; it gets what hears of the progress."""
    with out.progress() as progress:
        task = progress.add_task(f"{what}, MiB", total=None)

        def tell(done_bytes: int, total_bytes: int) -> None:
            progress.update(task, completed=done_bytes // MIB, total=total_bytes // MIB)

        yield tell
