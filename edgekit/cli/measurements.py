"""How measurements and a contract look in a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

_NEAR_ONE = 0.9995
_ONE = 1 - 1e-9  # what is left of 1 after rounding in a sum


def contract_table(summary: Mapping[str, Any]) -> Table:
    """Return what was measured beside fp32 and the contract.

    Args:
        summary: ``precision``, ``fp32`` and ``measurements`` (each a list of measurements as JSON)
            and ``contract`` (requirements with ``limit`` and ``outcome``).
    """
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
    table.add_column("")
    ships_fp32 = summary["precision"] == "fp32"
    for name in ("fp32", *([] if ships_fp32 else [summary["precision"]]), "contract"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    table.add_column("")
    fp32 = {m["metric"]: m for m in summary["fp32"]}
    contract = {c["metric"]: c for c in summary["contract"]}
    for measurement in summary["measurements"]:
        requirement = contract.get(measurement["metric"])
        table.add_row(
            measurement["metric"],
            *([] if ships_fp32 else [number(fp32.get(measurement["metric"]))]),
            number(measurement),
            requirement["limit"] if requirement else "–",
            mark(requirement["outcome"]) if requirement else "",
            provenance(measurement),
        )
    return table


def number(measurement: Mapping[str, Any] | None) -> str:
    """Write a measurement's value; a dash where there is none."""
    if measurement is None:
        return "–"
    value = float(measurement["value"])
    return _share(value) if value <= 1 else f"{value:.3g}"


def _share(value: float) -> str:
    """Write a share with three decimals; as many as it takes where they would say 1 of less."""
    if not _NEAR_ONE < value < _ONE:
        return f"{value:.3f}"
    return f"{value:.{min(9, 1 - math.floor(math.log10(1 - value)))}f}"


def mark(outcome: str) -> str:
    """Write what the contract says of one metric."""
    return {"pass": "✓", "fail": "✗", "absent": "✗", "undecided": "? the device decides"}[outcome]


def provenance(measurement: Mapping[str, Any]) -> str:
    """Say what a number rests on: n, interval, measured or predicted, and where."""
    words = []
    if "n" in measurement:
        words.append(f"n={measurement['n']}")
    interval = measurement.get("interval")
    if interval:
        low, high = (_share(v) if _NEAR_ONE < v < _ONE else f"{v:.3g}" for v in interval)
        words.append(f"{low} to {high}")
    here = measurement["kind"] == "measured"
    words.append("measured here" if here else f"{measurement['kind']} for {measurement['where']}")
    return ", ".join(words)
