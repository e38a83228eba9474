"""Options of the charts (ECharts): one colour a meaning, axes with units, contract lines drawn in.

Keys that begin with a colon are evaluated in the browser: colours of the theme, formatters. What
devices say stands in values alone, never in a key.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from edgekit.fleet.web.history import Heat, Line, Point

Options = dict[str, Any]
# Okabe and Ito's palette, which the colour-blind tell apart.
BLUE, ORANGE, GREEN, SKY = "#0072B2", "#E69F00", "#009E73", "#56B4E9"
VERMILLION, PURPLE = "#D55E00", "#CC79A7"
_INK, _DIM, _LINE, _PANEL = (f"fleet.color('{name}')" for name in ("ink", "dim", "line", "panel"))
_BYTES = "bytes"
_MOST_BOXES = 40
_FEW_TICKS = 4
# A silence of so many steps, and so long, breaks a line.
_BREAK_STEPS, _BREAK_S = 3, 60.0


def treemap(groups: Sequence[tuple[str, int, int]]) -> Options:
    """Return groups of devices: the area is their number, the colour how many are online.

    Args:
        groups: Name, devices, and those of them that are online.
    """
    boxes = [
        {
            "name": name,
            "value": total,
            "label": {"formatter": f"{name}\n{online} of {total} online"},
            "itemStyle": {":color": f"fleet.mixed({online / max(1, total):.4f})"},
            "online": online,
        }
        for name, total, online in groups[:_MOST_BOXES]
    ]
    return {
        "animation": False,
        "tooltip": {
            ":formatter": "(p) => `${fleet.escape(p.name)}<br><b>${p.data.online ?? ''}</b> of "
            "<b>${p.value}</b> online`"
        },
        "series": [
            {
                "type": "treemap",
                "roam": False,
                "nodeClick": False,
                "breadcrumb": {"show": False},
                "left": 0,
                "top": 0,
                "width": "100%",
                "height": "100%",
                "label": {"color": "#fff", "fontSize": 13, "lineHeight": 18, "textBorderWidth": 0},
                "itemStyle": {":borderColor": _PANEL, "borderWidth": 0, "gapWidth": 3},
                "data": boxes,
            }
        ],
    }


def over_time(
    lines: Sequence[tuple[str, str, Line]],
    unit: str,
    span: tuple[float, float],
    *,
    most: float | None = None,
    limit: tuple[str, float] | None = None,
) -> Options:
    """Return metrics over time.

    Args:
        lines: Name, colour, and the points of each.
        unit: Of all of them; ``bytes`` is written in the unit that fits.
        span: Begin and end of the axis, Unix seconds.
        most: Upper end of the axis: 100 % of a share.
        limit: Name and value of a line that is drawn across.
    """
    series: list[Options] = []
    for name, colour, line in lines:
        series.append(_line(name, colour, line.mean))
        if line.largest:
            peak = _line(f"{name}, largest", colour, line.largest)
            peak["lineStyle"] = {"width": 1, "type": "dotted", "color": colour}
            series.append(peak)
    if limit is not None:
        series[0]["markLine"] = _limit(*limit, key="yAxis")
    axis: Options = {
        "type": "value",
        "name": "" if unit == _BYTES else unit,
        "nameTextStyle": {":color": _DIM, "align": "left"},
        "axisLabel": {":color": _DIM},
        "splitLine": {"lineStyle": {":color": _LINE}},
        "scale": most is None,
    }
    if unit == _BYTES:
        axis["axisLabel"][":formatter"] = "fleet.bytes"
        largest = _largest(lines)
        step = byte_step(largest)
        axis |= {"min": 0, "interval": step, "max": step * max(1, math.ceil(largest / step))}
    if most is not None:
        axis |= {"min": 0, "max": most}
    if limit is not None:
        axis[":max"] = f"(v) => Math.max(v.max, {limit[1]:.6g} * 1.05)"
    return {
        "animation": False,
        "grid": {"left": 4, "right": 22, "top": 34, "bottom": 4, "containLabel": True},
        "tooltip": {"trigger": "axis", ":formatter": f"fleet.tip('{unit}')", "confine": True},
        "legend": _legend(len(series) > 1),
        "xAxis": _time_axis(span),
        "yAxis": axis,
        "series": series,
    }


def latency_heat(
    heat: Heat, limit_ms: float | None, span: tuple[float, float] | None = None
) -> Options:
    """Return a histogram of latencies over time, with p50, p95 and the contract's line.

    Args:
        heat: The grid.
        limit_ms: The contract's limit of the p95; None where it has none.
        span: Begin and end of the axis, Unix seconds; as long as the grid when absent.
    """
    rows = len(heat.edges_ms) - 1
    ticks = {heat.row_of(ms): ms for ms in round_values(heat.edges_ms[0], heat.edges_ms[-1])}
    heights = list(ticks)
    words = ", ".join(f"'{height:.4f}': {ms:.4g}" for height, ms in ticks.items())
    column_ms = 1000 * (heat.times[1] - heat.times[0]) if len(heat.times) > 1 else 300_000.0
    most = max(count for _, _, count in heat.cells)
    edges = ", ".join(f"{edge:.4g}" for edge in heat.edges_ms)
    cells = [[1000 * heat.times[column], row, count] for column, row, count in heat.cells]
    draw = (
        "(params, api) => { const a = api.coord([api.value(0), api.value(1)]); const b = "
        f"api.coord([api.value(0) + {column_ms:.0f}, api.value(1) + 1]); return {{ type: 'rect',"
        " shape: { x: a[0], y: b[1], width: Math.max(1, b[0] - a[0] - .5), height: Math.max(1, "
        f"a[1] - b[1] - .5) }}, style: {{ fill: '{SKY}', opacity: .12 + .83 * "
        f"Math.sqrt(api.value(2) / {most}) }} }}; }}"
    )
    tooltip = (
        "(p) => p.seriesType === 'custom' ? `${fleet.absolute(p.value[0] / 1000)}<br>"
        f"${{[{edges}].slice(p.value[1], p.value[1] + 2).map(fleet.three).join(' – ')}} ms: <b>"
        "${fleet.three(p.value[2])}</b> requests` : `${fleet.absolute(p.value[0] / 1000)}<br>"
        "${p.seriesName} <b>${fleet.three(p.value[2])} ms</b>`"
    )
    series: list[Options] = [
        {
            "type": "custom",
            "name": "requests",
            ":renderItem": draw,
            "data": cells,
            "encode": {"x": 0, "y": 1},
            "clip": True,
            "itemStyle": {"color": SKY},
        },
        _heat_line("p50", BLUE, heat, heat.p50, column_ms),
        _heat_line("p95", VERMILLION, heat, heat.p95, column_ms),
    ]
    if limit_ms is not None:
        text = f"contract: p95 ≤ {limit_ms:.3g} ms"
        series[2]["markLine"] = _limit(text, heat.row_of(limit_ms), key="yAxis")
    return {
        "animation": False,
        # containLabel leaves no room for labels at values of one's own.
        "grid": {"left": 44, "right": 22, "top": 34, "bottom": 24},
        "tooltip": {":formatter": tooltip, "confine": True},
        "legend": _legend(shown=True),
        "xAxis": _time_axis(span or (heat.times[0], heat.times[-1] + column_ms / 1000)),
        "yAxis": {
            "type": "value",
            "name": "ms, log scale",
            "nameTextStyle": {":color": _DIM, "align": "left"},
            "min": 0,
            "max": rows,
            "axisTick": {"show": False, "customValues": heights},
            "axisLabel": {
                ":color": _DIM,
                "customValues": heights,
                ":formatter": f"(v) => fleet.three({{{words}}}[v.toFixed(4)])",
            },
            "splitLine": {"lineStyle": {":color": _LINE}},
        },
        "series": series,
    }


def strip(
    rows: Sequence[tuple[str, str, Sequence[float], tuple[float, float] | None]],
    unit: str,
    limit: tuple[float, bool] | None,
) -> Options:
    """Return figures of one metric on one axis, a row a source.

    Args:
        rows: Source, colour, values (many are drawn as points), and an interval around one.
        unit: Of the axis.
        limit: Of the contract, and whether it is the largest (else the smallest) that passes.
    """
    names = [name for name, *_ in rows][::-1]
    series: list[Options] = []
    for name, colour, values, interval in rows:
        y = names.index(name)
        if interval is not None:
            low, high = interval
            series.append(
                {
                    "type": "line", "data": [[low, y], [high, y]], "symbol": "rect",
                    "symbolSize": [2, 12], "lineStyle": {"color": colour, "width": 2.5},
                    "itemStyle": {"color": colour}, "silent": True, "name": name,
                }
            )  # fmt: skip
        many = len(values) > 1
        series.append(
            {
                "type": "scatter", "name": name, "data": [[value, y] for value in values],
                "symbolSize": 9 if many else 13,
                "itemStyle": {"color": colour, "opacity": 0.55 if many else 1.0},
            }
        )  # fmt: skip
    if limit is not None and series:
        value, is_most = limit
        series[-1]["markLine"] = _limit(f"{'≤' if is_most else '≥'} {value:.4g}", value, "xAxis")
    ends = [v for _, _, values, interval in rows for v in (*values, *(interval or ()))]
    ends += [limit[0]] if limit is not None else []
    pad = (max(ends) - min(ends)) * 0.08 or abs(ends[0]) * 0.1 or 1.0
    # A time or a size begins at zero; a share would be squeezed into the last tenth.
    low = 0.0 if unit else min(ends) - pad
    return {
        "animation": False,
        "grid": {"left": 4, "right": 36, "top": 24, "bottom": 22, "containLabel": True},
        "tooltip": {
            ":formatter": "(p) => `${fleet.escape(p.seriesName)}: <b>${fleet.three(p.value[0])}"
            f" {unit}</b>`"
        },
        "xAxis": {
            "type": "value", "min": low, "max": max(ends) + pad, "name": unit,
            "nameLocation": "end", "nameGap": 6, "nameTextStyle": {":color": _DIM},
            "axisLabel": {
                ":color": _DIM, "hideOverlap": True, ":formatter": "fleet.three",
                "showMaxLabel": False, "showMinLabel": low == 0.0,
            },
            "splitLine": {"lineStyle": {":color": _LINE}},
        },
        "yAxis": {
            "type": "category", "data": names, "axisTick": {"show": False},
            "axisLine": {"show": False}, "axisLabel": {":color": _INK, "fontSize": 13},
        },
        "series": series,
    }  # fmt: skip


def byte_step(largest: float) -> int:
    """Return the bytes between gridlines: 1, 2 or 5 times a power of ten, of KiB or larger."""
    unit = 1024.0 ** max(0, int(math.log(max(largest, 1), 1024)))
    rough = largest / unit / 4
    power = 10.0 ** math.floor(math.log10(max(rough, 0.1)))
    steps = [step * power for step in (1, 2, 5, 10)]
    return max(1, round(unit * next(step for step in steps if step >= min(rough, steps[-1]))))


def round_values(low: float, high: float) -> list[float]:
    """Return the powers of ten between two values, and what makes a few of them."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        found = [f * 10.0**e for e in exponents for f in factors if low <= f * 10.0**e <= high]
        if len(found) >= _FEW_TICKS:
            return found
    return found if len(found) > 1 else [low, high]


def _largest(lines: Sequence[tuple[str, str, Line]]) -> float:
    return max((v for *_, line in lines for _, v in (*line.mean, *line.largest)), default=1.0)


def _line(name: str, colour: str, points: Sequence[Point]) -> Options:
    line = broken(points)
    return {
        "type": "line",
        "name": name,
        "showSymbol": _any_alone([value for _, value in line]),
        "lineStyle": {"width": 2, "color": colour},
        "itemStyle": {"color": colour},
        "data": [[1000 * at_s, value] for at_s, value in line],
    }


def _any_alone(values: Sequence[float | None]) -> bool:
    """Tell whether a value has no neighbour: it is seen only if it is drawn as a point."""
    framed = [None, *values, None]
    return any(
        value is not None and before is None and after is None
        for before, value, after in zip(framed, values, framed[2:], strict=False)
    )


def broken(points: Sequence[Point]) -> list[tuple[float, float | None]]:
    """Return points with a break where nothing was measured for long: no line is drawn across."""
    steps = sorted(after - before for (before, _), (after, _) in pairwise(points))
    longest_s = max(_BREAK_S, _BREAK_STEPS * steps[len(steps) // 2]) if steps else 0.0
    found: list[tuple[float, float | None]] = list(points[:1])
    for (before_s, _), (at_s, value) in pairwise(points):
        if at_s - before_s > longest_s:
            found.append(((before_s + at_s) / 2, None))
        found.append((at_s, value))
    return found


def _heat_line(
    name: str, colour: str, heat: Heat, values: Sequence[float | None], column_ms: float
) -> Options:
    return {
        "type": "line",
        "name": name,
        "symbolSize": 5,
        "showSymbol": _any_alone(values),
        "lineStyle": {"width": 2, "color": colour},
        "itemStyle": {"color": colour},
        "data": [
            [1000 * at_s + column_ms / 2, None if ms is None else heat.row_of(ms), ms]
            for at_s, ms in zip(heat.times, values, strict=True)
        ],
    }


def _limit(text: str, at: float, key: str) -> Options:
    return {
        "symbol": "none",
        "silent": True,
        "lineStyle": {":color": "fleet.color('bad')", "type": "dashed", "width": 2},
        "label": {
            "formatter": text,
            "position": "insideEndTop" if key == "yAxis" else "end",
            ":color": "fleet.color('bad-ink')",
            "fontSize": 12,
        },
        "data": [{key: at}],
    }


def _legend(shown: bool) -> Options:
    return {
        "show": shown, "right": 0, "top": 0, "itemWidth": 16, "itemHeight": 9,
        "textStyle": {":color": _DIM},
    }  # fmt: skip


def _time_axis(span: tuple[float, float]) -> Options:
    return {
        "type": "time",
        "min": 1000 * span[0],
        "max": 1000 * span[1],
        "axisLabel": {":color": _DIM, "hideOverlap": True},
        "axisLine": {"lineStyle": {":color": _LINE}},
        "splitLine": {"show": False},
    }
