"""The plots of a report: what each one shows; how it becomes SVG stands in ``figure``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgekit.toolchain.report import words
from edgekit.toolchain.report.figure import Ink, draw, draw_file, place

_ROW_IN = 0.27
_NAME_LENGTH = 26
_MAX_NAMED_LAYERS = 24
_MARKED_LAYERS = 5
_MAX_OPERATORS = 10
_NEAR_X, _NEAR_Y = 0.07, 0.12  # shares of the axes, about the size of a label
_CHAR_PT = 5.9  # a letter of DejaVu Sans at the figures' size, on average

_MARK_PT = 11.0  # of a file as large as fp32's


@dataclass(frozen=True)
class Bar:
    """One model in a before-and-after plot.

    Attributes:
        label: ``fp32``, ``shipped``.
        value: The number.
        interval: Confidence or prediction band, or None.
        colour: One of :class:`Ink`.
    """

    label: str
    value: float
    interval: tuple[float, float] | None
    colour: str


@dataclass(frozen=True)
class Point:
    """A candidate in the scatter plot.

    Attributes:
        number: As in the table.
        ratio: Latency over fp32's.
        value: Accuracy.
        kind: ``ships``, ``meets``, ``misses`` or ``fp32``.
        size_ratio: File size over fp32's.
        is_frontier: No other one beats it in accuracy, latency and size.
    """

    number: int
    ratio: float
    value: float
    kind: str
    size_ratio: float = 1.0
    is_frontier: bool = False


def before_after(
    name: str, metric: str, bars: Sequence[Bar], limit: float | None, limit_label: str
) -> str:
    """Draw one metric of several models: bars from zero, or dots where the metric is a ratio.

    Args:
        name: Of the figure, unique on the page.
        metric: Its name, which holds the unit.
        bars: From the top down; at least one.
        limit: Where the contract draws the line, or None.
        limit_label: The limit in words.
    """
    unit = words.metric_unit(metric)
    labels = [f"{b.label}  {words.quantity(metric, b.value)}" for b in bars]
    values = [v for b in bars for v in (b.value, *(b.interval or ())) if math.isfinite(v)]
    if limit is not None:
        values.append(limit)

    def paint(axes: Any) -> None:  # noqa: ANN401 - matplotlib has no types here
        place(axes, left_pt=_label_width(labels), bottom_pt=34, top_pt=20)
        for y, bar in enumerate(bars):
            if not math.isfinite(bar.value):
                continue
            if unit:
                axes.barh(y, bar.value, height=0.6, color=bar.colour)
            else:
                axes.plot([bar.value], [y], "o", color=bar.colour, markersize=7, zorder=3)
            if bar.interval is not None:
                _whisker(axes, y, bar.interval, Ink.TEXT if unit else bar.colour)
        _span(axes, values, from_zero=bool(unit))
        if limit is not None:
            _limit(axes, limit, limit_label)
        axes.set_yticks(range(len(bars)), labels)
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(bool(unit))
        axes.grid(visible=True, axis="x")
        axes.set_xlabel(f"{words.metric_label(metric)}{f' ({unit})' if unit else ''}")

    description = f"{words.metric_label(metric)}: {'; '.join(labels)}"
    if limit is not None:
        description += f"; the contract asks for {limit_label}"
    return draw(name, description, 0.75 + _ROW_IN * len(bars), paint)


def candidates(name: str, points: Sequence[Point], metric: str, limit: float | None) -> str:
    """Draw accuracy over latency ratio, a point a candidate, numbered as in the table.

    A mark's area is the file's size; a line joins the frontier.
    """
    looks = {
        "ships": ("o", Ink.SHIPPED, Ink.SHIPPED),
        "fp32": ("s", Ink.FP32, Ink.FP32),
        "meets": ("o", Ink.PAPER, Ink.SHIPPED),
        "misses": ("X", Ink.LIMIT, Ink.PAPER),
    }

    def paint(axes: Any) -> None:  # noqa: ANN401 - matplotlib has no types here
        place(axes, left_pt=54, bottom_pt=34, top_pt=20)
        best = sorted((p.ratio, p.value) for p in points if p.is_frontier)
        axes.plot(
            [x for x, _ in best], [y for _, y in best], color=Ink.SHIPPED, linewidth=0.8, alpha=0.5
        )
        for point in points:
            marker, fill, edge = looks[point.kind]
            axes.plot(
                [point.ratio],
                [point.value],
                marker,
                color=fill,
                markeredgecolor=edge,
                markeredgewidth=1.4,
                markersize=max(5.0, _MARK_PT * math.sqrt(min(point.size_ratio, 1.5))),
                zorder=3,
                clip_on=False,
            )
        _span(axes, [1.0, *(p.ratio for p in points)], from_zero=False, pad=0.12)
        ys = [p.value for p in points] + ([] if limit is None else [limit])
        _y_span(axes, ys)
        axes.axvline(1.0, color=Ink.LIMIT, linestyle=(0, (4, 3)), linewidth=1.2)
        axes.text(
            1.0,
            1.02,
            "fp32's time",
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="bottom",
        )
        if limit is not None:
            axes.axhline(limit, color=Ink.LIMIT, linestyle=(0, (4, 3)), linewidth=1.2)
        for x, y, label, offset in _labels(points, axes.get_xlim(), axes.get_ylim()):
            axes.annotate(
                label,
                (x, y),
                xytext=(0, offset),
                textcoords="offset points",
                ha="center",
                va="bottom" if offset > 0 else "top",
                bbox={"boxstyle": "square,pad=0.1", "facecolor": Ink.PAPER, "edgecolor": "none"},
                zorder=4,
            )
        axes.grid(visible=True, axis="both")
        axes.set_xlabel("latency over fp32's (left is faster)")
        axes.set_ylabel(words.metric_label(metric))

    said = "; ".join(f"{p.number} ({p.kind}): {p.ratio:.2f}, {p.value:.3f}" for p in points)
    return draw(name, f"Candidates, latency ratio and {metric}: {said}", 2.9, paint)


def layers(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw the SQNR of every layer in graph order.

    Few layers stand below each other with their names; of many only the lowest are numbered.
    """
    return draw(name, *_layers_picture(rows))


def layers_file(rows: Sequence[Mapping[str, Any]], kind: Literal["svg", "png"]) -> bytes:
    """Draw the same as a file that stands alone, with a legend."""
    _, height, paint = _layers_picture(rows)
    legend = {"int8": Ink.SHIPPED}
    if not all(row["int8"] for row in rows):
        legend["float32"] = Ink.FP32
    return draw_file(kind, height, paint, legend)


def _layers_picture(
    rows: Sequence[Mapping[str, Any]],
) -> tuple[str, float, Callable[[Any], None]]:
    """Return what a screen reader says, the height in inches, and what paints."""
    values = [_finite(float(r["sqnr_db"]), rows) for r in rows]
    colours = [Ink.SHIPPED if r["int8"] else Ink.FP32 for r in rows]
    description = f"SQNR of {len(rows)} layers, {min(values):.1f} to {max(values):.1f} dB"
    if len(rows) > _MAX_NAMED_LAYERS:
        return description, 2.6, lambda axes: _paint_many_layers(axes, values, colours)
    told_apart = words.without_common_parts([str(r["name"]) for r in rows])
    names = [f"{i + 1}  {words.shorten(name, _NAME_LENGTH)}" for i, name in enumerate(told_apart)]

    def paint(axes: Any) -> None:  # noqa: ANN401 - matplotlib has no types here
        place(axes, left_pt=_label_width(names), bottom_pt=34)
        axes.barh(range(len(rows)), values, height=0.65, color=colours)
        axes.set_yticks(range(len(rows)), names)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(min([0.0, *values]), max([*values, 1.0]) * 1.05)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=True, axis="x")
        axes.set_xlabel("SQNR (dB)")

    return description, 0.6 + 0.22 * len(rows), paint


def _paint_many_layers(axes: Any, values: list[float], colours: list[str]) -> None:  # noqa: ANN401
    place(axes, left_pt=40, bottom_pt=34, top_pt=14)
    axes.bar(range(1, len(values) + 1), values, width=0.8, color=colours)
    top = max([*values, 1.0]) * 1.05
    lowest = sorted(range(len(values)), key=lambda i: (values[i], i))[:_MARKED_LAYERS]
    for order, i in enumerate(sorted(lowest)):
        # Every other number stands a line higher, so that neighbours do not touch.
        y = top * (1.03 + 0.09 * (order % 2))
        axes.plot([i + 1, i + 1], [max(values[i], 0.0), y], ":", color=Ink.MUTED, linewidth=1)
        axes.text(i + 1, y, str(i + 1), ha="center", va="bottom", fontweight="bold")
    axes.set_xlim(0.2, len(values) + 0.8)
    axes.set_ylim(min([0.0, *values]), top * 1.22)
    axes.grid(visible=True, axis="y")
    axes.set_xlabel("layer, in graph order")
    axes.set_ylabel("SQNR (dB)")


def operators(
    name: str, fp32: Sequence[Mapping[str, Any]], shipped: Sequence[Mapping[str, Any]]
) -> str:
    """Draw the predicted time by operator: fp32, and below it the shipped model by place.

    Without rows for fp32 the shipped model stands alone.
    """
    rows = _by_operator(fp32, shipped)
    longest = max(max(before, inside + outside) for _, before, inside, outside in rows)
    scale, unit = (1.0, "ms") if longest >= 1 else (1e3, "µs")
    names = [words.shorten(op, _NAME_LENGTH) for op, *_ in rows]

    def paint(axes: Any) -> None:  # noqa: ANN401 - matplotlib has no types here
        place(axes, left_pt=_label_width(names), bottom_pt=34)
        shift, height = (0.19, 0.34) if fp32 else (0.0, 0.6)
        for y, (_, before, inside, outside) in enumerate(rows):
            if fp32:
                axes.barh(y - shift, before * scale, height=height, color=Ink.FP32)
            axes.barh(y + shift, inside * scale, height=height, color=Ink.SHIPPED)
            axes.barh(
                y + shift,
                outside * scale,
                left=inside * scale,
                height=height,
                color=Ink.SHIPPED_FLOAT if fp32 else Ink.SHIPPED,
            )
        axes.set_yticks(range(len(rows)), names)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(0, longest * scale * 1.05)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=True, axis="x")
        axes.set_xlabel(f"predicted time ({unit})")

    said = "; ".join(
        f"{words.shorten(op, _NAME_LENGTH)} "
        + (f"{words.number(before * scale)}, then " if fp32 else "")
        + f"{words.number((inside + outside) * scale)} {unit}"
        for op, before, inside, outside in rows
    )
    return draw(
        name,
        f"Predicted time by operator: {said}",
        0.6 + (0.32 if fp32 else 0.24) * len(rows),
        paint,
    )


def _by_operator(
    fp32: Sequence[Mapping[str, Any]], shipped: Sequence[Mapping[str, Any]]
) -> list[tuple[str, float, float, float]]:
    """Add up milliseconds by operator: before, after in int8, after in float; longest first."""
    sums: dict[str, list[float]] = {}
    for row in fp32:
        sums.setdefault(str(row["op"]), [0.0, 0.0, 0.0])[0] += float(row["ms"])
    for row in shipped:
        column = 1 if row["place"] == "int8" else 2
        sums.setdefault(str(row["op"]), [0.0, 0.0, 0.0])[column] += float(row["ms"])
    rows = sorted(
        ((op, times[0], times[1], times[2]) for op, times in sums.items()),
        key=lambda row: (-max(row[1], row[2] + row[3]), row[0]),
    )
    kept, rest = rows[:_MAX_OPERATORS], rows[_MAX_OPERATORS:]
    if rest:
        sum_of = [math.fsum(column) for column in zip(*(row[1:] for row in rest), strict=True)]
        kept.append((f"{len(rest)} others", sum_of[0], sum_of[1], sum_of[2]))
    return kept


def _label_width(labels: Sequence[str]) -> float:
    """Estimate the width of the longest label in points."""
    return min(190.0, 10 + _CHAR_PT * max(len(label) for label in labels))


def _whisker(axes: Any, y: float, interval: tuple[float, float], colour: str) -> None:  # noqa: ANN401
    axes.plot(interval, [y, y], color=colour, linewidth=1.4, zorder=4)
    axes.plot(interval, [y, y], "|", color=colour, markersize=7, zorder=4)


def _limit(axes: Any, limit: float, label: str) -> None:  # noqa: ANN401 - no types here
    axes.axvline(limit, color=Ink.LIMIT, linestyle=(0, (4, 3)), linewidth=1.4, zorder=5)
    low, high = axes.get_xlim()
    place_in = (limit - low) / (high - low)
    align = "right" if place_in > 0.7 else "left" if place_in < 0.3 else "center"  # noqa: PLR2004
    axes.text(limit, 1.03, label, transform=axes.get_xaxis_transform(), ha=align, va="bottom")


def _span(
    axes: Any,  # noqa: ANN401 - no types here
    values: Sequence[float],
    *,
    from_zero: bool,
    pad: float = 0.08,
) -> None:
    """Set the x axis; bars start at zero, points need not."""
    low, high = (0.0, max([*values, 0.0])) if from_zero else (min(values), max(values))
    room = (high - low) * pad or abs(high) * 0.02 or 1.0
    axes.set_xlim(low if from_zero else low - room, high + room)
    axes.locator_params(axis="x", nbins=5)


def _y_span(axes: Any, values: Sequence[float]) -> None:  # noqa: ANN401 - no types here
    """Set the y axis of the scatter plot; a share has no ticks above 1."""
    low, high = min(values), max(values)
    pad = max((high - low) * 0.25, abs(high) * 0.005, 1e-6)
    axes.set_ylim(low - pad, high + pad)
    axes.locator_params(axis="y", nbins=7)
    if high <= 1:
        axes.set_yticks([t for t in axes.get_yticks() if low - pad <= t <= 1 + 1e-9])


def _labels(
    points: Sequence[Point], x_range: tuple[float, float], y_range: tuple[float, float]
) -> list[tuple[float, float, str, int]]:
    """Join the numbers of points whose labels would lie upon each other; above the highest.

    What ships has its own label, below its point. The last number is the offset in points.
    """
    near_x = _NEAR_X * (x_range[1] - x_range[0])
    near_y = _NEAR_Y * (y_range[1] - y_range[0])
    groups: list[list[Point]] = []
    labels: list[tuple[float, float, str, int]] = []
    for point in points:
        if point.kind == "ships":
            labels.append((point.ratio, point.value, f"{point.number} ships", -9))
            continue
        for group in groups:
            if any(
                abs(p.ratio - point.ratio) <= near_x and abs(p.value - point.value) <= near_y
                for p in group
            ):
                group.append(point)
                break
        else:
            groups.append([point])
    for group in groups:
        middle = math.fsum(p.ratio for p in group) / len(group)
        numbers = ", ".join(str(p.number) for p in group)
        labels.append((middle, max(p.value for p in group), numbers, 9))
    return labels


def _finite(value: float, rows: Sequence[Mapping[str, Any]]) -> float:
    """Draw a layer without any noise as high as the best of the others."""
    if math.isfinite(value):
        return value
    return max(
        (float(r["sqnr_db"]) for r in rows if math.isfinite(float(r["sqnr_db"]))), default=0.0
    )
