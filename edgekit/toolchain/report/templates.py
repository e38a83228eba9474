"""Templates of pages: they escape everything, and share one style sheet."""

from __future__ import annotations

import functools
import importlib.resources
from typing import TYPE_CHECKING

from edgekit.toolchain.report import words
from edgekit.wire.errors import MissingToolError

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup


@functools.cache
def template(name: str) -> Template:
    """Load a template of this package.

    Args:
        name: ``page.html.j2``.

    Raises:
        MissingToolError: jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise MissingToolError(
            "jinja2 is not installed", hint="pip install 'edgekit[build]'"
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda v: words.printable(v) if type(v) is str else v,
    )
    environment.filters["number"] = words.number
    environment.filters["bytes"] = words.byte_size
    environment.globals["style"] = markup(_read("style.css"))
    return environment.get_template(name)


def markup(text: str) -> Markup:
    """Mark what this package has made as HTML; the texts in it are escaped already."""
    from markupsafe import Markup

    return Markup(text)  # noqa: S704


def _read(name: str) -> str:
    return importlib.resources.files(__package__ or "").joinpath(name).read_text(encoding="utf-8")
