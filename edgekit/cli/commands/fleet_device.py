"""``edgekit fleet device``: which devices a fleet has, and what lets them in."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.fleet_options import home_option
from edgekit.cli.groups import Group
from edgekit.cli.output import Output, common_options
from edgekit.wire.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.fleet.registry import NewDevice, Registry
    from edgekit.wire.signing import PublicKey


def new_options(function: Any) -> Any:  # noqa: ANN401 - a decorator of any command
    """Add what new devices need: target, output folder, keys."""
    for option in (
        click.option(
            "--key",
            "keys",
            type=click.Path(path_type=Path),
            multiple=True,
            metavar="PUB.pem",
            help="Public key that signs bundles. Default: this machine's own key.",
        ),
        click.option(
            "-o",
            "--output",
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="A folder for each device is made here. Default: devices in the fleet's folder.",
        ),
        home_option,
    ):
        function = option(function)
    return function


@click.group("device", cls=Group)
def command() -> None:
    """Add, label and remove devices; each gets an identity of its own.

    \b
    Examples:
      edgekit fleet device add cam-1 --target rpi5 --label site=roof
      edgekit fleet device import devices.csv --target rpi5
      edgekit fleet device remove cam-1
    """


@command.command("add")
@click.argument("name")
@click.option("-t", "--target", required=True, metavar="NAME", help="The board: rpi5.")
@click.option("--label", "labels", multiple=True, metavar="K=V", help="A label; may be repeated.")
@new_options
@common_options
def add(
    name: str,
    target: str,
    labels: Sequence[str],
    home: Path,
    output: Path | None,
    keys: Sequence[Path],
    out: Output,
) -> None:
    """Register a device, and write the folder it needs: settings, password, the broker's authority.

    The password is in that folder alone; the fleet keeps a hash. Copy the folder to the device.

    \b
    Examples:
      edgekit fleet device add cam-1 --target rpi5 --label site=roof --label kind=camera
      edgekit agent run --config fleet/devices/cam-1/agent.json
    """
    from edgekit.cli.commands.fleet_deploy import read_labels
    from edgekit.fleet.registry import NewDevice

    new = [NewDevice(name, target, read_labels(labels))]
    _add("edgekit.fleet-device-add/1", new, home, output, keys, out)


@command.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-t", "--target", default="", metavar="NAME", help="Of rows that name none: rpi5.")
@new_options
@common_options
def import_(
    file: Path,
    target: str,
    home: Path,
    output: Path | None,
    keys: Sequence[Path],
    out: Output,
) -> None:
    """Register the devices of a CSV file, all or none.

    Its first line names the columns: name, perhaps target, and every other one is a label.

    \b
    Example:
      edgekit fleet device import devices.csv --target rpi5
    """
    from edgekit.fleet.registry import read_csv

    _add("edgekit.fleet-device-import/1", read_csv(file, target), home, output, keys, out)


@command.command("list")
@home_option
@common_options
def list_(home: Path, out: Output) -> None:
    """List the devices that are registered, with their labels.

    \b
    Example:
      edgekit fleet device list --json
    """
    with _registry(home) as registry:
        found = registry.registered()
    rows = [{"name": one.name, "labels": dict(one.labels), "added_s": one.added_s} for one in found]

    def render(console: Console) -> None:
        from rich.text import Text

        for one in found:
            console.print(Text(f"  {one.name:24} {_words(one.labels)}".rstrip()))
        if not found:
            console.print(Text("  no device   next: edgekit fleet device add NAME --target rpi5"))

    quiet = "\n".join(one.name for one in found) or None
    out.emit("edgekit.fleet-device-list/1", {"devices": rows}, render, quiet=quiet)


@command.command("label")
@click.argument("name")
@click.argument("labels", nargs=-1, required=True, metavar="K=V|K-...")
@home_option
@common_options
def label(name: str, labels: Sequence[str], home: Path, out: Output) -> None:
    """Set labels of a device; a key with a hyphen behind it takes one away.

    \b
    Example:
      edgekit fleet device label cam-1 site=yard kind-
    """
    from edgekit.cli.commands.fleet_deploy import read_labels

    gone = [text[:-1] for text in labels if "=" not in text and text.endswith("-")]
    given = read_labels([text for text in labels if "=" in text or not text.endswith("-")])
    with _registry(home) as registry:
        found = dict(registry.label(name, given, gone))

    def render(console: Console) -> None:
        from rich.text import Text

        console.print(Text(f"  {name:24} {_words(found)}".rstrip()))

    out.emit("edgekit.fleet-device-label/1", {"name": name, "labels": found}, render, quiet=name)


@command.command("remove")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@home_option
@common_options
def remove(names: Sequence[str], home: Path, out: Output) -> None:
    """Take devices out of the fleet: the broker hangs up on them and lets them in no more.

    It forgets what it keeps of them, too. What they have sent stays in the store.

    \b
    Example:
      edgekit fleet device remove cam-1
    """
    with _registry(home) as registry:
        registry.remove(names)

    def render(console: Console) -> None:
        from rich.text import Text

        console.print(Text(f"  removed {', '.join(names)}"))

    out.emit(
        "edgekit.fleet-device-remove/1", {"removed": list(names)}, render, quiet="\n".join(names)
    )


def _add(
    schema: str,
    new: Sequence[NewDevice],
    home: Path,
    output: Path | None,
    keys: Sequence[Path],
    out: Output,
) -> None:
    from edgekit.cli.trust import trusted_keys

    folder = output if output is not None else home / "devices"
    _check_targets(new)
    signers = trusted_keys(keys)
    with _registry(home, signers) as registry:
        files = registry.add(new, folder)
    if not signers:
        out.note("  this machine has no key yet: the devices trust the fleet's orders alone;")
        out.note("  build a bundle first, or give the signer's key with --key PUB.pem")
    rows = [
        {"name": one.name, "target": one.target, "labels": dict(one.labels), "config": str(path)}
        for one, path in zip(new, files, strict=True)
    ]

    def render(console: Console) -> None:
        from rich.text import Text

        for row in rows if len(rows) <= 10 else rows[:3]:  # noqa: PLR2004
            console.print(Text(f"  {row['name']:24} {row['config']}"), soft_wrap=True)
        if len(rows) > 1:
            console.print(Text(f"  {len(rows)} devices in {folder}"))
        next_ = f"  next: edgekit agent run --config {rows[0]['config']}   on the device"
        console.print(Text(next_), soft_wrap=True)

    out.emit(schema, {"devices": rows}, render, quiet="\n".join(map(str, files)))


def _check_targets(new: Sequence[NewDevice]) -> None:
    from edgekit.toolchain.project import folders
    from edgekit.toolchain.targets import list_targets
    from edgekit.wire.errors import did_you_mean

    known = list_targets(folders(Path.cwd(), "targets"))
    for one in new:
        if one.target not in known:
            close = did_you_mean(one.target, known)
            raise UsageError(
                f"no target is named {one.target[:80]!r} (device {one.name})",
                hint=f"did you mean {close}?" if close else "`edgekit targets` lists them",
            )


@contextmanager
def _registry(home: Path, signers: Sequence[PublicKey] = ()) -> Iterator[Registry]:
    from edgekit.fleet.broker.process import forget, reload
    from edgekit.fleet.opened import Opened
    from edgekit.fleet.registry import Registry
    from edgekit.wire.signing import load_private_key

    with Opened(home) as opened:
        trusted = [load_private_key(opened.home.keys / "orders.pem").public, *signers]
        yield Registry(
            opened.home,
            opened.settings,
            opened.engine,
            trusted,
            lambda: reload(opened.home),
            lambda names: forget(opened.home, opened.settings, names),
            time.time,
        )


def _words(labels: Any) -> str:  # noqa: ANN401 - a mapping
    return " ".join(f"{key}={value}" for key, value in labels.items())
