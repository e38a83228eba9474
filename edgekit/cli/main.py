"""The ``edgekit`` command: finds commands by their file's name and turns errors into exit codes."""

from __future__ import annotations

import sys
from typing import Any

import click

import edgekit
from edgekit.cli.groups import CommandFiles
from edgekit.cli.output import show_error
from edgekit.wire.errors import EXIT_INTERRUPTED, EdgekitError, UsageError


@click.group(cls=CommandFiles, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(edgekit.__version__, prog_name="edgekit")
def cli() -> None:
    """From a model to a fleet of edge devices, under one acceptance contract.

    \b
    Example:
      edgekit build efficientnet-lite0 --target rpi5
    """


def _usage_error(error: click.ClickException) -> UsageError:
    hint = None
    context = getattr(error, "ctx", None)
    message = error.format_message().rstrip(".")
    if isinstance(error, click.NoSuchOption):
        message = f"no such option {error.option_name}"
        hint = f"did you mean {error.possibilities[0]}?" if error.possibilities else None
    elif isinstance(error, click.MissingParameter) and _is_target(error.param):
        message = "--target is missing"
        hint = "`--target rpi5`, for one; `edgekit targets` shows all"
    if hint is None and context is not None:
        hint = f"`{context.command_path} --help` shows how it is used"
    return UsageError(message, hint=hint)


def _is_target(param: click.Parameter | None) -> bool:
    return param is not None and "--target" in param.opts


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: list[str]) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name.

    Returns:
        The exit code; see :mod:`edgekit.wire.errors`.
    """
    as_json = "--json" in argv
    verbose = "--verbose" in argv or "-v" in argv
    try:
        result: Any = cli.main(args=argv, prog_name="edgekit", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        # Nothing was asked for: the help is the answer, though not what a script wanted.
        click.echo(error.format_message(), err=True)
        return UsageError.exit_code
    except click.ClickException as error:
        failure: EdgekitError = _usage_error(error)
    except EdgekitError as error:
        if verbose:
            import traceback

            traceback.print_exc()
        failure = error
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted; what was finished is kept, and the next run goes on", err=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output is gone (`edgekit … | head`): nothing is wrong.
        sys.stderr.close()
        return 0
    show_error(failure, as_json=as_json)
    return failure.exit_code
