"""``edgekit fleet show``: one device of a fleet."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.fleet_options import fleet_options
from edgekit.cli.output import Output, common_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from edgekit.fleet.client import Fleet

SCHEMA = "edgekit.fleet-device/1"
_HOUR_S = 3600.0
_DIGITS = 12
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
# Metric, label, unit, lowest bar, factor.
_PLOTS = (
    ("temp_c", "temperature", "°C", None, 1.0),
    ("cpu_share", "cpu", "%", 0.0, 100.0),
    ("rss_bytes", "agent's memory", "MiB", 0.0, 1 / (1 << 20)),
)


@click.command("show")
@click.argument("name")
@click.option(
    "--hours",
    type=click.FloatRange(0.1, 24 * 30),
    default=6.0,
    show_default=True,
    help="How far back the plots go.",
)
@fleet_options
@common_options
def command(name: str, hours: float, fleet: Fleet, out: Output) -> None:
    """Show a device: what it is, how it is, what it serves, what happened.

    \b
    Examples:
      edgekit fleet show cam-03
      edgekit fleet show cam-03 --hours 48
    """
    now_s = time.time()
    detail = fleet.device(name)
    since_s = now_s - hours * _HOUR_S
    series = {metric: fleet.series(name, metric, since_s, now_s) for metric, *_ in _PLOTS}
    latency = fleet.latency(device=name, since_s=since_s, until_s=now_s)
    events = fleet.events(name, limit=10)
    alerts = [row for row in fleet.alerts() if row.get("device") == name]
    out.emit(
        SCHEMA,
        {
            "device": detail,
            "series": series,
            "latency": latency,
            "events": events,
            "alerts": alerts,
        },
        lambda console: render(console, detail, series, latency, events, alerts, now_s, hours),
        quiet=name,
    )


def render(
    console: Console,
    detail: dict[str, Any],
    series: dict[str, list[tuple[float, float]]],
    latency: list[dict[str, Any]],
    events: list[dict[str, Any]],
    alerts: list[dict[str, Any]],
    now_s: float,
    hours: float,
) -> None:
    """Print a device: the answer first, then the plots, then what happened."""
    from edgekit.cli.fleet_view import show

    show(console, *_head(detail, now_s))
    for alert in alerts:
        show(console, f"  ! {alert['text']}", f"    next: {alert['todo']}")
    plots = list(_plots(series, latency))
    if plots:
        show(console, f"\n  the last {hours:g} h", *plots)
    if events:
        show(console, "")
        for event in reversed(events):
            show(console, f"  {event_line(event, now_s)}")
    row = detail.get("row", detail)
    if row.get("last_seen_s") is None:
        then = (
            "edgekit agent run --config agent.json   on the device, in the folder that it was given"
        )
    else:
        then = f"edgekit fleet tail {row['name']}"
    show(console, f"\n  next: {then}")


def _head(detail: dict[str, Any], now_s: float) -> Iterator[str]:
    from edgekit.cli.commands.fleet_devices import state_word
    from edgekit.cli.fleet_view import age

    row = detail.get("row", detail)
    seen_s = row.get("last_seen_s")
    state = state_word(row.get("online"))
    seen = "" if seen_s is None else f", seen {age(now_s - seen_s)} ago"
    labels = " ".join(f"{key}={value}" for key, value in (row.get("labels") or {}).items())
    words = (row["name"], f"{state}{seen}", row.get("target"), labels)
    yield "  " + "   ".join(word for word in words if word)
    if row.get("version"):
        facts = detail.get("facts") or {}
        more = "   ".join(f"{key} {value}" for key, value in facts.items())
        yield f"  edgekit {row['version']}   {more}".rstrip()
    p95 = row.get("p95_ms") or {}
    for model, sha256 in (row.get("models") or {}).items():
        ms = p95.get(model)
        slow = "" if ms is None else f"   p95 {ms:.3g} ms, measured there"
        yield f"  serves {model} {sha256[:_DIGITS]}{slow}"
    if row.get("phase"):
        why = f": {detail['reason']}" if detail.get("reason") else ""
        yield f"  last order: {row['phase']}{why}"


def _plots(
    series: dict[str, list[tuple[float, float]]], latency: list[dict[str, Any]]
) -> Iterator[str]:
    from edgekit.cli.fleet_view import sparkline

    for metric, label, unit, floor, factor in _PLOTS:
        values = [value * factor for _, value in series.get(metric, [])]
        if values:
            line = sparkline(values, floor=floor)
            yield f"  {label:<16} {line}  {values[-1]:.3g} {unit}   max {max(values):.3g}"
    p95 = [point.get("p95") for point in latency]
    known = [value for value in p95 if value is not None]
    if known:
        line = sparkline(p95, floor=0.0)
        yield f"  {'p95 latency':<16} {line}  {known[-1]:.3g} ms   max {max(known):.3g}"


def event_line(event: dict[str, Any], now_s: float) -> str:
    """Return an event as one line."""
    from edgekit.cli.fleet_view import age

    values = event.get("values") or {}
    what = values.get("what") or values.get("name") or event.get("name") or "event"
    rest = "   ".join(
        f"{key.removesuffix('_sha256')} {_short(value)}"
        for key, value in values.items()
        if key not in {"what", "name"} and value != "" and not isinstance(value, dict | list)
    )
    at_s = event.get("received_s")
    ago = age(None if at_s is None else now_s - at_s)
    return f"{ago:>7}   {event.get('device', ''):<20} {what}   {rest}".rstrip()


def _short(value: object) -> str:
    text = str(value)
    return text[:_DIGITS] if _SHA256.fullmatch(text) else text[:80]
