"""``edgekit agent install``: the agent as a service of this machine."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.commands.agent import CONFIG
from edgekit.cli.output import Output, common_options
from edgekit.wire.errors import DeviceError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.agent.machine import Change, Machine

SCHEMA = "edgekit.agent.install/1"
_MARKS = {"created": "+", "changed": "~", "removed": "-", "unchanged": " ", "kept": " "}


@click.command("install")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    default=CONFIG,
    show_default=True,
    help="The settings; made where there are none.",
)
@click.option("--user", default="edgekit", show_default=True, help="The user that it runs as.")
@click.option("-t", "--target", help="This device's target, for new settings: rpi5.")
@click.option("--device", help="This device's name, for new settings; the host's by default.")
@click.option("--fleet", default="lab", show_default=True, help="Its fleet, for new settings.")
@click.option(
    "--key",
    "keys",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="PUB.pem",
    help="Public key to trust, for new settings; may be given more than once.",
)
@click.option(
    "--memory-max",
    type=click.IntRange(32, 1 << 20),
    metavar="MIB",
    help="Limit of its memory; none by default.",
)
@click.option(
    "--writable",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FOLDER",
    help="A folder that flows write to; may be given more than once.",
)
@click.option("--no-start", is_flag=True, help="Do not start it now.")
@click.option("--dry-run", is_flag=True, help="Change nothing; print what would be written.")
@click.option("--uninstall", is_flag=True, help="Take it away; the state folder stays.")
@click.option("--purge", is_flag=True, help="With --uninstall: the state folder and the user, too.")
@common_options
def command(
    config: Path,
    user: str,
    target: str | None,
    device: str | None,
    fleet: str,
    keys: tuple[Path, ...],
    memory_max: int | None,
    writable: tuple[Path, ...],
    no_start: bool,
    dry_run: bool,
    uninstall: bool,
    purge: bool,
    out: Output,
) -> None:
    """Make the agent a service of this machine, under systemd: watched, sandboxed, its own user.

    A second run changes nothing, and says so.

    \b
    Examples:
      sudo edgekit agent install --target rpi5 --key dev.pub.pem
      edgekit agent install --target rpi5 --key dev.pub.pem --dry-run
      sudo edgekit agent install --uninstall
    """
    from edgekit.agent import setup
    from edgekit.agent.machine import Machine

    if purge and not uninstall:
        raise UsageError("--purge goes with --uninstall")
    machine = Machine(dry_run=dry_run)
    _check_rights(machine)
    config = Path(os.path.abspath(config))  # noqa: PTH100 - keeps links
    if uninstall:
        _show(setup.uninstall(config, user, machine, purge=purge), out, dry_run=dry_run)
        return
    settings = _first_settings(config, target, device, fleet, keys)
    request = setup.Request(
        python=lasting(Path(sys.executable)),
        config=config,
        settings=settings,
        user=user,
        memory_max_mib=memory_max,
        writable=tuple(Path(os.path.abspath(path)) for path in writable),  # noqa: PTH100
        start=not no_start,
    )
    _show(setup.install(request, machine), out, dry_run=dry_run)


def _check_rights(machine: Machine) -> None:
    if not machine.dry_run and os.geteuid() != 0:
        raise DeviceError(
            "a service is installed by root",
            hint=f"sudo {sys.executable} -m edgekit agent install …; --dry-run shows it first",
        )


def _first_settings(
    config: Path, target: str | None, device: str | None, fleet: str, keys: tuple[Path, ...]
) -> bytes | None:
    """Return new settings where there are none and enough is known for them."""
    from edgekit.agent.setup import first_settings
    from edgekit.wire.signing import load_public_key

    if config.exists():
        if target or device or keys:
            raise UsageError(
                "there are settings already; --target, --device and --key are for new ones",
                hint="edit them, or leave these options out",
                where=str(config),
            )
        return None
    if target is None or not keys:
        return None
    document = first_settings(
        device=device or plain_name(socket.gethostname()),
        target=target,
        keys=[load_public_key(path).to_pem().decode() for path in keys],
        fleet=fleet,
    )
    return (json.dumps(document, indent=2) + "\n").encode()


def lasting(python: Path) -> Path:
    """Return the interpreter by the link that a deployment keeps pointing to the one that runs.

    Args:
        python: ``<prefix>/venvs/<id>/bin/python``, or any other.
    """
    environment = python.parent.parent
    link = environment.parent.parent / "current"
    if link.is_symlink() and link.resolve() == environment.resolve():
        return link / "bin" / python.name
    return python


def plain_name(host: str) -> str:
    """Return a host's name as a device may be called: ``raspberrypi`` for ``RaspberryPi.local``."""
    name = re.sub(r"[^a-z0-9_-]+", "-", host.partition(".")[0].lower()).strip("-")
    return name[:64] or "device"


def _show(steps: Iterable[Change], out: Output, *, dry_run: bool) -> None:
    changes: list[Change] = []
    for change in steps:
        changes.append(change)
        if not (out.json or out.quiet):
            _print_change(out.stdout, change)
    changed = [c for c in changes if c.outcome in ("created", "changed", "removed")]
    payload = {
        "dry_run": dry_run,
        "changed": bool(changed),
        "changes": [asdict(change) for change in changes],
    }

    def render(console: Console) -> None:
        if dry_run:
            console.print(f"\n  {len(changed)} changes; nothing was changed: a dry run")
        elif changed:
            console.print("\n  next: edgekit agent status")
        else:
            console.print("\n  nothing to change   next: edgekit agent status")

    quiet = "\n".join(f"{change.outcome} {change.subject}" for change in changed)
    out.emit(SCHEMA, payload, render, quiet=quiet or None)


def _print_change(console: Console, change: Change) -> None:
    detail = f"   {change.detail}" if change.detail else ""
    line = (
        f"  {_MARKS[change.outcome]} {change.what:<9} {change.outcome:<9} {change.subject}{detail}"
    )
    console.print(line, markup=False, soft_wrap=True)
    for row in change.text.splitlines():
        console.print(f"  | {row}", markup=False, soft_wrap=True)
