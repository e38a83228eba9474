"""The fleet's benchmark as a picture: lag and cost of each run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_PARTS = ("broker", "ingest", "simulator")
_COLOURS = ("#4c78a8", "#f58518", "#9d9d9d")
_LAGS = ("p50", "p95", "p99")


def draw(document: dict[str, Any], path: Path) -> None:
    """Draw what fleet.json holds.

    Args:
        document: Its content.
        path: Of the SVG.
    """
    import matplotlib as mpl

    mpl.use("svg")
    # The same picture for the same figures.
    mpl.rcParams["svg.hashsalt"] = "edgekit"
    from matplotlib import pyplot as plt

    runs = document["runs"]
    labels = [name.replace("-", "\n", 1) for name in runs]
    figure, (lag, cores, memory) = plt.subplots(1, 3, figsize=(11, 3.4))
    width = 0.26
    for n, share in enumerate(_LAGS):
        values = [run["devices"].get(f"lag_{share}_ms", 0) / 1000 for run in runs.values()]
        lag.bar([i + (n - 1) * width for i in range(len(runs))], values, width, label=share)
    for n, part in enumerate(_PARTS):
        places = [i + (n - 1) * width for i in range(len(runs))]
        for axes, key in ((cores, "cores"), (memory, "peak_rss_mb")):
            values = [run["parts"][part][key] for run in runs.values()]
            axes.bar(places, values, width, label=part, color=_COLOURS[n])
    lag.axhline(5, color="#b00", linewidth=0.8, linestyle="--")
    titles = ("publish → committed and acked, s", "CPU, cores", "peak memory, MB")
    for axes, title in zip((lag, cores, memory), titles, strict=True):
        axes.set_title(title, fontsize=9)
        axes.set_xticks(range(len(runs)), labels, fontsize=7)
        axes.tick_params(axis="y", labelsize=7)
        axes.legend(fontsize=7, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def redraw(results: Path) -> None:
    """Draw fleet.svg from the fleet.json beside it."""
    draw(json.loads((results / "fleet.json").read_text(encoding="utf-8")), results / "fleet.svg")
