"""The calibration stage: ranges by the best rule, and what each layer loses by itself."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.runtime.session import open_session, runner
from edgekit.toolchain.graph import Graph
from edgekit.toolchain.plan import CALIBRATION_FEEDS
from edgekit.toolchain.quantize.calibrate import collect, extremes
from edgekit.toolchain.quantize.candidates import dynamic_layers
from edgekit.toolchain.quantize.histogram import TensorStats
from edgekit.toolchain.quantize.layers import Layer, find_layers
from edgekit.toolchain.quantize.sensitivity import layer_sqnr_db
from edgekit.toolchain.quantize.static import (
    StaticPlan,
    choose_plans,
    effect_meter,
    quantized,
    tensors_to_calibrate,
)
from edgekit.toolchain.quantize.write import write_dynamic
from edgekit.toolchain.samples import evenly
from edgekit.toolchain.target import Quantization
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
        plans: A range rule each, with ranges and whether what stands between layers runs on
            integers; the best one first.
        sqnr_db: Of each layer by itself, with the best one's ranges.
    """

    layers: tuple[Layer, ...]
    plans: tuple[StaticPlan, ...]
    sqnr_db: Mapping[str, float]

    @property
    def plan(self) -> StaticPlan:
        """The best plan."""
        return self.plans[0]

    @property
    def rule(self) -> str:
        """Name of the range rule that was chosen."""
        return self.plan.rule

    @property
    def rule_sqnr_db(self) -> Mapping[str, float]:
        """Signal over noise in the outputs, by the way that was tried."""
        return {way: -noise for way, noise in self.plan.noise_db.items()}


def calibrate(bench: Workbench) -> Calibration:
    """Return ranges and per-layer SQNR of what a static plan starts from.

    Raises:
        ConfigError: The calibration data cannot stand for the evaluation data.
        BuildError: An activation is NaN or infinite.
    """
    import numpy as np

    graph = bench.static_base
    scheme = bench.resolved.target.quantization
    layers = find_layers(graph.proto, scheme.static_ops)
    key = digest_of(
        [
            graph.sha256,
            bench.calibration_set.sha256,
            bench.evaluation_set.sha256,
            bench.task_sha256,
            bench.code("calibrate"),
            _scheme(bench),
        ]
    )

    def produce(out: Path) -> None:
        names = tensors_to_calibrate(graph, layers, scheme)
        feeds = bench.feeds
        stats = bench.watch(
            "calibrate",
            "samples",
            len(feeds),
            lambda tick: collect(graph, names, feeds, tick),
        )
        _lint_ranges(bench, graph, stats)
        plans = choose_plans(graph, scheme, stats, layers, feeds)
        sqnr = layer_sqnr_db(graph, layers, plans[0].ranges, feeds[:SQNR_FEEDS], scheme)
        document = {"plans": [dataclasses.asdict(plan) for plan in plans], "sqnr_db": sqnr}
        (out / "calibration.json").write_text(json.dumps(document))
        np.savez_compressed(
            out / "histograms.npz",
            **{f"t{i}": stats[name].histogram for i, name in enumerate(names)},
        )

    folder = bench.stage("calibrate", key, produce, _calibration_detail)
    saved = json.loads((folder / "calibration.json").read_text())
    return Calibration(tuple(layers), tuple(map(_plan, saved["plans"])), saved["sqnr_db"])


def _plan(saved: Mapping[str, Any]) -> StaticPlan:
    ranges = {name: (low, high) for name, (low, high) in saved["ranges"].items()}
    return StaticPlan(**{**saved, "ranges": ranges})


def static_effects(bench: Workbench) -> dict[str, float]:
    """Return what each layer adds to the outputs when it alone is static int8: noise in dB, ≤ 0."""
    calibration, graph = bench.calibration, bench.static_base
    scheme, ranges = bench.resolved.target.quantization, bench.calibration.plan.ranges

    def alone(layer: Layer) -> Graph:
        return quantized(graph, scheme, ranges, [layer], between=False)

    return _effects(bench, graph, calibration.layers, alone, calibration.plan.ranges)


def dynamic_effects(bench: Workbench, graph: Graph) -> dict[str, float]:
    """Return what each layer adds to the outputs when it alone is dynamic int8: dB, ≤ 0."""
    scheme = bench.resolved.target.quantization
    layers = dynamic_choices(graph, scheme)
    ops = tuple(sorted({layer.op for layer in layers}))

    def alone(layer: Layer) -> Graph:
        others = [other.name for other in layers if other.name != layer.name]
        return write_dynamic(graph, scheme, ops, others)

    return _effects(bench, graph, layers, alone, "dynamic")


def dynamic_choices(graph: Graph, scheme: Quantization) -> list[Layer]:
    """List the layers that a dynamic plan may keep in float32."""
    return [layer for layer in dynamic_layers(graph) if layer.op in scheme.dynamic_ops]


def _effects(
    bench: Workbench,
    graph: Graph,
    layers: Sequence[Layer],
    alone: Callable[[Layer], Graph],
    way: object,
) -> dict[str, float]:
    rests_on = [graph.sha256, bench.calibration_set.sha256, bench.task_sha256, _scheme(bench), way]
    base = digest_of(rests_on)
    effect_db = effect_meter(graph, bench.feeds)

    def of(layer: Layer) -> float:
        # By layer: a ranking that was interrupted goes on where it was.
        folder, _ = bench.cache.stage(
            "effects",
            digest_of([base, layer.name]),
            functools.partial(_write_effect, effect_db, alone, layer),
        )
        return float(json.loads((folder / "effect.json").read_text()))

    def rank(tick: Callable[[int], None]) -> dict[str, float]:
        found = {}
        for index, layer in enumerate(layers):
            found[layer.name] = of(layer)
            tick(index + 1)
        return found

    ranked: dict[str, float] = bench.watch("rank", "layers", len(layers), rank)
    return ranked


def _write_effect(
    effect_db: Callable[[Graph], float], alone: Callable[[Layer], Graph], layer: Layer, out: Path
) -> None:
    (out / "effect.json").write_text(json.dumps(effect_db(alone(layer))))


def _scheme(bench: Workbench) -> dict[str, object]:
    """Return what calibration rests on in the plan: the target's scheme, not what is searched."""
    values = bench.plan.step("quantize").values()
    return {k: v for k, v in values.items() if k not in ("decision", "search", "float_shares")}


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
    plan = saved["plans"][0]
    between = ", integers between them" if plan["between"] else ""
    return f"{len(saved['sqnr_db'])} layers, {plan['rule']} ranges{between}"
