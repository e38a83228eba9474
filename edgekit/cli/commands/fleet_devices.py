"""``edgekit fleet devices``: the devices of a fleet."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.fleet_options import fleet_options
from edgekit.cli.output import Output, common_options

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.fleet.client import Fleet

SCHEMA = "edgekit.fleet-devices/1"
# What the store calls the columns.
SORTS = {
    "name": "name",
    "seen": "last_seen_s",
    "temp": "temp_c",
    "cpu": "cpu_share",
    "version": "version",
    "alerts": "alerts",
}
STATES = ("online", "offline", "never")


@click.command("devices")
@click.argument("search", required=False, default="")
@click.option("--label", "labels", multiple=True, metavar="K=V", help="With this label.")
@click.option("--state", type=click.Choice(STATES), help="Connected now, not, or never yet.")
@click.option("--model", metavar="NAME", help="That serve this model.")
@click.option("--sort", type=click.Choice(list(SORTS)), default="name", help="By this column.")
@click.option("--descending", is_flag=True, help="The largest first.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most so many.")
@fleet_options
@common_options
def command(
    search: str,
    labels: Sequence[str],
    state: str | None,
    model: str | None,
    sort: str,
    descending: bool,
    limit: int | None,
    fleet: Fleet,
    out: Output,
) -> None:
    """List devices: connected or not, how warm, how busy, what they serve.

    \b
    Examples:
      edgekit fleet devices
      edgekit fleet devices cam --label site=roof --sort temp --descending
      edgekit fleet devices --state offline --json
    """
    from edgekit.cli.commands.fleet_deploy import read_labels

    rows = fleet.devices(
        search=search,
        labels=read_labels(labels),
        state=state,
        model=model,
        sort=SORTS[sort],
        descending=descending,
        limit=limit,
    )
    out.emit(
        SCHEMA,
        {"devices": rows},
        lambda console: render(console, rows, time.time()),
        quiet="\n".join(str(row["name"]) for row in rows) or None,
    )


def render(console: Console, rows: list[dict[str, Any]], now_s: float) -> None:
    """Print devices as a table."""
    from edgekit.cli.fleet_view import one_line, show, table

    if not rows:
        show(console, "  no such device   next: edgekit fleet device add NAME")
        return
    made = table(
        ("device", "state", "seen", "temp", "cpu", "alerts", "serves", "p95", "labels"),
        right=("seen", "temp", "cpu", "alerts", "p95"),
        shrink=("serves", "labels"),
    )
    for row in rows:
        made.add_row(*map(one_line, cells(row, now_s)))
    count = "1 device" if len(rows) == 1 else f"{len(rows)} devices"
    show(console, made, f"\n  {count}   next: edgekit fleet show {rows[0]['name']}")


def cells(row: dict[str, Any], now_s: float) -> tuple[str, ...]:
    """Return one device's row."""
    from edgekit.cli.fleet_view import NOTHING, age, number, share

    seen_s = row.get("last_seen_s")
    p95 = row.get("p95_ms") or {}
    serves = ", ".join(f"{name} {sha}" for name, sha in (row.get("models") or {}).items())
    return (
        f"  {row['name']}",
        state_word(row.get("online")),
        age(None if seen_s is None else now_s - seen_s),
        number(row.get("temp_c"), "°C"),
        share(row.get("cpu_share")),
        str(row.get("alerts") or NOTHING),
        serves or NOTHING,
        number(max((v for v in p95.values() if v is not None), default=None), "ms"),
        " ".join(f"{k}={v}" for k, v in (row.get("labels") or {}).items()) or NOTHING,
    )


def state_word(online: bool | None) -> str:
    """Return the word for a connection."""
    return {True: "online", False: "offline", None: "never seen"}[online]
