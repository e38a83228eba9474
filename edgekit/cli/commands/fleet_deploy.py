"""``edgekit fleet deploy``: a bundle to the devices of a fleet, followed to its end."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.output import Output, common_options
from edgekit.wire.errors import EXIT_INTERRUPTED, DeviceError, RolloutError, UsageError

if TYPE_CHECKING:
    from edgekit.cli.fleet_deploy_view import DeployView
    from edgekit.fleet.office import Office
    from edgekit.fleet.orders import Rollout

SCHEMA = "edgekit.fleet-deploy/1"
_PERIOD_S = 0.5
_MAX_LIFETIME_S = 30 * 86_400.0
_MIN_LIFETIME_S = 60.0
_SPAN = re.compile(r"(\d{1,6})(s|m|h|d)", re.ASCII)
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


@click.command("deploy")
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
@click.option(
    "--home",
    type=click.Path(path_type=Path),
    default=Path("fleet"),
    show_default=True,
    help="The fleet's folder.",
)
@click.option("--to", "labels", multiple=True, metavar="K=V", help="Devices with this label.")
@click.option("--device", "names", multiple=True, metavar="NAME", help="This device.")
@click.option("--all", "everything", is_flag=True, help="Every device of the fleet.")
@click.option(
    "--key",
    "keys",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="PUB.pem",
    help="Public key that signed the bundle. Default: this machine's own key.",
)
@click.option(
    "--expires",
    default="24h",
    show_default=True,
    metavar="TIME",
    help="A device that has not begun by then does not begin: 90m, 24h, 7d.",
)
@click.option(
    "--timeout", default="1h", show_default=True, metavar="TIME", help="Watch for so long at most."
)
@click.option("--no-wait", is_flag=True, help="Give the order and leave.")
@click.option("--follow", metavar="ORDER", help="Watch an order that was given before.")
@click.option("--cancel", metavar="ORDER", help="Call an order back.")
@click.option("--list", "show_list", is_flag=True, help="Show the last orders.")
@common_options
def command(
    bundle: Path | None,
    home: Path,
    labels: Sequence[str],
    names: Sequence[str],
    everything: bool,
    keys: Sequence[Path],
    expires: str,
    timeout: str,
    no_wait: bool,
    follow: str | None,
    cancel: str | None,
    show_list: bool,
    out: Output,
) -> int:
    """Order a bundle for devices of the fleet, and watch each until it is confirmed or reverted.

    A device that takes the order fetches the bundle, tests it on its own hardware, and lets it
    serve on trial; what fails goes back to what ran before. The exit code is 9 where that, or
    anything but a confirmation, happened on a device. Ctrl-C leaves the order standing.

    \b
    Examples:
      edgekit fleet deploy dist/pets-rpi5.ekb --to site=roof --to kind=camera
      edgekit fleet deploy dist/pets-rpi5.ekb --all --expires 7d --no-wait
      edgekit fleet deploy --cancel 20261126-221500-1f3a
    """
    from edgekit.fleet.opened import Opened

    chosen = [bundle is not None, follow is not None, cancel is not None, show_list]
    if sum(chosen) != 1:
        raise UsageError(
            "a BUNDLE, --follow, --cancel or --list, one of the four",
            hint="edgekit fleet deploy --help",
        )
    timeout_s = span_s(timeout, "--timeout")
    with Opened(home) as opened:
        office = opened.office()
        if show_list:
            _show_list(office, out)
            return 0
        if cancel is not None:
            office.cancel(cancel, time.time())
            return _watch(office, cancel, min(timeout_s, 30.0), out, is_cancel=True)
        if bundle is not None:
            lifetime_s = span_s(expires, "--expires")
            if not _MIN_LIFETIME_S <= lifetime_s <= _MAX_LIFETIME_S:
                raise UsageError("--expires must be within 60s and 30d")
            follow = _give(office, bundle, keys, labels, names, lifetime_s, out, all_=everything)
            if opened.bundles_stay_here:
                out.note("  ! devices elsewhere cannot fetch it: set http.url in fleet.toml")
        return _watch(office, follow or "", 0.0 if no_wait else timeout_s, out)


def span_s(text: str, option: str) -> float:
    """Read a span of time: ``90m`` is 5400.

    Raises:
        UsageError: It is none.
    """
    match = _SPAN.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{option} {text[:40]!r} is no time", hint="30s, 90m, 24h, 7d")
    return int(match[1]) * _UNITS_S[match[2]]


def read_labels(texts: Sequence[str]) -> dict[str, str]:
    """Read labels as they stand on a command line.

    Raises:
        UsageError: One has no ``=``, or two contradict each other.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise UsageError(f"{text[:80]!r} is no label", hint="--to site=roof")
        if found.setdefault(key, value) != value:
            raise UsageError(f"no device has two values of {key}", hint="every --to must hold")
    return found


def _give(
    office: Office,
    bundle: Path,
    keys: Sequence[Path],
    labels: Sequence[str],
    names: Sequence[str],
    lifetime_s: float,
    out: Output,
    *,
    all_: bool,
) -> str:
    from edgekit.cli.fleet_deploy_view import head
    from edgekit.cli.trust import trusted_keys

    wanted = read_labels(labels)
    if bool(wanted) + bool(names) + all_ != 1:
        raise UsageError("--to, --device or --all, one of the three", hint="--to site=roof")
    trusted = trusted_keys(keys)
    devices = office.choose(wanted, names)
    rollout = office.give(
        bundle, trusted, devices, lifetime_s, now_s=time.time(), token=secrets.token_hex(2)
    )
    where = " ".join(f"{k}={v}" for k, v in wanted.items()) or ("all" if all_ else "by name")
    for line in head(rollout, where):
        out.note(line)
    return rollout.order_id


def _show_list(office: Office, out: Output) -> None:
    from edgekit.cli.fleet_deploy_view import render_list, to_json

    rollouts = office.last_rollouts(50)
    out.emit(
        SCHEMA,
        {"orders": [to_json(rollout) for rollout in rollouts]},
        lambda console: render_list(console, rollouts, time.time()),
        quiet="\n".join(rollout.order_id for rollout in rollouts) or None,
    )


def _watch(
    office: Office, order_id: str, timeout_s: float, out: Output, *, is_cancel: bool = False
) -> int:
    from edgekit.cli.fleet_deploy_view import DeployView, render, to_json

    interrupted = False
    try:
        with DeployView.open(out) as view:
            rollout = _follow(office, order_id, timeout_s, view)
    except KeyboardInterrupt:
        interrupted = True
        rollout = office.rollout(order_id)
    out.emit(
        SCHEMA,
        {"order": to_json(rollout)},
        lambda console: render(console, rollout),
        quiet=order_id,
    )
    if not rollout.is_over:
        out.note("  the order stands; to watch it, or to call it back:")
        out.note(f"    edgekit fleet deploy --follow {order_id}")
        out.note(f"    edgekit fleet deploy --cancel {order_id}")
    if interrupted:
        return EXIT_INTERRUPTED
    if is_cancel or timeout_s == 0:
        return 0
    return RolloutError.exit_code if rollout.failed or not rollout.is_over else 0


def _follow(office: Office, order_id: str, timeout_s: float, view: DeployView) -> Rollout:
    deadline_s = time.monotonic() + timeout_s
    while True:
        now_s = time.time()
        try:
            office.tick(now_s)
        except DeviceError as error:
            if timeout_s == 0:
                raise
            view.problem(str(error))
        rollout = office.rollout(order_id)
        view.draw(rollout, office.online(rollout), now_s)
        if rollout.is_over or time.monotonic() >= deadline_s:
            return rollout
        time.sleep(_PERIOD_S)
