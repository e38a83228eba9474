"""``edgekit agent``: the runtime on the device."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli.groups import CommandFiles
from edgekit.cli.output import Output, common_options

SCHEMA = "edgekit.agent-status/1"
CONFIG = Path("/etc/edgekit/agent.json")


@click.group("agent", cls=CommandFiles, prefix="agent_")
def command() -> None:
    """Run models on a device: serve them, and tell the fleet how they do.

    \b
    Examples:
      edgekit agent run --config agent.json
      edgekit agent status
    """


@command.command("run")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    default=CONFIG,
    show_default=True,
    help="The settings.",
)
@common_options
def run(config: Path, out: Output) -> int:
    """Run the agent until it is told to stop.

    It serves the bundles that its settings name and those that the fleet orders, each after a
    self-test, and listens on loopback unless told otherwise. With --json its last status is printed
    when it ends.

    \b
    Example:
      edgekit agent run --config agent.json
    """
    from edgekit.agent.logbook import log_to_stderr
    from edgekit.agent.main import run_until_stopped

    log_to_stderr(verbose=out.verbose, quiet=out.quiet)
    status = run_until_stopped(config)
    out.emit(SCHEMA, status, lambda _console: None)
    return 0
