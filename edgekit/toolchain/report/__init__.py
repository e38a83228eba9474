"""The report of a build: one HTML file that works offline."""

from __future__ import annotations

from typing import Any


def render_report(document: dict[str, Any]) -> str:
    """Draw a report.

    Args:
        document: Of schema ``edgekit.report/1``, from :mod:`edgekit.toolchain.report.document`.

    Returns:
        A self-contained HTML page.
    """
    from edgekit.toolchain.report.page import render_page

    return render_page(document)
