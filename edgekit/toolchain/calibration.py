"""The calibration stage: ranges by the best rule, and what each layer loses by itself."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.runtime.session import open_session, runner
from edgekit.toolchain.graph import Graph
from edgekit.toolchain.plan import CALIBRATION_FEEDS
from edgekit.toolchain.quantize.calibrate import TensorStats, collect, extremes
from edgekit.toolchain.quantize.candidates import choose_rule, tensors_to_calibrate
from edgekit.toolchain.quantize.layers import Layer, find_layers
from edgekit.toolchain.quantize.sensitivity import layer_sqnr_db
from edgekit.toolchain.samples import evenly
from edgekit.toolchain.verify import lint_ranges, record_feeds
from edgekit.wire.canonical import digest_of

if TYPE_CHECKING:
    from edgekit.toolchain.stages import Workbench

_LINT_SAMPLES = 16
SQNR_FEEDS = 16


@dataclass(frozen=True)
class Calibration:
    """What calibration knows of a graph.

    Attributes:
        layers: The layers that a static plan may quantize.
        rule: Name of the range rule that was chosen.
        ranges: Range of every tensor that a static plan needs.
        sqnr_db: Of each layer by itself.
        rule_sqnr_db: Worst output's SQNR under each rule.
    """

    layers: tuple[Layer, ...]
    rule: str
    ranges: Mapping[str, tuple[float, float]]
    sqnr_db: Mapping[str, float]
    rule_sqnr_db: Mapping[str, float]


def calibrate(bench: Workbench) -> Calibration:
    """Return ranges and per-layer SQNR of what a static plan starts from.

    Raises:
        ConfigError: The calibration data cannot stand for the evaluation data.
        BuildError: An activation is NaN or infinite.
    """
    import numpy as np

    graph = bench.static_base
    scheme = bench.resolved.target.quantization
    layers = find_layers(graph.proto)
    key = digest_of(
        [
            graph.sha256,
            bench.calibration_set.sha256,
            bench.evaluation_set.sha256,
            bench.task_sha256,
            bench.code("calibrate"),
            bench.plan.step("quantize").values(),
        ]
    )

    def produce(out: Path) -> None:
        names = tensors_to_calibrate(graph, layers)
        feeds = bench.feeds
        stats = bench.watch(
            "calibrate",
            "samples",
            2 * len(feeds),
            lambda tick: collect(graph, names, feeds, tick),
        )
        _lint_ranges(bench, graph, stats)
        rule, ranges, per_rule = choose_rule(graph, scheme, stats, layers, feeds)
        sqnr = layer_sqnr_db(
            graph, layers, ranges, feeds[:SQNR_FEEDS], per_channel=scheme.per_channel
        )
        (out / "calibration.json").write_text(
            json.dumps(
                {
                    "rule": rule.value,
                    "ranges": ranges,
                    "sqnr_db": sqnr,
                    "rule_sqnr_db": per_rule,
                }
            )
        )
        np.savez_compressed(
            out / "histograms.npz",
            **{f"t{i}": stats[name].histogram for i, name in enumerate(names)},
        )

    folder = bench.stage("calibrate", key, produce, _calibration_detail)
    saved = json.loads((folder / "calibration.json").read_text())
    return Calibration(
        tuple(layers),
        saved["rule"],
        {name: (low, high) for name, (low, high) in saved["ranges"].items()},
        saved["sqnr_db"],
        saved["rule_sqnr_db"],
    )


def _lint_ranges(bench: Workbench, graph: Graph, stats: Mapping[str, TensorStats]) -> None:
    few = evenly(bench.evaluation_set.samples, _LINT_SAMPLES)
    run = runner(open_session(bench.canonical.graph.to_bytes()))
    feeds = record_feeds(
        bench.task,
        run,
        dataclasses.replace(bench.evaluation_set, samples=few),
        CALIBRATION_FEEDS,
        lambda _: None,
    )
    if not feeds:
        return
    seen = extremes(graph, list(stats), feeds)
    lint_ranges(
        {n: (s.low, s.high) for n, s in stats.items()},
        seen,
        bench.recipe.file,
    )


def _calibration_detail(folder: Path) -> str:
    saved = json.loads((folder / "calibration.json").read_text())
    return f"{len(saved['sqnr_db'])} layers, {saved['rule']} ranges"
