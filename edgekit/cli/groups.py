"""Groups of commands: one-line helps are shown whole, and a group alone can do something."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import click

from edgekit.wire.errors import UsageError, did_you_mean

_UNCUT = 1 << 10


class Group(click.Group):
    """A group whose commands' helps are wrapped, never cut.

    Args:
        default: The command that runs where none is named; without it the group's help is shown.
    """

    def __init__(self, *args: Any, default: str | None = None, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        self._default = default

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put in the default command where only options, or nothing, are given."""
        alone = not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names)
        if self._default is not None and alone:
            args = [self._default, *args]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is named.

        Raises:
            UsageError: There is none.
        """
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            close = did_you_mean(name, self.list_commands(ctx))
            help_ = f"`{ctx.command_path} --help` shows all"
            raise UsageError(
                f"no such command {name}", hint=f"did you mean {close}?" if close else help_
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [
            (name, command.get_short_help_str(_UNCUT))
            for name, command in found
            if command is not None and not command.hidden
        ]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


class CommandFiles(Group):
    """A group whose commands are modules of :mod:`edgekit.cli.commands`, imported one by one.

    Args:
        prefix: Of the modules' names: ``agent_`` for the commands of ``edgekit agent``. The top
            level has none, and leaves out what belongs to such a group.
    """

    def __init__(self, *args: Any, prefix: str = "", **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        self._prefix = prefix

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        names = [m.name for m in pkgutil.iter_modules(_commands().__path__)]
        own = [n.removeprefix(self._prefix) for n in names if n.startswith(self._prefix)]
        if not self._prefix:
            own = [n for n in own if n.partition("_")[0] not in names or "_" not in n]
        return sorted({*super().list_commands(ctx), *(name.replace("_", "-") for name in own)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        written: click.Command | None = super().get_command(ctx, cmd_name)
        if written is not None or cmd_name not in self.list_commands(ctx):
            return written
        name = f"{_commands().__name__}.{self._prefix}{cmd_name.replace('-', '_')}"
        command: click.Command = importlib.import_module(name).command
        return command


def _commands() -> Any:  # noqa: ANN401 - a package
    return importlib.import_module("edgekit.cli.commands")
