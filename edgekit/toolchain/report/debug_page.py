"""The page of ``edgekit debug-quant``: what each layer, output and sample loses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.toolchain.report import plots, words
from edgekit.toolchain.report.samples import shown_samples
from edgekit.toolchain.report.templates import markup, template

_LOWEST = 12


def render_debug_page(document: Mapping[str, Any]) -> str:
    """Draw the page.

    Args:
        document: From :func:`edgekit.toolchain.debug_quant.debug_quant`.

    Returns:
        A self-contained HTML page.

    Raises:
        MissingToolError: jinja2 or matplotlib is not installed.
    """
    measured = [row for row in document["layers"] if row["sqnr_db"] is not None]
    lowest = sorted(measured, key=lambda r: (float(r["sqnr_db"]), r["number"]))[:_LOWEST]
    return template("debug_quant.html.j2").render(
        d=document,
        plot=markup(plots.layers("layers", measured)) if measured else None,
        lowest=lowest,
        kept=[row for row in document["layers"] if not row["int8"]],
        metric=words.metric_label(document["samples"]["metric"]),
        samples=shown_samples(document["samples"]["rows"]),
    )
