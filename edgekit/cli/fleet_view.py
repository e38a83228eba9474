"""How a fleet looks in a terminal: tables, ages, sparklines."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

_BARS = "▁▂▃▄▅▆▇█"
_SECONDS = ((86_400.0, "d"), (3600.0, "h"), (60.0, "min"))
NOTHING = "–"


def sparkline(values: Sequence[float | None], width: int = 40, floor: float | None = None) -> str:
    """Draw values as a line of bars; what is missing is a space.

    Args:
        values: From left to right. More than fit are thinned by the largest of each group, so that
            no peak is lost.
        width: Most signs.
        floor: Value of the lowest bar; the smallest value by default.
    """
    shown = _thinned(values, width)
    known = [value for value in shown if value is not None]
    if not known:
        return ""
    low = min(known) if floor is None else floor
    span = max(known) - low
    return "".join(" " if value is None else _BARS[_level(value - low, span)] for value in shown)


def _level(above: float, span: float) -> int:
    if span <= 0:
        return 0
    return max(0, min(len(_BARS) - 1, int(above / span * len(_BARS))))


def _thinned(values: Sequence[float | None], width: int) -> list[float | None]:
    finite = [None if value is None or not math.isfinite(value) else value for value in values]
    if len(finite) <= width:
        return finite
    groups = (
        finite[i * len(finite) // width : (i + 1) * len(finite) // width] for i in range(width)
    )
    return [max((v for v in group if v is not None), default=None) for group in groups]


def age(seconds: float | None) -> str:
    """Write how long ago something was: ``12 s``, ``3 min``, ``2 h``, ``4 d``."""
    if seconds is None:
        return NOTHING
    for size_s, unit in _SECONDS:
        if seconds >= size_s:
            return f"{seconds / size_s:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def number(value: float | None, unit: str = "") -> str:
    """Write a number with three digits, or a dash where it is not known."""
    return NOTHING if value is None else f"{value:.3g} {unit}".rstrip()


def share(value: float | None) -> str:
    """Write 0..1 in percent."""
    return NOTHING if value is None else f"{100 * value:.3g} %"


def table(columns: Iterable[str], right: Iterable[str] = (), shrink: Iterable[str] = ()) -> Table:
    """Make a plain table.

    Args:
        columns: Their heads.
        right: Those that are aligned there.
        shrink: Those that a narrow terminal cuts before any other.
    """
    from rich.table import Table

    made = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, pad_edge=False)
    rights, shrinking = set(right), set(shrink)
    for index, name in enumerate(columns):
        head = f"  {name}" if index == 0 else name
        made.add_column(
            head,
            justify="right" if name in rights else "left",
            no_wrap=name not in shrinking,
            overflow="ellipsis",
        )
    return made


def one_line(text: str) -> Text:
    """Return a cell that is cut where it is too long, never wrapped."""
    from rich.text import Text

    return Text(text, no_wrap=True, overflow="ellipsis")


def show(console: Console, *parts: RenderableType) -> None:
    """Print parts without reading marks into what devices say."""
    for part in parts:
        console.print(part, markup=False, soft_wrap=isinstance(part, str))
