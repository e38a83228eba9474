"""What every command prints with: results to stdout, progress and errors to stderr."""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgekit.wire.errors import EdgekitError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

F = TypeVar("F", bound=Callable[..., Any])
WIDTH = 100


@dataclass(frozen=True)
class Output:
    """How one command run prints.

    Attributes:
        json: Print exactly one JSON document.
        quiet: Print the result's path or name alone, and no progress.
        verbose: Log details to stderr.
    """

    json: bool
    quiet: bool
    verbose: bool

    @functools.cached_property
    def stdout(self) -> Console:
        """Console of results. Honours NO_COLOR and plain pipes."""
        return _console(stderr=False)

    @functools.cached_property
    def stderr(self) -> Console:
        """Console of progress and messages."""
        return _console(stderr=True)

    def emit(
        self,
        schema: str,
        payload: Mapping[str, Any],
        render: Callable[[Console], None],
        *,
        quiet: str | None = None,
    ) -> None:
        """Print a command's result.

        Args:
            schema: Name and version of the JSON document: ``edgekit.targets/1``.
            payload: The document without its ``schema``.
            render: Prints it for people.
            quiet: What ``--quiet`` prints instead; None prints nothing.
        """
        if self.json:
            click.echo(json.dumps({"schema": schema, **payload}, indent=2, ensure_ascii=False))
        elif self.quiet:
            if quiet is not None:
                click.echo(quiet)
        else:
            render(self.stdout)

    def note(self, text: str) -> None:
        """Print a line for people to stderr, unless quiet."""
        if not self.quiet:
            self.stderr.print(text, highlight=False, markup=False)

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """Draw progress bars on stderr; silent in pipes, with ``--quiet`` and with ``--json``."""
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        silent = self.quiet or self.json or not sys.stderr.isatty()
        with Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.stderr,
            transient=True,
            disable=silent,
        ) as progress:
            yield progress


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else WIDTH
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=False)


def common_options(function: F) -> F:
    """Add ``--json``, ``--quiet`` and ``--verbose``; the command gets them as ``out: Output``."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
    @click.option("-q", "--quiet", is_flag=True, help="Print the result alone.")
    @click.option("-v", "--verbose", is_flag=True, help="Log details; show tracebacks.")
    @functools.wraps(function)
    def wrapper(*args: Any, as_json: bool, quiet: bool, verbose: bool, **kwargs: Any) -> Any:  # noqa: ANN401
        logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
        # Ours alone: what libraries say at that level buries it.
        logging.getLogger("edgekit").setLevel(logging.DEBUG if verbose else logging.WARNING)
        return function(*args, out=Output(as_json, quiet, verbose), **kwargs)

    return wrapper  # type: ignore[return-value]


def show_error(error: EdgekitError, *, as_json: bool) -> None:
    """Print an error: one JSON document, or what, where and the next step."""
    if as_json:
        document = {
            "schema": "edgekit.error/1",
            "error": type(error).__name__,
            "message": error.message,
            "hint": error.hint,
            "where": error.where,
            "exit_code": error.exit_code,
        }
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    # click knows nothing of NO_COLOR.
    colour = None if os.environ.get("NO_COLOR") else "red"
    click.echo(click.style("error: ", fg=colour, bold=True) + str(error), err=True)
    if error.hint:
        click.echo(f"  hint: {error.hint}", err=True)
