"""matplotlib figures as inline SVG that takes its colours and its font from the page.

A figure is drawn with the colours of :class:`Ink`; in the SVG each becomes a CSS variable, so that
one drawing serves the light and the dark page. Text stays text.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from edgekit.toolchain.report import words
from edgekit.wire.errors import MissingToolError

WIDTH_IN = 4.6
FONT_PT = 10
_LEGEND_IN = 0.3


class Ink:
    """Colours to draw with (Okabe–Ito, and greys for text and lines)."""

    SHIPPED = "#0072b2"
    SHIPPED_FLOAT = "#56b4e9"
    FP32 = "#999999"
    LIMIT = "#d55e00"
    TEXT = "#000001"
    MUTED = "#666667"
    LINE = "#cccccd"
    PAPER = "#fffffe"


_VARIABLES = {
    Ink.SHIPPED: "--shipped",
    Ink.SHIPPED_FLOAT: "--shipped-float",
    Ink.FP32: "--fp32",
    Ink.LIMIT: "--limit",
    Ink.TEXT: "--text",
    Ink.MUTED: "--muted",
    Ink.LINE: "--line",
    Ink.PAPER: "--paper",
}
_SETTINGS = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": FONT_PT,
    "axes.edgecolor": Ink.MUTED,
    "axes.labelcolor": Ink.TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.linewidth": 0.8,
    "axes.titlelocation": "left",
    "axes.titlesize": FONT_PT,
    "axes.titlecolor": Ink.TEXT,
    "axes.grid.axis": "x",
    "grid.color": Ink.LINE,
    "grid.linewidth": 0.6,
    "xtick.color": Ink.MUTED,
    "ytick.color": Ink.MUTED,
    "xtick.labelcolor": Ink.TEXT,
    "ytick.labelcolor": Ink.TEXT,
    "text.color": Ink.TEXT,
    "legend.frameon": False,
    "legend.fontsize": FONT_PT,
    "hatch.linewidth": 0.8,
}
_TAG = re.compile(r"<[^<>]*>")
_DROPPED = re.compile(
    r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->|<\?xml[^>]*>|<!DOCTYPE[^>]*>",
    re.DOTALL,
)
_ID = re.compile(r'\bid="([^"]*)"')
_REFERENCE = re.compile(r'(?:xlink:)?href="#([^"]*)"|url\(#([^)]*)\)')
# Either ``font: 700 10px 'DejaVu Sans'`` or one property after the other, by matplotlib's version.
_FONT = re.compile(r"font: (?:(?:normal|(\d{3}|bold)) )*([\d.]+px)[^;\"]*")
_FONT_FAMILY = re.compile(r"font-family: [^;\"]*;? ?")
_COLOUR = re.compile("|".join(_VARIABLES))


@contextmanager
def _style(salt: str) -> Iterator[None]:
    """Set what the drawing depends on, whatever the user's own matplotlibrc says."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise MissingToolError(
            "matplotlib is not installed", hint="pip install 'edgekit[build]'"
        ) from error
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        mpl.rcParams.update({**_SETTINGS, "svg.hashsalt": salt})
        # The browser draws the text; that DejaVu lacks a sign does not matter.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from", category=UserWarning)
        warnings.filterwarnings("ignore", message=r"Matplotlib currently does not support .*")
        yield


def draw(
    name: str,
    description: str,
    height_in: float,
    paint: Callable[[Any], None],
) -> str:
    """Draw one figure.

    Args:
        name: Unique on the page; letters and dashes. Every id in the SVG starts with it.
        description: What a screen reader says.
        height_in: Height in inches; the width is always the same.
        paint: Gets the axes.

    Returns:
        An ``<svg>`` element.

    Raises:
        MissingToolError: matplotlib is not installed.
    """
    with _style(name):
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH_IN, height_in), facecolor="none")
        FigureCanvasSVG(figure)
        axes = figure.add_axes((0.1, 0.1, 0.8, 0.8), facecolor="none")
        paint(axes)
        out = io.StringIO()
        figure.savefig(
            out, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    return _inline(out.getvalue(), name, description)


def draw_file(
    kind: Literal["svg", "png"],
    height_in: float,
    paint: Callable[[Any], None],
    legend: Mapping[str, str],
) -> bytes:
    """Draw one figure as a file of its own, on white.

    Args:
        kind: The file's format.
        height_in: Height in inches without the legend; the width is always the same.
        paint: Gets the axes.
        legend: Labels with their colours, in a line above the axes.

    Raises:
        MissingToolError: matplotlib is not installed.
    """
    with _style("figure"):
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch

        figure = Figure(figsize=(WIDTH_IN, height_in + _LEGEND_IN), facecolor="white")
        axes = figure.add_axes((0.1, 0.1, 0.8, 0.8))
        paint(axes)
        box = axes.get_position()
        share = _LEGEND_IN / (height_in + _LEGEND_IN)
        axes.set_position((box.x0, box.y0, box.width, box.height - share))
        patches = [Patch(color=colour, label=label) for label, colour in legend.items()]
        figure.legend(handles=patches, loc="upper right", ncols=len(patches), borderaxespad=0.2)
        out = io.BytesIO()
        # Neither a date nor a version: the same rows give the same bytes.
        fields = ("Creator", "Date", "Format", "Type") if kind == "svg" else ("Software",)
        figure.savefig(out, format=kind, dpi=160, metadata=dict.fromkeys(fields))
    return out.getvalue()


def place(axes: Any, *, left_pt: float, bottom_pt: float, top_pt: float = 8) -> None:  # noqa: ANN401
    """Set the margins of a figure's axes in points; the right one is fixed."""
    width, height = (72 * float(v) for v in axes.figure.get_size_inches())
    right_pt = 12
    axes.set_position(
        (
            left_pt / width,
            bottom_pt / height,
            max(0.1, (width - left_pt - right_pt) / width),
            max(0.1, (height - bottom_pt - top_pt) / height),
        )
    )


def _inline(svg: str, name: str, description: str) -> str:
    """Turn a file of SVG into an element of a page."""
    svg = _TAG.sub(lambda tag: _tag(tag.group(), name), _DROPPED.sub("", svg)).strip()
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0]
    head = (
        f'<svg class="plot" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{_attribute(description)}">'
    )
    return words.printable(re.sub(r"\s*\n\s*", "\n", head + svg[svg.index(">") + 1 :]))


def _tag(tag: str, name: str) -> str:
    tag = _ID.sub(rf'id="{name}-\1"', tag)
    tag = _REFERENCE.sub(
        lambda m: f'href="#{name}-{m[1]}"' if m[1] is not None else f"url(#{name}-{m[2]})", tag
    )
    tag = _FONT_FAMILY.sub("", _FONT.sub(_font_size, tag))
    return _COLOUR.sub(lambda m: f"var({_VARIABLES[m.group()]})", tag)


def _font_size(font: re.Match[str]) -> str:
    return f"font-weight: {font[1]}; font-size: {font[2]}" if font[1] else f"font-size: {font[2]}"


def _attribute(text: str) -> str:
    for sign, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(sign, entity)
    return text
