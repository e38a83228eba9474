"""``edgekit fleet demo``: a living fleet of simulated devices, within a minute."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from edgekit.cli.output import Output, common_options
from edgekit.wire.errors import DeviceError

if TYPE_CHECKING:
    from edgekit.fleet.home import FleetHome
    from edgekit.fleet.settings import Settings
    from edgekit.sim.summary import Summary

SCHEMA = "edgekit.fleet-demo/1"
_STOP_S = 30.0


@click.command("demo")
@click.option(
    "--devices", "count", type=click.IntRange(1, 5000), default=50, show_default=True,
    help="How many.",
)  # fmt: skip
@click.option(
    "--home", type=click.Path(path_type=Path), default=Path("fleet-demo"), show_default=True,
    help="The fleet's folder; made where there is none.",
)  # fmt: skip
@click.option("--port", type=click.IntRange(1, 65535), help="Port of HTTP.")
@click.option("--broker-port", type=click.IntRange(1, 65535), help="Port of the broker.")
@click.option(
    "--for", "seconds", type=click.FloatRange(1), default=None, help="Ends after so many seconds."
)
@common_options
def command(
    count: int,
    home: Path,
    port: int | None,
    broker_port: int | None,
    seconds: float | None,
    out: Output,
) -> None:
    """Run a whole fleet with simulated devices, until Ctrl-C; some of them have faults.

    \b
    Examples:
      edgekit fleet demo
      edgekit fleet demo --devices 500 --home big
    """
    from edgekit.fleet.home import FleetHome
    from edgekit.fleet.settings import Settings, load_settings, write_settings
    from edgekit.sim.demo import is_ready, register
    from edgekit.sim.device import names

    fleet = FleetHome.create(home)
    if not fleet.settings_file.exists():
        write_settings(fleet, Settings())
    if is_ready(fleet):
        raise DeviceError(
            "a fleet runs in this folder already", hint="--home names another", where=str(home)
        )
    named = names(count)
    passwords = register(fleet, named, time.time())
    words = [sys.executable, "-m", "edgekit", "fleet", "up", "--home", str(home)]
    words += [] if port is None else ["--port", str(port)]
    words += [] if broker_port is None else ["--broker-port", str(broker_port)]
    with _running(fleet, words, sys.stderr if out.json or out.quiet else None):
        out.note(f"  {count} simulated devices, some with faults; in another terminal:")
        out.note(f"  next: edgekit fleet watch --home {home}")
        summary = simulate(fleet, load_settings(fleet), passwords, seconds)
    out.emit(
        SCHEMA,
        {"home": str(home), **summary.to_json()},
        lambda console: console.print(f"  {summary.devices} simulated devices have stopped"),
    )


@contextmanager
def _running(fleet: FleetHome, words: list[str], stdout: TextIO | None) -> Iterator[None]:
    """Have a fleet run; Ctrl-C stops the devices first, then this stops the fleet."""
    from edgekit.sim.demo import is_ready

    with subprocess.Popen(words, stdout=stdout, start_new_session=True) as up:
        try:
            while not is_ready(fleet):
                if up.poll() is not None:
                    raise DeviceError("the fleet does not start", hint="edgekit fleet up says why")
                time.sleep(0.1)
            yield
        finally:
            up.terminate()
            try:
                up.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                up.kill()


def simulate(
    fleet: FleetHome,
    settings: Settings,
    passwords: dict[str, str],
    seconds: float | None,
) -> Summary:
    """Run the devices of a demo until Ctrl-C; return what it came to."""
    from edgekit.sim.build import make_devices
    from edgekit.sim.demo import DEMO_FAULTS, order_keys
    from edgekit.sim.device import Plan
    from edgekit.sim.faults import parse_fault
    from edgekit.sim.network import Broker, NetworkRun, run_until_interrupted

    plan = Plan(settings.name, keys=order_keys(fleet))
    faults = dict(parse_fault(text) for text in DEMO_FAULTS)
    devices = make_devices(list(passwords), plan, faults, seed=1)
    at = Broker(settings.broker_host, settings.broker_port, passwords)
    return run_until_interrupted(
        lambda generator: NetworkRun(devices, at, generator), seconds, 1, lambda _text: None
    )
