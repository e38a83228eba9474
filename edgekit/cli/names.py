"""Names that a shell can complete: targets and models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


def complete_model(_ctx: click.Context, _param: click.Parameter, start: str) -> list[str]:
    """Return the models whose names begin as typed."""
    from edgekit.toolchain.api import model_names

    return [name for name in model_names(Path()) if name.startswith(start)]


def complete_target(_ctx: click.Context, _param: click.Parameter, start: str) -> list[str]:
    """Return the targets whose names begin as typed."""
    from edgekit.toolchain.project import folders
    from edgekit.toolchain.targets import list_targets

    return [name for name in list_targets(folders(Path(), "targets")) if name.startswith(start)]


def target_option(function: Any) -> Any:  # noqa: ANN401 - a decorator of any command
    """Add ``--target``, completed by the shell."""
    return click.option(
        "-t",
        "--target",
        required=True,
        metavar="TARGET",
        shell_complete=complete_target,
        help="The hardware; `edgekit targets` shows all.",
    )(function)


def project_option(function: Any) -> Any:  # noqa: ANN401 - a decorator of any command
    """Add ``--project``, the folder of models and targets."""
    return click.option(
        "--project",
        type=click.Path(path_type=Path),
        default=Path(),
        help="Folder with models/ and targets/; this one by default.",
    )(function)


def search_options(function: Any) -> Any:  # noqa: ANN401 - a decorator of any command
    """Add ``--search`` and ``--max-minutes``, how quantization plans are tried."""
    function = click.option(
        "--max-minutes",
        type=click.FloatRange(min=0, min_open=True),
        help="End a model's search after that long, with the best it has found.",
    )(function)
    return click.option(
        "--search",
        type=click.Choice(["quick", "full"]),
        help="quick stops at the first quantization plan that will do; full tries all.",
    )(function)
