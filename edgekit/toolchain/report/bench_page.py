"""The page of ``edgekit bench``: latency over time first, then heat, operators and the windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.toolchain.report import words
from edgekit.toolchain.report.figure import Ink, draw, draw_file, place
from edgekit.toolchain.report.templates import markup, template

_MAX_OPS = 12
_NAME_LENGTH = 26
_CHAR_PT = 5.9
_P99_ROOM = 2.0  # p99s further off than this many of their median are cut; the caption says so


def render_bench_page(document: Mapping[str, Any]) -> str:
    """Draw the page.

    Args:
        document: ``edgekit.bench/1``; see :func:`edgekit.runtime.bench.run`.

    Returns:
        A self-contained HTML page.

    Raises:
        MissingToolError: jinja2 or matplotlib is not installed.
    """
    windows = [w for w in document["windows"] if "p50_ms" in w]
    profile = document["profile"]
    plots = {
        name: markup(_over_time(name, label, windows, key))
        for name, label, key in (
            ("temperature", "hottest zone (°C)", "temp_c"),
            ("clock", "fastest core (MHz)", "clock_mhz"),
        )
        if any(key in w for w in windows)
    }
    return template("bench.html.j2").render(
        d=document,
        windows=windows,
        latency=markup(_latency(document, windows)) if windows else None,
        cut=_is_cut(windows),
        plots=plots,
        operators=markup(_operators(profile["ops"][:_MAX_OPS])) if profile else None,
    )


def bench_figure(document: Mapping[str, Any]) -> bytes:
    """Draw latency over time as an SVG file of its own.

    Args:
        document: ``edgekit.bench/1``.

    Raises:
        MissingToolError: matplotlib is not installed.
    """
    windows = [w for w in document["windows"] if "p50_ms" in w]
    legend = {"median": Ink.SHIPPED, "p99": Ink.FP32}
    if document["contract_max_ms"]:
        legend["contract"] = Ink.LIMIT
    return draw_file("svg", 2.6, lambda axes: _paint_latency(axes, document, windows), legend)


def _latency(document: Mapping[str, Any], windows: Sequence[Mapping[str, Any]]) -> str:
    said = f"median {windows[0]['p50_ms']:g} ms at first, {windows[-1]['p50_ms']:g} ms at the end"
    return draw(
        "latency",
        f"Latency of the model over {windows[-1]['end_s']:.0f} s: {said}",
        2.6,
        lambda axes: _paint_latency(axes, document, windows),
    )


def _paint_latency(
    axes: Any,  # noqa: ANN401 - matplotlib has no types here
    document: Mapping[str, Any],
    windows: Sequence[Mapping[str, Any]],
) -> None:
    place(axes, left_pt=48, bottom_pt=34, top_pt=14)
    basis, times = document["basis"], [_middle(w) for w in windows]
    if basis["windows"] != "all" and "from_s" in basis:
        axes.axvspan(basis["from_s"], basis["to_s"], color=Ink.LINE, alpha=0.5, linewidth=0)
    axes.plot(times, [w["p99_ms"] for w in windows], color=Ink.FP32, linewidth=1)
    axes.plot(times, [w["p50_ms"] for w in windows], color=Ink.SHIPPED, linewidth=1.6)
    top = _top(windows)
    for limit in document["contract_max_ms"].values():
        axes.axhline(limit, color=Ink.LIMIT, linestyle=(0, (4, 3)), linewidth=1.4)
        top = max(top, 1.1 * limit)
    axes.set_xlim(0, max([w["end_s"] for w in windows], default=1.0))
    axes.set_ylim(0, top)
    axes.grid(visible=True, axis="y")
    axes.set_xlabel("time (s)")
    axes.set_ylabel("latency (ms)")


def _top(windows: Sequence[Mapping[str, Any]]) -> float:
    if not windows:
        return 1.0
    tails = sorted(float(w["p99_ms"]) for w in windows)
    tail = min(tails[-1], _P99_ROOM * tails[len(tails) // 2])
    return 1.1 * max(tail, *(float(w["p50_ms"]) for w in windows))


def _is_cut(windows: Sequence[Mapping[str, Any]]) -> bool:
    return any(w["p99_ms"] > _top(windows) for w in windows)


def _middle(window: Mapping[str, Any]) -> float:
    return float(window["start_s"] + window["end_s"]) / 2


def _over_time(name: str, label: str, windows: Sequence[Mapping[str, Any]], key: str) -> str:
    rows = [(float(w["end_s"]), float(w[key])) for w in windows if key in w]

    def paint(axes: Any) -> None:  # noqa: ANN401 - matplotlib has no types here
        place(axes, left_pt=48, bottom_pt=34, top_pt=14)
        axes.plot([x for x, _ in rows], [y for _, y in rows], color=Ink.SHIPPED, linewidth=1.6)
        axes.set_xlim(0, rows[-1][0] or 1.0)
        axes.margins(y=0.2)
        axes.grid(visible=True, axis="y")
        axes.set_xlabel("time (s)")
        axes.set_ylabel(label)

    said = f"{label} over time: {rows[0][1]:g} at first, {rows[-1][1]:g} at the end"
    return draw(name, said, 1.8, paint)


def _operators(rows: Sequence[Mapping[str, Any]]) -> str:
    names = [words.shorten(str(row["op"]), _NAME_LENGTH) for row in rows]

    def paint(axes: Any) -> None:  # noqa: ANN401 - matplotlib has no types here
        place(axes, left_pt=10 + _CHAR_PT * max(len(name) for name in names), bottom_pt=34)
        axes.barh(range(len(rows)), [100 * r["share"] for r in rows], 0.65, color=Ink.SHIPPED)
        axes.set_yticks(range(len(rows)), names)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(0, None)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=True, axis="x")
        axes.set_xlabel("share of the model's time (%)")

    said = "; ".join(f"{n} {100 * r['share']:.0f} %" for n, r in zip(names, rows, strict=True))
    return draw("operators", f"Time by operator: {said}", 0.6 + 0.24 * len(rows), paint)
