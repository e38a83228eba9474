"""The plot: agreement with fp32 over latency, one small panel a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Okabe and Ito's colours, which colour-blind people tell apart; the marker says the same again.
STYLE = {
    "edgekit": ("#0072B2", "o"),
    "ort-default": ("#999999", "s"),
    "ort": ("#E69F00", "D"),
    "olive": ("#009E73", "^"),
    "nncf": ("#D55E00", "v"),
    "optimum": ("#CC79A7", "P"),
}
COLUMNS = 4
GREY = "#666666"


def draw(document: Mapping[str, Any], out: Path) -> None:
    """Write out.svg and out.png."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    mpl.rcParams.update({"svg.hashsalt": "edgekit", "font.size": 8, "font.family": "DejaVu Sans"})
    models = document["models"]
    columns = min(COLUMNS, len(models))
    rows = math.ceil(len(models) / columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.0 * columns, 2.7 * rows + 0.7), squeeze=False
    )
    for axis, model in zip(axes.flat, models, strict=False):
        panel(axis, model)
    for axis in axes.flat[len(models) :]:
        axis.set_visible(False)
    handles = [
        plt.Line2D([], [], color=colour, marker=marker, linestyle="", label=tool)
        for tool, (colour, marker) in STYLE.items()
    ]
    figure.legend(handles=handles, loc="upper center", ncol=len(handles), frameon=False)
    figure.supxlabel(f"latency over fp32, one thread ({document['where']})", fontsize=8)
    figure.supylabel("agreement with fp32", fontsize=8)
    figure.tight_layout(rect=(0.01, 0.01, 1, 0.94))
    figure.savefig(out.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(out.with_suffix(".png"), dpi=140, metadata={"Software": None})
    plt.close(figure)


def panel(axis: Any, model: Mapping[str, Any]) -> None:  # noqa: ANN401 - matplotlib is untyped
    axis.set_title(f"{model['model']}\n{model['agreement_metric']}, n={model['n']}", fontsize=8)
    shown = {t: r for t, r in model["rows"].items() if r["latency"] and r["agreement"]}
    for tool, row in shown.items():
        colour, marker = STYLE[tool]
        value, latency = row["agreement"], row["latency"]
        low, high = value["interval"] or (value["value"], value["value"])
        axis.errorbar(
            latency["ratio"],
            value["value"],
            yerr=[[max(0, value["value"] - low)], [max(0, high - value["value"])]],
            xerr=[[latency["ratio"] - latency["low"]], [latency["high"] - latency["ratio"]]],
            color=colour,
            marker=marker,
            markersize=8 if tool == "edgekit" else 6,
            # Hollow: it is no int8 model, whatever the tool says.
            markerfacecolor=colour if row["status"] == "ok" else "white",
            linewidth=0.8,
            alpha=0.9,
            zorder=3 if tool == "edgekit" else 2,
        )
    axis.axvline(1.0, color=GREY, linewidth=0.8, linestyle="--")
    if model["contract"] is not None:
        axis.axhline(model["contract"], color=GREY, linewidth=0.8, linestyle=":")
    axis.set_xlim(0, max([1.2, *(1.08 * row["latency"]["high"] for row in shown.values())]))
    axis.set_ylim(*limits(model, shown))
    missing = [
        f"{tool}: {row['status'] if row['status'] != 'ok' else 'not timed'}"
        for tool, row in model["rows"].items()
        if tool not in shown
    ]
    if missing:
        axis.text(
            0.03, 0.04, "\n".join(missing), transform=axis.transAxes, fontsize=6.5, color=GREY
        )
    axis.grid(visible=True, linewidth=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def limits(model: Mapping[str, Any], shown: Mapping[str, Any]) -> tuple[float, float]:
    lows = [
        (row["agreement"]["interval"] or [row["agreement"]["value"]])[0] for row in shown.values()
    ]
    lowest = min([model["contract"] or 1.0, 0.98, *lows])
    pad = max(0.004, (1 - lowest) * 0.08)
    return max(-0.03, lowest - pad), 1 + pad
