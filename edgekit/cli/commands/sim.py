"""``edgekit sim``: thousands of simulated devices at a broker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.output import Output, common_options
from edgekit.wire.errors import ConfigError, DeviceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgekit.sim.summary import Summary

SCHEMA = "edgekit.sim/1"
_MAX_PASSWORDS_BYTES = 16 << 20


@click.command("sim")
@click.option(
    "--devices", "count", type=click.IntRange(1, 100_000), default=100, show_default=True,
    help="How many.",
)  # fmt: skip
@click.option(
    "--broker", metavar="HOST:PORT", default="127.0.0.1:1883", show_default=True,
    help="Where they connect.",
)  # fmt: skip
@click.option("--fleet", default="fleet", show_default=True, help="Name of the fleet.")
@click.option("--prefix", default="sim-", show_default=True, help="What their names begin with.")
@click.option(
    "--period", "period_s", type=click.FloatRange(0.01, 3600), default=1.0, show_default=True,
    help="Seconds from one sample to the next.",
)  # fmt: skip
@click.option(
    "--samples", type=click.IntRange(1, 1000), default=10, show_default=True, help="In a batch."
)
@click.option(
    "--for", "seconds", type=click.FloatRange(0.1), default=None,
    help="Ends after so many seconds, and once all is acknowledged; else with Ctrl-C.",
)  # fmt: skip
@click.option(
    "--drain", "drain_s", type=click.FloatRange(0), default=60.0, show_default=True,
    help="With --for: seconds to wait for the last acknowledgements at most.",
)  # fmt: skip
@click.option("--fault", "faults", multiple=True, metavar="NAME=SHARE", help="hot=0.05, …")
@click.option("--seed", type=int, default=1, show_default=True, help="Of all randomness.")
@click.option(
    "--trust", type=click.Path(path_type=Path), multiple=True, metavar="KEY.pub",
    help="Key whose orders they take; without one, none.",
)  # fmt: skip
@click.option(
    "--passwords", type=click.Path(path_type=Path), metavar="FILE",
    help="JSON: name of a device to its password; else they are anonymous.",
)  # fmt: skip
@click.option("--virtual", is_flag=True, help="No broker and no waiting: a virtual clock.")
@common_options
def command(
    count: int,
    broker: str,
    fleet: str,
    prefix: str,
    period_s: float,
    samples: int,
    seconds: float | None,
    drain_s: float,
    faults: tuple[str, ...],
    seed: int,
    trust: tuple[Path, ...],
    passwords: Path | None,
    virtual: bool,
    out: Output,
) -> int:
    """Simulate devices: the agent's real state machines, a fake runner, real MQTT.

    Faults: offline, slow, hot, bad-model, clock-skew, flood, duplicate, reorder, malformed.

    \b
    Examples:
      edgekit sim --devices 1000 --broker 127.0.0.1:1883 --for 60
      edgekit sim --devices 50 --fault hot=0.1 --fault offline=0.05
      edgekit sim --devices 20 --virtual --for 86400 --json
    """
    from edgekit.sim.build import make_devices
    from edgekit.sim.device import Plan, names
    from edgekit.sim.faults import parse_fault
    from edgekit.wire.signing import load_public_key
    from edgekit.wire.topics import check_name

    if virtual and seconds is None:
        raise UsageError("a virtual clock needs an end", hint="--for 3600")
    check_name(fleet, "fleet")
    check_name(f"{prefix}0", "device")
    plan = Plan(fleet, period_s, samples, tuple(load_public_key(path) for path in trust))
    shares = dict(parse_fault(text) for text in faults)
    named = names(count, prefix)
    if virtual:
        from edgekit.sim.virtual import VirtualRun, take_all

        devices = make_devices(named, plan, shares, seed, boot_id=_boot_id)
        run = VirtualRun(devices, take_all)
        show(run.run(seconds or 0.0), out, digest=run.digest)
        return 0
    from edgekit.sim.network import Broker, NetworkRun, run_until_interrupted

    host, port = _address(broker)
    at = Broker(host, port, read_passwords(passwords) if passwords else {})
    devices = make_devices(named, plan, shares, seed)
    summary = run_until_interrupted(
        lambda generator: NetworkRun(devices, at, generator), seconds, seed, out.note, drain_s
    )
    show(summary, out)
    if seconds is None or not summary.held:
        return 0
    out.note(
        f"error: {summary.held} messages were not acknowledged\n  hint: is the fleet's ingest"
        " running? does the broker let devices read `ack`?"
    )
    return DeviceError.exit_code


def show(summary: Summary, out: Output, **more: str) -> None:
    """Print what a simulation came to."""
    values = summary.to_json()
    rows = [f"  {name.replace('_', ' '):<14} {value}" for name, value in values.items()]
    out.emit(
        SCHEMA,
        {**values, **more},
        lambda console: console.print("\n".join(rows), highlight=False),
        quiet=f"{summary.acked} of {summary.messages}",
    )


def read_passwords(path: Path) -> Mapping[str, str]:
    """Read the passwords of devices.

    Raises:
        ConfigError: The file is not what it should be.
    """
    try:
        if path.stat().st_size > _MAX_PASSWORDS_BYTES:
            raise ConfigError("too large for passwords", where=str(path))
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError("the passwords cannot be read", where=str(path)) from error
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ConfigError("no JSON object of names and passwords", where=str(path))
    return found


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit():
        raise UsageError(f"{text[:80]!r} is no HOST:PORT", hint="--broker 127.0.0.1:1883")
    if not 1 <= int(port) <= 65535:  # noqa: PLR2004 - TCP's
        raise UsageError(f"{port} is no port", hint="1 to 65535")
    return host.strip("[]"), int(port)


def _boot_id(name: str) -> str:
    from edgekit.wire.canonical import sha256_hex

    return sha256_hex(name.encode())[:16]
