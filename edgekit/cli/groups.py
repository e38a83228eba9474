"""Groups of commands: one-line helps are shown whole, and a group alone can do something."""

from __future__ import annotations

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
