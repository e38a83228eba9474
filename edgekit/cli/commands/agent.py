"""``edgekit agent``: the runtime on the device."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli.groups import CommandFiles

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
@click.option("-v", "--verbose", is_flag=True, help="Log details.")
def run(config: Path, verbose: bool) -> int:
    """Run the agent until it is told to stop.

    It serves the bundles that its settings name and those that the fleet orders, each after a
    self-test, and listens on loopback unless told otherwise.

    \b
    Example:
      edgekit agent run --config agent.json
    """
    from edgekit.agent.main import main

    arguments = ["--config", str(config), *(["--verbose"] if verbose else [])]
    return main(arguments)
