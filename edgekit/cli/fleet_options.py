"""Which fleet a command is about: its folder, or its server and a token."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgekit.wire.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from edgekit.fleet.client import Fleet

F = TypeVar("F", bound=Callable[..., Any])
MAX_TOKEN_BYTES = 4096


def home_option(function: F) -> F:
    """Add ``--home``, the fleet's folder."""
    return click.option(
        "--home",
        type=click.Path(path_type=Path),
        default=Path("fleet"),
        show_default=True,
        help="The fleet's folder.",
    )(function)


def fleet_options(function: F) -> F:
    """Add ``--home``, ``--url`` and ``--token-file``; the command gets ``fleet: Fleet``."""

    @home_option
    @click.option("--url", metavar="URL", help="The fleet's server, in place of its folder.")
    @click.option(
        "--token-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="File with a token for the server.",
    )
    @functools.wraps(function)
    def wrapper(
        *args: Any,  # noqa: ANN401 - click's
        home: Path,
        url: str | None,
        token_file: Path | None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        with open_fleet(home, url, token_file) as fleet:
            return function(*args, fleet=fleet, **kwargs)

    return wrapper  # type: ignore[return-value]


def open_fleet(home: Path, url: str | None, token_file: Path | None) -> Fleet:
    """Open the fleet that the options name.

    Raises:
        UsageError: A token without a server.
        ConfigError: The folder is no fleet, or the token cannot be read.
    """
    from edgekit.fleet.client import Fleet

    if url is None:
        if token_file is not None:
            raise UsageError("--token-file goes with --url")
        return Fleet(home)
    return Fleet(url, _token(token_file) if token_file is not None else None)


def _token(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TOKEN_BYTES + 1)
        text = data.decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("the token cannot be read", where=str(path)) from error
    if not text or len(data) > MAX_TOKEN_BYTES or not text.isprintable():
        raise ConfigError("the file holds no token", where=str(path))
    return text
