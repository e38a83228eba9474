"""Numbers and times in words, as the pages and the verdict say them."""

from __future__ import annotations

import datetime as dt
import math

_STEPS = ((60.0, "s", 1.0), (3600.0, "min", 60.0), (2 * 86_400.0, "h", 3600.0))
_UNITS = {
    "_ms": "ms", "_s": "s", "_c": "°C", "_mib": "MiB", "_bytes": "B", "_mhz": "MHz", "_share": "",
}  # fmt: skip
_GROUPED = 1000


def number(value: float | None, unit: str = "") -> str:
    """Write a number with three significant digits; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        text = "0"
    elif abs(value) >= _GROUPED:
        text = f"{value:,.0f}".replace(",", " ")
    else:
        places = max(0, 2 - math.floor(math.log10(abs(value))))
        text = f"{value:.{places}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    return f"{text} {unit}" if unit else text


def share(value: float | None) -> str:
    """Write a share of 0..1 in percent."""
    return "–" if value is None else number(100 * value, "%")


def duration(seconds: float) -> str:
    """Write how long something takes or is ago: ``12 s``, ``5 min``, ``3 h``, ``4 d``."""
    held = max(0.0, seconds)
    for below, unit, size in _STEPS:
        if held < below:
            return f"{math.floor(held / size)} {unit}"
    return f"{math.floor(held / 86_400)} d"


def count(n: int, one: str, many: str = "") -> str:
    """Write a number of things: ``1 device``, ``3 devices``."""
    return f"{number(n)} {one if n == 1 else many or one + 's'}"


def bytes_of(value: float | None) -> str:
    """Write a number of bytes in the unit that fits."""
    if value is None:
        return "–"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:  # noqa: PLR2004 - of a unit in the next
            return number(value, unit)
        value /= 1024
    return number(value, "TiB")


def unit_of(metric: str) -> str:
    """Return the unit that a metric's name ends in."""
    return next((unit for ending, unit in _UNITS.items() if metric.endswith(ending)), "")


def absolute(at_s: float) -> str:
    """Write a time of the server in full, in UTC."""
    return dt.datetime.fromtimestamp(at_s, dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
