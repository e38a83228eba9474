"""The plot of the agent's benchmarks: limits, HTTP, memory over time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Okabe and Ito's colours, which colour-blind people tell apart.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"
PARTS = ("idle", "pipeline", "http", "soak")


def draw(folder: Path) -> tuple[str, ...]:
    """Write agent.svg and agent.png from the documents that are there.

    Args:
        folder: Has agent_*.json.

    Returns:
        The parts that are drawn.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    mpl.rcParams.update({"svg.hashsalt": "edgekit", "font.size": 8, "font.family": "DejaVu Sans"})
    found = {part: read(folder / f"agent_{part}.json") for part in PARTS}
    documents = {part: document for part, document in found.items() if document is not None}
    if not documents:
        return ()
    figure, axes = plt.subplots(1, 3, figsize=(11.0, 3.2))
    limits_panel(axes[0], documents)
    http_panel(axes[1], documents.get("http"))
    soak_panel(axes[2], documents.get("soak"))
    for axis in axes:
        axis.grid(visible=True, linewidth=0.3)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    where = next(iter(documents.values()))["where"]
    figure.supxlabel(where, fontsize=8)
    figure.tight_layout()
    figure.savefig(folder / "agent.svg", metadata={"Date": None})
    figure.savefig(folder / "agent.png", dpi=140, metadata={"Software": None})
    plt.close(figure)
    return tuple(documents)


def read(path: Path) -> dict[str, Any] | None:
    return dict(json.loads(path.read_text())) if path.is_file() else None


def shares(documents: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, float, str]]:
    """Return the figures that have a limit: name, figure over limit, the figure in words."""
    rows = []
    if idle := documents.get("idle"):
        for key, name, unit in (
            ("rss_without_model_mb", "memory, no model", "MB"),
            ("rss_over_bare_mb", "memory over onnxruntime", "MB"),
            ("idle_core_share", "CPU at 1 Hz", "of a core"),
            ("cpu_until_hello_s", "CPU until hello", "s"),
        ):
            rows.append((name, idle[key] / idle["goals"][key], f"{idle[key]:.3g} {unit}"))
    if pipeline := documents.get("pipeline"):
        for model in pipeline["models"]:
            ratio = model["median_of_pair_ratios"]
            share = max(0.0, ratio - 1) / (pipeline["goal"] - 1)
            rows.append((f"{model['model']} over a bare loop", share, f"+{ratio - 1:.1%}"))
    return rows


def limits_panel(axis: Any, documents: Mapping[str, Mapping[str, Any]]) -> None:  # noqa: ANN401 - matplotlib is untyped
    rows = shares(documents)[::-1]
    values = [share for _, share, _ in rows]
    axis.barh(
        [name for name, _, _ in rows],
        values,
        color=[BLUE if share <= 1 else ORANGE for share in values],
    )
    for row, (_, share, words) in enumerate(rows):
        axis.text(share + 0.02, row, words, va="center", fontsize=7)
    axis.axvline(1.0, color=GREY, linewidth=0.8, linestyle="--")
    axis.set_xlim(0, max([1.35, *(value + 0.35 for value in values)]))
    axis.set_title("share of what is allowed (dashed: all of it)", fontsize=8)


def http_panel(axis: Any, document: Mapping[str, Any] | None) -> None:  # noqa: ANN401 - matplotlib is untyped
    axis.set_title("HTTP, requests/s; dots: single rounds", fontsize=8)
    if document is None:
        nothing(axis, "not measured")
        return
    contenders = list(document["throughput"]["contenders"].items())[::-1]
    for row, (name, figures) in enumerate(contenders):
        colour = BLUE if name.startswith("edgekit") else GREY
        axis.barh(row, figures["requests_per_s"], color=colour)
        rounds = figures["rounds"]
        axis.plot(rounds, [row] * len(rounds), ".", color="black", markersize=3)
    axis.set_yticks(range(len(contenders)), [name for name, _ in contenders])
    axis.set_xlim(left=0)


def soak_panel(axis: Any, document: Mapping[str, Any] | None) -> None:  # noqa: ANN401 - matplotlib is untyped
    axis.set_title("the agent soaked: memory, MB", fontsize=8)
    if document is None:
        nothing(axis, "not measured")
        return
    hours = [look["samples"] / 3600 for look in document["looks"]]
    axis.plot(hours, [look["rss_mb"] for look in document["looks"]], color=BLUE)
    axis.set_xlabel("hours of its clock")
    axis.set_ylim(bottom=0)
    axis.set_xlim(left=0)


def nothing(axis: Any, why: str) -> None:  # noqa: ANN401 - matplotlib is untyped
    axis.set_xticks([])
    axis.set_yticks([])
    axis.text(0.5, 0.5, why, ha="center", va="center", transform=axis.transAxes, color=GREY)
