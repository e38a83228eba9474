"""Facts about a graph: operators, multiply-adds, bytes, and what runs as int8."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.toolchain.graph import Graph
from edgekit.toolchain.macs import WEIGHTED, count_macs, is_depthwise
from edgekit.toolchain.placement import Flat, Place, flatten, place
from edgekit.toolchain.shapes import Tensors, check_structure, graphs_of, infer_tensors

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class NodeFacts:
    """One node as a runtime would execute it.

    Attributes:
        name: The node's own name, or operator and place; nested ones carry the path to them.
        op: Operator.
        place: int8, float, or free (folded away).
        macs: Multiply-adds, or None where a shape is not known.
        weighted: True for operators that multiply matrices.
        depthwise: True for depthwise convolutions, which reuse little.
        param_bytes: Constants it reads, in the type in which they are kept.
        in_bytes: Activations it reads; 8-bit ones count one byte an element.
        out_bytes: Activations it writes.
        out_elements: Elements it writes.
        repeats: How often it runs: a DequantizeLinear once for each reader that stays in float.
    """

    name: str
    op: str
    place: Place
    macs: int | None
    weighted: bool
    depthwise: bool
    param_bytes: int
    in_bytes: int
    out_bytes: int
    out_elements: int
    repeats: int = 1


@dataclass(frozen=True)
class GraphFacts:
    """What a graph holds and does.

    Attributes:
        nodes: In order of execution.
        ops: Operator (with its domain, if not the default one) to how many there are, subgraphs
            and untaken branches included.
        macs: Multiply-adds of one run.
        int8_macs: Those among them that run as int8.
        parameters: Elements of all weights.
        param_bytes: Bytes of all weights, as stored.
        resident_bytes: Bytes of the weights as the runtime keeps them: what it folds is unfolded.
        peak_activation_bytes: Most bytes of activations that live at once.
        dynamic: Dynamic dimensions and the size taken for each.
        assumed: Those among them whose size nobody gave.
        unknown_tensors: Activations whose shape is not known; their bytes are not counted.
    """

    nodes: tuple[NodeFacts, ...]
    ops: Mapping[str, int]
    macs: int
    int8_macs: int
    parameters: int
    param_bytes: int
    resident_bytes: int
    peak_activation_bytes: int
    dynamic: Mapping[str, int]
    assumed: frozenset[str]
    unknown_tensors: int

    @property
    def int8_share(self) -> float:
        """Share of the multiply-adds that run as int8, 0..1."""
        return self.int8_macs / self.macs if self.macs else 0.0


def graph_facts(graph: Graph, dims: Mapping[str, int] | None = None) -> GraphFacts:
    """Gather the facts of a graph.

    Args:
        graph: Any ONNX model, float or quantized (QDQ, QOperator or dynamic).
        dims: Sizes of dynamic dimensions: by name (``batch``), or by place (``input[1]``) for those
            without a name. What is missing is assumed, and named in ``assumed``.

    Raises:
        BuildError: A node lacks an input or attribute that its operator must have.
    """
    check_structure(graph.proto)
    tensors = infer_tensors(graph.proto, dims)
    flat = flatten(graph.proto.graph, tensors)
    places = place(flat)
    rows = []
    flows = []
    kept: dict[str, int] = {}
    for (name, node), where in zip(flat.nodes, places, strict=True):
        reads = _reads(node.input, flat, places) if where is not Place.FREE else []
        writes = _writes(node.output, flat, places) if where is not Place.FREE else []
        params = [i for i in node.input if i in flat.constants] if where is not Place.FREE else []
        kept.update((p, _stored_bytes(p, where, flat, tensors)) for p in params)
        flows.append((reads, writes))
        rows.append(
            NodeFacts(
                name=name,
                op=node.op_type,
                place=where,
                macs=0 if where is Place.FREE else count_macs(node, tensors),
                weighted=node.op_type in WEIGHTED,
                depthwise=is_depthwise(node, tensors),
                param_bytes=sum(_stored_bytes(p, where, flat, tensors) for p in set(params)),
                in_bytes=_sum_bytes(reads, tensors),
                out_bytes=_sum_bytes(writes, tensors),
                out_elements=sum(tensors.elements(w) or 0 for w in writes),
                repeats=_repeats(node, flat, places),
            )
        )
    parameters, param_bytes = _weights(graph)
    moved = {t for reads, writes in flows for t in (*reads, *writes)}
    return GraphFacts(
        nodes=tuple(rows),
        ops=_ops(graph),
        macs=sum(row.macs or 0 for row in rows),
        int8_macs=sum(row.macs or 0 for row in rows if row.place is Place.INT8),
        parameters=parameters,
        param_bytes=param_bytes,
        resident_bytes=sum(kept.values()),
        peak_activation_bytes=_peak_bytes(flows, flat, tensors),
        dynamic=tensors.dynamic,
        assumed=tensors.assumed,
        unknown_tensors=sum(1 for t in moved if t not in tensors.shapes),
    )


def _reads(names: Iterable[str], flat: Flat, places: list[Place]) -> list[str]:
    """Activations that a node reads, past the nodes that vanish."""
    found = []
    for name in dict.fromkeys(names):
        source = name
        for _ in flat.nodes:  # as many steps as nodes: a malformed graph may run in a circle
            index = flat.producers.get(source)
            if index is None or places[index] is not Place.FREE or source in flat.constants:
                break
            node = flat.nodes[index][1]
            if not node.input:
                break
            source = node.input[0]
        if source and source not in flat.constants:
            found.append(source)
    return found


def _writes(names: Iterable[str], flat: Flat, places: list[Place]) -> list[str]:
    """Activations that a node writes, past the nodes that vanish into it."""
    found = []
    for name in names:
        target = name
        for _ in flat.nodes:
            if target in flat.escaping:
                break
            readers = flat.consumers.get(target, [])
            free = [i for i in readers if places[i] is Place.FREE]
            if not free or len(free) != len(readers) or not flat.nodes[free[0]][1].output:
                break
            if flat.nodes[free[0]][1].op_type == "DequantizeLinear":
                break
            target = flat.nodes[free[0]][1].output[0]
        if target:
            found.append(target)
    return found


def _repeats(node: onnx.NodeProto, flat: Flat, places: list[Place]) -> int:
    if node.op_type != "DequantizeLinear":
        return 1
    readers = flat.consumers.get(node.output[0], [])
    return max(1, sum(1 for i in readers if places[i] is not Place.INT8))


def _stored_bytes(name: str, where: Place, flat: Flat, tensors: Tensors) -> int:
    """Bytes of a constant as the runtime keeps it: an int8 node keeps its weights as int8."""
    index = flat.producers.get(name)
    if where is Place.INT8 and index is not None:
        node = flat.nodes[index][1]
        if node.op_type == "DequantizeLinear":
            return tensors.bytes(node.input[0]) or 0
    return tensors.bytes(name) or 0


def _sum_bytes(names: list[str], tensors: Tensors) -> int:
    return sum(tensors.bytes(name) or 0 for name in names)


def _peak_bytes(flows: list[tuple[list[str], list[str]]], flat: Flat, tensors: Tensors) -> int:
    last_use: dict[str, int] = {}
    for step, (reads, _) in enumerate(flows):
        last_use.update((name, step) for name in reads)
    live: dict[str, int] = {}
    peak = 0
    for step, (reads, writes) in enumerate(flows):
        live.update((n, tensors.bytes(n) or 0) for n in (*reads, *writes))
        peak = max(peak, sum(live.values()))
        for name in [n for n in live if last_use.get(n, -1) <= step and n not in flat.escaping]:
            del live[name]
    return peak


def _weights(graph: Graph) -> tuple[int, int]:
    """Elements and bytes of all weights, in initializers and in Constant nodes."""
    from edgekit.toolchain.shapes import item_bytes

    elements = size = 0
    for inner in graphs_of(graph.proto.graph):
        tensors = list(inner.initializer)
        for node in inner.node:
            if node.op_type == "Constant":
                tensors += [a.t for a in node.attribute if a.name == "value"]
        for tensor in tensors:
            count = math.prod(tensor.dims)
            elements += count
            size += math.ceil(count * item_bytes(tensor.data_type))
    return elements, size


def _ops(graph: Graph) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for inner in graphs_of(graph.proto.graph):
        for node in inner.node:
            domain = "" if node.domain in ("", "ai.onnx") else f"{node.domain}."
            counts[f"{domain}{node.op_type}"] += 1
    return dict(counts.most_common())
