"""Latency and memory on a target, predicted from a roofline of its facts.

A node takes the longer of two times, and every node takes a little besides:

    t = max(operations / (peak × efficiency), bytes / bandwidth) + overhead

(a convolution moves its activations once more, to the layout that its kernel wants).

``peak`` and the interface's bandwidth are computed from published facts (``targets/*.toml``). What
stands between a peak and a real runtime are the assumptions below. They were chosen once, so that
onnxruntime's times of real models on an x86-64 host lie around the prediction; how far they lie
from it (``data/roofline.json``, written by ``benchmarks/roofline.py``) is the error band that every
prediction carries. No number here was ever checked on a board, and the measurement says so.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekit.toolchain.facts import GraphFacts, NodeFacts, graph_facts
from edgekit.toolchain.graph import Graph
from edgekit.toolchain.placement import Place
from edgekit.toolchain.target import Target
from edgekit.wire.errors import ConfigError
from edgekit.wire.measurement import Kind, Measurement

NEVER_CHECKED = "never checked on the board"
_DATA = Path(__file__).parent / "data" / "roofline.json"


@dataclass(frozen=True)
class Assumptions:
    """What stands between a peak and a runtime. Ratios run 0..1.

    Attributes:
        dense_efficiency: Share of the peak, fp32 or int8, that the inner loop of a convolution,
            matrix product or recurrent layer reaches.
        int8_feed: What packing, widening and requantizing add to an integer product, as a share of
            the time that the same product would take at the fp32 peak.
        depthwise_efficiency: Share of the fp32 peak that depthwise convolutions reach in either
            type: they reuse little, and integer ones widen before they multiply.
        layout_passes: How often a convolution's activations are moved once more, to the order that
            its kernel wants (blocks of channels, or columns of patches).
        lane_efficiency: Share of the fp32 peak that element-wise work reaches.
        memory_efficiency: Share of the interface's peak that a streaming read reaches.
        cache_bytes_per_cycle: What one core moves to and from its last cache in a clock.
        overhead_cycles: Clocks that the runtime spends around each node.
        thread_efficiency: Share of each further core's speed that a split adds.
        runtime_mib: Resident size of Python, numpy and onnxruntime with a session and no model.
        weight_copies: Resident copies of the weights: as loaded, and packed for the kernels.
        activation_factor: Arena that onnxruntime keeps for each byte of activations alive at once.
    """

    dense_efficiency: float = 0.75
    int8_feed: float = 0.25
    depthwise_efficiency: float = 0.25
    layout_passes: float = 1.0
    lane_efficiency: float = 0.15
    memory_efficiency: float = 0.8
    cache_bytes_per_cycle: float = 24.0
    overhead_cycles: float = 3000.0
    thread_efficiency: float = 0.8
    runtime_mib: float = 65.0
    weight_copies: float = 1.6
    activation_factor: float = 3.0


ASSUMED = Assumptions()

# Operations that one output element costs beside its memory traffic. What is not named costs 1.
ELEMENT_OPERATIONS: Mapping[str, float] = {
    "Clip": 2,
    "DequantizeLinear": 2,
    "DynamicQuantizeLinear": 6,
    "Erf": 20,
    "Exp": 15,
    "GRU": 0,
    "Gelu": 25,
    "HardSigmoid": 3,
    "LayerNormalization": 8,
    "Log": 20,
    "Pow": 20,
    "QuantizeLinear": 6,
    "Resize": 10,
    "Sigmoid": 15,
    "SkipLayerNormalization": 9,
    "Softmax": 20,
    "Sqrt": 4,
    "Tanh": 15,
}


@dataclass(frozen=True)
class Band:
    """How far measured times lay from predicted ones, over real models on one host.

    Attributes:
        low: 10th percentile of measured / predicted latency.
        high: 90th percentile of the same.
        memory_low: 10th percentile of measured / predicted peak memory.
        memory_high: 90th percentile of the same.
        p95_over_p50: Median of each model's 95th percentile over its median.
        n: Models measured.
        host: Kind of CPU they were measured on.
    """

    low: float
    high: float
    memory_low: float
    memory_high: float
    p95_over_p50: float
    n: int
    host: str


@dataclass(frozen=True)
class NodeCost:
    """A node and the time predicted for it.

    Attributes:
        facts: The node.
        compute_ms: Time of its arithmetic, once.
        memory_ms: Time of its memory traffic, once.
        total_ms: The longer one, changes of layout and the overhead, as often as it runs.
    """

    facts: NodeFacts
    compute_ms: float
    memory_ms: float
    total_ms: float


@dataclass(frozen=True)
class Prediction:
    """What a model is predicted to cost on a target.

    Attributes:
        facts: Of the graph.
        nodes: Cost of each node that runs.
        latency_p50_ms: Predicted, with its band.
        latency_p95_ms: Predicted, with its band.
        peak_memory_mib: Predicted, with its band.
        band: What the bands rest on.
        note: For people: what the bands are worth.
    """

    facts: GraphFacts
    nodes: tuple[NodeCost, ...]
    latency_p50_ms: Measurement
    latency_p95_ms: Measurement
    peak_memory_mib: Measurement
    band: Band
    note: str

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """The three measurements."""
        return (self.latency_p50_ms, self.latency_p95_ms, self.peak_memory_mib)


def predict(
    graph: Graph,
    target: Target,
    *,
    dims: Mapping[str, int] | None = None,
    assumptions: Assumptions = ASSUMED,
) -> Prediction:
    """Predict latency and memory of a model on a target.

    Args:
        graph: A float or quantized model.
        target: Where it is to run.
        dims: Sizes of dynamic dimensions; see :func:`edgekit.toolchain.facts.graph_facts`.
        assumptions: What stands between peaks and a runtime.
    """
    facts = graph_facts(graph, dims)
    band = load_band()
    nodes = cost_nodes(facts, target, assumptions)
    latency_ms = math.fsum(node.total_ms for node in nodes)
    memory_mib = predict_memory_mib(facts, assumptions)
    note = f"band: measured / predicted over {band.n} models, host {band.host}; {NEVER_CHECKED}"

    def measurement(metric: str, value: float, low: float, high: float) -> Measurement:
        return Measurement(
            metric=metric,
            value=_rounded(value),
            kind=Kind.PREDICTED,
            where=target.name,
            interval=(_rounded(value * min(low, 1.0)), _rounded(value * max(high, 1.0))),
        )

    return Prediction(
        facts=facts,
        nodes=nodes,
        latency_p50_ms=measurement("latency_p50_ms", latency_ms, band.low, band.high),
        latency_p95_ms=measurement(
            "latency_p95_ms", latency_ms * band.p95_over_p50, band.low, band.high
        ),
        peak_memory_mib=measurement(
            "peak_memory_mib", memory_mib, band.memory_low, band.memory_high
        ),
        band=band,
        note=note,
    )


def cost_nodes(
    facts: GraphFacts, target: Target, assumptions: Assumptions = ASSUMED
) -> tuple[NodeCost, ...]:
    """Predict the time of every node that runs."""
    cores = 1 + (target.runtime.threads - 1) * assumptions.thread_efficiency
    hertz = target.cpu.clock_mhz * 1e6
    cache_bytes = target.memory.cache_kib * 1024
    memory_bytes_s = target.memory.bandwidth_mib_s * 2**20 * assumptions.memory_efficiency
    cache_bytes_s = max(hertz * assumptions.cache_bytes_per_cycle * cores, memory_bytes_s)
    # Weights of a model that fits into the cache stay there from one run to the next.
    resident = facts.resident_bytes + facts.peak_activation_bytes <= cache_bytes
    rates = _Rates(target, assumptions, cores)
    costs = []
    for node in facts.nodes:
        if node.place is Place.FREE:
            continue
        weights_s = _weight_traffic(node) / (cache_bytes_s if resident else memory_bytes_s)
        moved = node.in_bytes + node.out_bytes
        near = resident or moved <= cache_bytes / 2
        move_ms = 1e3 * moved / (cache_bytes_s if near else memory_bytes_s)
        layout_ms = move_ms * assumptions.layout_passes if _is_convolution(node) else 0.0
        memory_ms = 1e3 * weights_s + move_ms
        compute_ms = 1e3 * rates.compute_s(node)
        overhead_ms = 1e3 * assumptions.overhead_cycles / hertz
        total_ms = node.repeats * (max(compute_ms, memory_ms) + layout_ms + overhead_ms)
        costs.append(NodeCost(node, compute_ms, memory_ms, total_ms))
    return tuple(costs)


def predict_memory_mib(facts: GraphFacts, assumptions: Assumptions = ASSUMED) -> float:
    """Predict a process's peak resident size: the runtime, the weights, the live activations."""
    model = (
        facts.resident_bytes * assumptions.weight_copies
        + facts.peak_activation_bytes * assumptions.activation_factor
    )
    return assumptions.runtime_mib + model / 2**20


def _is_convolution(node: NodeFacts) -> bool:
    return bool(node.macs) and "Conv" in node.op


def _weight_traffic(node: NodeFacts) -> int:
    # A Gather reads the rows it is asked for, not its table.
    return min(node.param_bytes, node.out_bytes) if node.op == "Gather" else node.param_bytes


@dataclass(frozen=True)
class _Rates:
    target: Target
    assumptions: Assumptions
    cores: float

    def compute_s(self, node: NodeFacts) -> float:
        cpu, assumed = self.target.cpu, self.assumptions
        share = self.cores / cpu.cores
        lanes = cpu.fp32_gflops * 1e9 * share * assumed.lane_efficiency
        element_s = ELEMENT_OPERATIONS.get(node.op, 1.0) * node.out_elements / lanes
        if not node.macs:
            return element_s
        fp32_peak, int8_peak = cpu.fp32_gflops * 1e9 * share, cpu.int8_gops * 1e9 * share
        operations = 2.0 * node.macs
        if node.depthwise:
            return operations / (fp32_peak * assumed.depthwise_efficiency)
        if node.place is Place.INT8:
            product_s = operations / (int8_peak * assumed.dense_efficiency)
            return product_s + assumed.int8_feed * operations / fp32_peak
        return operations / (fp32_peak * assumed.dense_efficiency)


@functools.cache
def load_band() -> Band:
    """Read the error band that is committed beside this file.

    Raises:
        ConfigError: It is missing or malformed: the installation is damaged.
    """
    try:
        document = json.loads(_DATA.read_text(encoding="utf-8"))
        latency, memory = document["latency_ratio"], document["memory_ratio"]
        return Band(
            low=float(latency["p10"]),
            high=float(latency["p90"]),
            memory_low=float(memory["p10"]),
            memory_high=float(memory["p90"]),
            p95_over_p50=float(document["p95_over_p50"]),
            n=int(document["n"]),
            host=str(document["host"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"the roofline's error band cannot be read: {error}",
            hint="python benchmarks/roofline.py MODEL… writes it",
            where=str(_DATA),
        ) from error


def _rounded(value: float) -> float:
    """Four significant digits: bundles must not differ by a last bit."""
    return float(f"{value:.4g}")
