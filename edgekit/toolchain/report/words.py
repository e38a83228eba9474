"""How a report writes metrics, numbers, units and long names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

_UNITS = {"ms": "ms", "us": "µs", "s": "s", "mib": "MiB", "kib": "KiB", "db": "dB"}
_LABELS = {
    "size_mib": "model size",
    "latency_p50_ms": "latency, median",
    "latency_p95_ms": "latency, 95th percentile",
    "peak_memory_mib": "peak memory",
}
_ACRONYMS = {"roc", "auc", "map", "cer", "wer", "f1", "iou", "sqnr", "psnr"}
_CONTROL = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]"
)
_SMALL = 0.001


def metric_unit(metric: str) -> str:
    """Return the unit at the end of a metric's name, or nothing for a ratio."""
    return _UNITS.get(metric.rpartition("_")[2], "")


def metric_label(metric: str) -> str:
    """Write a metric for people: ``top1_agreement`` is ``top1 agreement``."""
    if metric in _LABELS:
        return _LABELS[metric]
    parts = metric.split("_")
    if metric_unit(metric):
        parts = parts[:-1]
    return " ".join(p.upper() if p in _ACRONYMS else p for p in parts)


def number(value: float) -> str:
    """Write a number with three significant digits, without an exponent where it can be read."""
    if not math.isfinite(value):
        return "∞" if value > 0 else "-∞" if value < 0 else "not a number"
    if value == 0:
        return "0"
    if abs(value) >= 1000:  # noqa: PLR2004 - all digits before the point count from here on
        return f"{value:,.0f}".replace(",", "\u202f")
    if abs(value) < _SMALL:
        return f"{value:.2e}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"


def ratio(value: float) -> str:
    """Write a share between 0 and 1 with three decimals, so that a column lines up."""
    return f"{value:.3f}"


def quantity(metric: str, value: float) -> str:
    """Write a metric's value with its unit."""
    unit = metric_unit(metric)
    if unit:
        return f"{number(value)} {unit}"
    return ratio(value) if abs(value) < 10 else number(value)  # noqa: PLR2004 - a ratio


def interval(metric: str, bounds: tuple[float, float]) -> str:
    """Write an interval; the unit stands once."""
    unit = metric_unit(metric)
    low, high = (quantity(metric, b).removesuffix(f" {unit}") for b in bounds)
    return f"{low} – {high}{' ' + unit if unit else ''}"


def limit_text(metric: str, limit: str) -> str:
    """Add the metric's unit to a limit as the contract writes it: ``≤ 6`` is ``≤ 6 MiB``."""
    unit = metric_unit(metric)
    return f"{limit} {unit}".replace(" - ", " − ") if unit else limit.replace(" - ", " − ")


def byte_size(count: float) -> str:
    """Write a number of bytes in binary units."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:  # noqa: PLR2004 - binary units
            return f"{number(count)} {unit}"
        count /= 1024
    return f"{number(count)} GiB"


def ships(precision: str, reason: str) -> str:
    """Say what ships and why, in one sentence without its full stop."""
    return f"Ships as {precision}: {reason.removeprefix(f'{precision} is kept: ')}"


def printable(text: str) -> str:
    """Replace what no page may hold: control characters, lone surrogates, direction overrides."""
    return _CONTROL.sub("\ufffd", text)


def shorten(text: str, length: int) -> str:
    """Cut the middle out of a long name; both ends tell layers apart."""
    text = printable(" ".join(text.split()))
    if len(text) <= length:
        return text
    tail = (length - 1) * 2 // 3
    return f"{text[: length - 1 - tail]}…{text[-tail:]}"


def without_common_parts(names: Sequence[str]) -> list[str]:
    """Leave out the folders that all names start with and end in: they tell nothing apart."""
    split = [name.strip("/").split("/") for name in names]
    shortest = min((len(parts) for parts in split), default=0)
    if len(split) < 2:  # noqa: PLR2004 - one name has nothing in common with others
        return list(names)
    start = 0
    while start < shortest - 1 and len({parts[start] for parts in split}) == 1:
        start += 1
    end = 0
    while end < shortest - 1 - start and len({parts[-1 - end] for parts in split}) == 1:
        end += 1
    return ["/".join(parts[start : len(parts) - end]) for parts in split]


def provenance(measurement: Mapping[str, Any]) -> str:
    """Say how a number came to be: ``measured here``, ``predicted``, ``simulated``."""
    kind = str(measurement["kind"])
    where = str(measurement["where"])
    return "measured here" if kind == "measured" and where.endswith("host") else kind
