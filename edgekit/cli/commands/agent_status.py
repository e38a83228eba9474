"""``edgekit agent status``: what the agent on this machine does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.commands.agent import CONFIG
from edgekit.cli.output import Output, common_options
from edgekit.wire.errors import DeviceError

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.agent.status_read import AgentStatus, ModelStatus

_DIGITS = 12
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400


@click.command("status")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    default=CONFIG,
    show_default=True,
    help="The agent's settings.",
)
@common_options
def command(config: Path, out: Output) -> None:
    """Show what the agent on this machine serves: slots, broker, what waits to be sent.

    The exit code is 8 where it does not run.

    \b
    Examples:
      edgekit agent status
      sudo edgekit agent status --json
    """
    from edgekit.agent.status_read import read_status, state_dir_of

    status = read_status(state_dir_of(config))
    if not status.running:
        raise DeviceError(
            f"the agent is not running; it was process {status.pid}, edgekit {status.version}",
            hint="`edgekit agent logs` says why; `systemctl start edgekit-agent` or "
            f"`edgekit agent run --config {config}` starts it",
        )
    payload = {key: value for key, value in status.document.items() if key != "schema"}
    out.emit(
        "edgekit.agent.status/1",
        {**payload, "silent_s": status.silent_s},
        lambda console: _render(console, status),
        quiet="running",
    )


def _render(console: Console, status: AgentStatus) -> None:
    from rich.table import Table

    head = f"  {status.device} in {status.fleet}   {status.target}   edgekit {status.version}"
    up = f"up {span(status.uptime_s)}, process {status.pid}"
    console.print(f"{head}   {up}", markup=False, soft_wrap=True)
    console.print(f"  {status.http}   {status.broker}", markup=False, soft_wrap=True)
    console.print(f"  outbox: {status.outbox}", markup=False, soft_wrap=True)
    if status.silent_s is not None:
        silent = f"  no sign of life for {span(status.silent_s)}: it may hang"
        console.print(silent, markup=False, style="red", soft_wrap=True)
    console.print()
    if not status.models:
        console.print("  no models yet   next: name a bundle in the settings, or deploy one")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
    for name in ("  model", "slot", "serves", "next", "self-test"):
        table.add_column(name, no_wrap=name != "self-test")
    for model in status.models:
        table.add_row(*_row(model))
    console.print(table, markup=False)
    for model in status.models:
        if model.reason:
            console.print(f"  {model.name}: {model.reason}", markup=False, soft_wrap=True)
    console.print("\n  next: edgekit agent logs -f")


def _row(model: ModelStatus) -> tuple[str, ...]:
    on_trial = model.phase == "trial" and model.since_s is not None
    slot = f"{model.phase} since {span(model.since_s or 0.0)}" if on_trial else model.phase
    serves, waiting = ((digest or "–")[:_DIGITS] for digest in (model.serves, model.next))
    return f"  {model.name}", slot, serves, waiting, model.self_test or "–"


def span(seconds: float) -> str:
    """Write a span of time with two units at most: ``2 h 13 min``."""
    if seconds < _MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < _HOUR_S:
        return f"{seconds // _MINUTE_S:.0f} min"
    if seconds < _DAY_S:
        return f"{seconds // _HOUR_S:.0f} h {seconds % _HOUR_S // _MINUTE_S:.0f} min"
    return f"{seconds // _DAY_S:.0f} d {seconds % _DAY_S // _HOUR_S:.0f} h"
