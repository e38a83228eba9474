"""``edgekit fleet watch``: a fleet, live."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.fleet_options import fleet_options
from edgekit.cli.output import Output, common_options

if TYPE_CHECKING:
    from rich.console import RenderableType

    from edgekit.fleet.client import Fleet

SCHEMA = "edgekit.fleet-summary/1"
_FRAME_ROWS = 12


@click.command("watch")
@click.option(
    "--every",
    "period_s",
    type=click.FloatRange(0.5, 3600),
    default=2.0,
    show_default=True,
    help="Seconds from one look to the next.",
)
@click.option("--once", is_flag=True, help="Look once; so does a pipe.")
@fleet_options
@common_options
def command(period_s: float, once: bool, fleet: Fleet, out: Output) -> None:
    """Watch a fleet: how many are online, what is the matter, which devices need you.

    Ctrl-C ends it.

    \b
    Examples:
      edgekit fleet watch
      edgekit fleet watch --once --json
    """
    import sys

    if once or out.json or out.quiet or not sys.stdout.isatty():
        seen = look(fleet)
        summary = seen["summary"]
        out.emit(
            SCHEMA,
            seen,
            lambda console: console.print(frame(fleet.place, seen, time.time(), 1 << 16)),
            quiet=f"{summary.get('online', 0)} of {summary.get('total', 0)}",
        )
        return
    from rich.live import Live

    with Live(console=out.stdout, screen=True, auto_refresh=False) as live:
        while True:
            height = max(1, out.stdout.size.height - _FRAME_ROWS)
            live.update(frame(fleet.place, look(fleet), time.time(), height), refresh=True)
            time.sleep(period_s)


def look(fleet: Fleet) -> dict[str, Any]:
    """Return what a frame shows: the worst devices first."""
    return {
        "summary": fleet.summary(),
        "alerts": fleet.alerts()[:10],
        "devices": fleet.devices(sort="alerts", descending=True, limit=100),
    }


def frame(place: str, seen: dict[str, Any], now_s: float, height: int) -> RenderableType:
    """Draw one frame.

    Args:
        place: Of the fleet.
        seen: As :func:`look` returns it.
        now_s: Unix time in seconds.
        height: Lines that devices may take.
    """
    from rich.console import Group
    from rich.text import Text

    from edgekit.cli.commands.fleet_devices import cells
    from edgekit.cli.fleet_view import age, one_line, table

    summary, alerts = seen["summary"], seen["alerts"]
    parts: list[RenderableType] = [Text(f"  {place}   {summary_line(summary)}"), Text("")]
    for alert in alerts:
        since = age(now_s - alert["opened_s"])
        parts.append(Text(f"  ! {alert['text']}   for {since}", style="red"))
    if alerts:
        parts.append(Text(""))
    made = table(
        ("device", "state", "seen", "temp", "cpu", "alerts", "serves", "p95", "labels"),
        right=("seen", "temp", "cpu", "alerts", "p95"),
        shrink=("serves", "labels"),
    )
    rows = seen["devices"][:height]
    for row in rows:
        made.add_row(*map(one_line, cells(row, now_s)))
    parts.append(made if rows else Text("  no devices yet   next: edgekit fleet device add NAME"))
    left = summary.get("total", len(rows)) - len(rows)
    if rows and left > 0:
        parts.append(Text(f"  and {left} more"))
    return Group(*parts)


def summary_line(summary: dict[str, Any]) -> str:
    """Return the fleet in one line."""
    total, online = summary.get("total", 0), summary.get("online", 0)
    words = [f"{online} of {total} online"]
    if summary.get("never_seen"):
        words.append(f"{summary['never_seen']} never seen")
    count = summary.get("open_alerts", 0)
    words.append(f"{count} alerts" if count else "all well")
    return "   ".join(words)
