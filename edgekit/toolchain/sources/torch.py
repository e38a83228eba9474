"""``torch:`` names a factory of a PyTorch model; the export calls it in a process of its own."""

from __future__ import annotations

import re
from pathlib import Path

from edgekit.toolchain.recipe import SourceRef
from edgekit.toolchain.sources._context import Context, purl
from edgekit.wire.errors import ConfigError

SYNTAX = "torch:PACKAGE.MODULE:FACTORY"
EXAMPLE = "torch:efficientnet_lite0:create"

_REFERENCE = re.compile(
    r"torch:(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<factory>[A-Za-z_]\w*)", re.ASCII
)


def parse(ref: SourceRef) -> tuple[str, str]:
    """Return the module and the name of the factory in it.

    Raises:
        ConfigError: The URI is malformed.
    """
    match = _REFERENCE.fullmatch(ref.uri)
    if match is None:
        raise ConfigError(f'"{ref.uri}" is malformed', hint=f"expected {SYNTAX}", where=ref.where)
    return match["module"], match["factory"]


def describe(ref: SourceRef) -> str:
    """Return a generic purl of the factory; what it imports has purls of its own."""
    module, factory = parse(ref)
    return purl("generic", module, subpath=factory)


def fetch(ref: SourceRef, context: Context) -> Path:
    """Return the recipe's folder: there is nothing to fetch but the recipe's packages."""
    parse(ref)
    return context.folder
