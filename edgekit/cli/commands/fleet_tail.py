"""``edgekit fleet tail``: what happens in a fleet, as it happens."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.fleet_options import fleet_options
from edgekit.cli.output import Output, common_options

if TYPE_CHECKING:
    from edgekit.fleet.client import Fleet

SCHEMA = "edgekit.fleet-events/1"
_PERIOD_S = 1.0
_AT_ONCE = 1000
# A batch may be committed with a time a little before one that was read already.
_OVERLAP_S = 5.0


@click.command("tail")
@click.argument("device", required=False)
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(0, _AT_ONCE),
    default=20,
    show_default=True,
    help="How many of the last events come first.",
)
@click.option("--no-follow", is_flag=True, help="End after these; so does --json.")
@fleet_options
@common_options
def command(device: str | None, lines: int, no_follow: bool, fleet: Fleet, out: Output) -> None:
    """Follow the events of a fleet, or of one device: orders, trials, refusals, drops.

    Ctrl-C ends it.

    \b
    Examples:
      edgekit fleet tail
      edgekit fleet tail cam-03 -n 100 --no-follow
    """
    last = fleet.events(device, limit=lines)[::-1] if lines else []
    if out.json:
        out.emit(SCHEMA, {"events": last}, lambda _console: None)
        return
    _print(last)
    if no_follow:
        return
    seen = _Seen(last, time.time())
    while True:
        time.sleep(_PERIOD_S)
        _print(seen.new(fleet.events(device, since_s=seen.since_s, limit=_AT_ONCE)))


class _Seen:
    """Knows which events have been printed."""

    def __init__(self, events: list[dict[str, Any]], now_s: float) -> None:
        self._known: dict[object, float] = {}
        self._last_s = now_s
        self.new(events)

    @property
    def since_s(self) -> float:
        """From when on to ask."""
        return self._last_s - _OVERLAP_S

    def new(self, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return those that are new, oldest first."""
        fresh = []
        for event in sorted(events, key=lambda event: float(event.get("received_s") or 0.0)):
            key = event.get("id")
            at_s = float(event.get("received_s") or 0.0)
            if key not in self._known:
                self._known[key] = at_s
                fresh.append(event)
            self._last_s = max(self._last_s, at_s)
        self._known = {k: at for k, at in self._known.items() if at >= self.since_s - _OVERLAP_S}
        return fresh


def _print(events: list[dict[str, Any]]) -> None:
    from edgekit.cli.commands.fleet_show import event_line

    for event in events:
        click.echo(event_line(event, time.time()))
    sys.stdout.flush()
