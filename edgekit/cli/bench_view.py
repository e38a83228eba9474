"""What ``edgekit bench`` shows in a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_OPS = 8
_BUSY = 1.5


def render(console: Console, document: Mapping[str, Any], output: Path | None) -> None:
    """Print a document of :func:`edgekit.runtime.bench.run` for people."""
    threads = document["threads"]
    _line(
        console,
        f"{document['model']} for {document['built_for']} ({document['precision']}), "
        f"{threads} thread{'s' if threads > 1 else ''}, {document['samples']} golden samples",
    )
    _line(console, document["measured"]["says"])
    if not document["model_call"].get("n"):
        _line(console, "interrupted before the first request was done: nothing was measured")
        return
    _latencies(console, document)
    for text in (_basis(document), _heat(document), _busy(document)):
        if text:
            _line(console, text)
    _operators(console, document["profile"])
    if output is not None:
        _line(console, f"written to {output}")
    _line(console, _next(document))


def _line(console: Console, text: str) -> None:
    console.print(f"  {text}", markup=False, soft_wrap=True)


def _latencies(console: Console, document: Mapping[str, Any]) -> None:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 2), show_edge=False)
    table.add_column("")
    for header in ("p50 ms", "p90 ms", "p99 ms", "n", "per s"):
        table.add_column(header, justify="right", no_wrap=True)
    for title, row in (
        ("model", document["model_call"]),
        ("request (pre + model + post)", document["request"]),
    ):
        table.add_row(
            title,
            *(f"{row[name]:.3g}" for name in ("p50_ms", "p90_ms", "p99_ms")),
            str(row["n"]),
            _three(row["per_s"]) if "per_s" in row else "",
        )
    console.print(table)


def _three(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"  # noqa: PLR2004 - no exponents


def _basis(document: Mapping[str, Any]) -> str:
    basis = document["basis"]
    cut = "interrupted; " if document["interrupted"] else ""
    span = f"{basis['from_s']:.0f} s to {basis['to_s']:.0f} s"
    if basis["windows"] == "all":
        return f"{cut}of the whole run, {basis['to_s']:.1f} s" if cut else ""
    if basis["reached"]:
        return f"{cut}of the plateau, {span}: {basis['count']} windows within 2 % of each other"
    return f"{cut}no plateau was reached: of the last third, {span}"


def _heat(document: Mapping[str, Any]) -> str:
    before, then = document["before"], document.get("vitals", {})
    said = []
    for name, unit in (("temp_c", "°C"), ("clock_mhz", "MHz")):
        if name in before and name in then:
            said.append(f"{before[name]:.0f} → {then[name]:.0f} {unit}")
    return "before → counted: " + ", ".join(said) if said else ""


def _busy(document: Mapping[str, Any]) -> str:
    cores, threads = document["measured"]["cores"], document["threads"]
    if cores and threads > cores:
        return f"{threads} threads on {cores} cores wait for each other: --threads {cores}"
    load = document["before"].get("load_1m")
    if load is None or load < _BUSY:
        return ""
    return f"this machine was busy (load {load:.1f} before the run): other work slows these numbers"


def _operators(console: Console, profile: Mapping[str, Any] | None) -> None:
    if profile is None:
        return
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 2), show_edge=False)
    table.add_column("operator")
    for header in ("nodes", "ms a call", "share"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in profile["ops"][:_OPS]:
        table.add_row(row["op"], str(row["nodes"]), f"{row['ms']:.3g}", f"{row['share']:.0%}")
    console.print()
    console.print(table)
    more = len(profile["ops"]) - _OPS
    _line(console, "with the profiler on, which slows it" + (f"; {more} more" if more > 0 else ""))


def _next(document: Mapping[str, Any]) -> str:
    target = document["built_for"]
    if document["measured"]["target"] == target:
        return (
            f"next: … --json > BENCH.json, then edgekit targets learn BENCH.json --target {target}"
        )
    if document["sustained_s"] is None:
        return "next: --sustained 10m shows what it keeps up, -o page.html draws it"
    return f"next: the same command on a {target}"
