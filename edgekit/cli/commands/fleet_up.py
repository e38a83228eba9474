"""``edgekit fleet up``: the whole fleet on this machine, until Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.fleet_options import home_option
from edgekit.cli.output import Output, common_options
from edgekit.wire.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.fleet.up import Running

SCHEMA = "edgekit.fleet-up/1"


@click.command("up")
@home_option
@click.option("--port", type=click.IntRange(1, 65535), help="Port of HTTP.")
@click.option(
    "--broker-port", type=click.IntRange(1, 65535), help="Port of the broker on loopback."
)
@click.option(
    "--listen",
    metavar="ADDRESS",
    help="IP address for HTTP and, over TLS, devices. Default: loopback alone.",
)
@common_options
def command(
    home: Path,
    port: int | None,
    broker_port: int | None,
    listen: str | None,
    out: Output,
) -> int:
    """Run a fleet on this machine: broker, ingest, alerts and dashboard, until Ctrl-C.

    The folder is made where there is none. The link to the dashboard lets in once. Devices come in
    with `edgekit fleet device add`. A part that dies is started again. With --json one document
    says where all listens, once it does.

    \b
    Examples:
      edgekit fleet up
      edgekit fleet up --home roof --port 9000
      edgekit fleet up --listen 192.168.1.10
    """
    from edgekit.fleet.home import FleetHome
    from edgekit.fleet.settings import is_address
    from edgekit.fleet.up import running

    if listen is not None and not is_address(listen):
        raise UsageError(f"--listen {listen[:80]!r} is no IP address", hint="--listen 192.168.1.10")
    given: dict[str, str | int] = {}
    if port is not None:
        given["http_port"] = port
    if broker_port is not None:
        given["broker_port"] = broker_port
    if listen is not None:
        given |= {"http_host": listen, "broker_listen": listen}
    with _stopping() as stop, running(FleetHome.create(home), given, stop.is_set) as fleet:
        _show(fleet, home, out)
        _watch(fleet, stop, out)
    out.note("  stopped")
    return 0


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    stop = threading.Event()
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    # While the parts start, Ctrl-C ends that; the `with` stops those that run.
    before = {number: signal.signal(number, _interrupt(stop)) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(stop: threading.Event):  # type: ignore[no-untyped-def]  # noqa: ANN202
    def handle(_number: int, _frame: object) -> None:
        stop.set()

    return handle


def _show(fleet: Running, home: Path, out: Output) -> None:
    from edgekit.fleet.home import FleetHome
    from edgekit.fleet.ports import read_ports

    ports = read_ports(FleetHome(home))
    parts = {
        child.part.name: child.process.pid for child in fleet.supervisor.children if child.process
    }
    payload = {
        "fleet": fleet.settings.name,
        "home": str(home.resolve()),
        "url": fleet.url,
        "listens": ports,
        "parts": parts,
    }

    def render(console: Console) -> None:
        from rich.text import Text

        console.print(Text(f"  fleet {fleet.settings.name} in folder {home}: {', '.join(parts)}"))
        for kind, where in ports.items():
            console.print(Text(f"    {kind:6} {where}"))
        if fleet.url is not None:
            console.print(Text(f"    open   {fleet.url}", no_wrap=True), soft_wrap=True)
        at = "" if str(home) == "fleet" else f" --home {home}"
        console.print(
            Text(f"  next: edgekit fleet device add NAME --target rpi5{at}   Ctrl-C stops")
        )

    out.emit(SCHEMA, payload, render, quiet=fleet.url or "")


def _watch(fleet: Running, stop: threading.Event, out: Output) -> None:
    from edgekit.fleet.up import keep

    console = out.stderr
    if out.quiet or out.json or not console.is_terminal:
        keep(fleet, stop, lambda text: out.note(f"  {text}") if text else None)
        return
    from rich.text import Text

    since_s = time.monotonic()
    with console.status(Text("")) as status:

        def show(text: str) -> None:
            if text:
                console.print(Text(f"  {text}"))
            states = fleet.supervisor.states()
            shown = "   ".join(f"{name} {state}" for name, state in states.items())
            status.update(Text(f"{shown}   {(time.monotonic() - since_s) / 60:.0f} min"))

        keep(fleet, stop, show)
