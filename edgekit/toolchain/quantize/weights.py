"""Store float32 weights in 8 or 16 bits; the layers that read them still compute in float32.

A weight becomes ``Mul(Cast(int8), scale)`` or ``Cast(float16)``. onnxruntime folds constants while
it loads a model, so the graph that runs is the float32 one, and as fast. Written as
DequantizeLinear it would not be folded: that operator stays in the graph for the fusions that look
for it, and a detector with 82 such weights took 1.3 times as long (onnxruntime 1.27, x86-64).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from edgekit.toolchain.graph import Graph
from edgekit.toolchain.passes import CanonicalOptions, _edit, remove_dead

if TYPE_CHECKING:
    import numpy as np
    import onnx

    Array = np.ndarray[Any, Any]

# Below that, two more nodes and the scales take what the smaller weights save.
MIN_ELEMENTS = 1024
_LARGEST = 127
_INT8, _FLOAT16 = 3, 10  # of onnx.TensorProto
# Where an operator keeps a weight: its input, and the axes that have scales of their own.
_WEIGHTS: Mapping[str, Mapping[int, tuple[int, ...]]] = {
    "Conv": {1: (0,)},
    "ConvTranspose": {1: (1,)},
    "Gather": {0: (0,)},
    "GRU": {1: (0, 1), 2: (0, 1)},
    "Gemm": {1: (1,)},
    "LSTM": {1: (0, 1), 2: (0, 1)},
    "MatMul": {1: (-1,)},
}


class Stored(StrEnum):
    """What a weight is stored as."""

    INT8 = "int8"
    FLOAT16 = "float16"


def store_weights(graph: Graph, kind: Stored = Stored.INT8) -> Graph:
    """Store what is left of large float32 weights in fewer bits.

    Args:
        graph: Any graph; weights that are quantized already stay as they are.
        kind: int8 has one scale an output channel, and moves a weight by at most half a step, 1/254
            of its channel's largest; float16 by at most 2^-11 of itself, or 2^-25 where that is
            more. Weights beyond float16's range, 65504, stay float32.

    Returns:
        The graph with smaller weights, or the one given where it has none.
    """
    proto = graph.copy()
    axes = _readers(proto.graph)
    written = []
    nodes: list[onnx.NodeProto] = []
    for tensor in list(proto.graph.initializer):
        if tensor.name not in axes or math.prod(tensor.dims) < MIN_ELEMENTS:
            continue
        made = (
            _write_int8(tensor, axes[tensor.name], nodes)
            if kind is Stored.INT8
            else _write_float16(tensor, nodes)
        )
        if made:
            written += made
            proto.graph.initializer.remove(tensor)
    if not nodes:
        return graph
    proto.graph.initializer.extend(written)
    _edit.set_nodes(proto.graph, [*nodes, *proto.graph.node])
    return Graph.of(proto)


def restore_weights(graph: Graph) -> Graph:
    """Return the graph that the runtime makes of stored weights while it loads them."""
    import onnx

    proto = graph.copy()
    constants = _edit.initializers(proto.graph)
    found = list(_stored(proto.graph))
    for name, stored, factor in found:
        weight = onnx.numpy_helper.to_array(constants[stored]).astype("float32")
        if factor is not None:
            weight *= onnx.numpy_helper.to_array(constants[factor])
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    replaced = {name for name, _, _ in found}
    _edit.set_nodes(proto.graph, [n for n in proto.graph.node if n.output[0] not in replaced])
    remove_dead.apply(proto, CanonicalOptions())
    return Graph.of(proto)


def stored_weights(graph: onnx.GraphProto) -> dict[str, int]:
    """Return the elements of each weight that :func:`store_weights` wrote, by name."""
    sizes = {t.name: math.prod(t.dims) for t in graph.initializer}
    return {name: sizes[stored] for name, stored, _ in _stored(graph)}


def _stored(graph: onnx.GraphProto) -> Iterator[tuple[str, str, str | None]]:
    """Yield name, what is stored, and the scale if there is one, of stored weights."""
    types = {t.name: t.data_type for t in graph.initializer}
    casts = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Cast"}
    for node in graph.node:
        if node.op_type == "Cast" and types.get(node.input[0]) == _FLOAT16:
            yield node.output[0], node.input[0], None
        elif node.op_type == "Mul" and types.get(node.input[1]) == _edit.FLOAT:
            stored = casts.get(node.input[0], "")
            if types.get(stored) == _INT8:
                yield node.output[0], stored, node.input[1]


def _readers(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Return float32 weights that layers alone read, with the axes that have scales."""
    floats = {t.name: len(t.dims) for t in graph.initializer if t.data_type == _edit.FLOAT}
    floats = {name: rank for name, rank in floats.items() if rank > 1}
    # A graph's input of the same name may be fed, its output is the caller's.
    other = {value.name for value in (*graph.input, *graph.output)}
    axes: dict[str, tuple[int, ...]] = {}
    for node in graph.node:
        other.update(_edit.captured(node))
        places = _WEIGHTS.get(node.op_type, {}) if node.domain in ("", "ai.onnx") else {}
        for index, name in enumerate(node.input):
            if name not in floats:
                continue
            if index not in places:
                other.add(name)
                continue
            found = places[index]
            if node.op_type == "Gemm" and _edit.attribute(node, "transB", 0):
                found = (0,)
            if node.op_type == "Gather" and _edit.attribute(node, "axis", 0):
                other.add(name)
            axes.setdefault(name, tuple(axis % floats[name] for axis in found))
    return {name: found for name, found in axes.items() if name not in other}


def _write_int8(
    tensor: onnx.TensorProto, axes: tuple[int, ...], nodes: list[onnx.NodeProto]
) -> list[onnx.TensorProto]:
    import numpy as np
    import onnx

    weight = onnx.numpy_helper.to_array(tensor)
    others = tuple(axis for axis in range(weight.ndim) if axis not in axes)
    largest = np.abs(weight).max(axis=others, keepdims=True).astype(np.float64)
    # A channel of zeros, or of values that a float32 scale cannot tell from zero.
    scale = np.maximum(largest / _LARGEST, np.finfo(np.float32).tiny).astype(np.float32)
    steps = np.clip(np.rint(weight / scale), -_LARGEST, _LARGEST).astype(np.int8)
    name = tensor.name
    stored, factor, cast = f"{name}__stored", f"{name}__step", f"{name}__float"
    nodes.append(
        onnx.helper.make_node("Cast", [stored], [cast], f"{name}__cast", to=onnx.TensorProto.FLOAT)
    )
    nodes.append(onnx.helper.make_node("Mul", [cast, factor], [name], f"{name}__restore"))
    return [
        onnx.numpy_helper.from_array(steps, stored),
        onnx.numpy_helper.from_array(scale, factor),
    ]


def _write_float16(tensor: onnx.TensorProto, nodes: list[onnx.NodeProto]) -> list[onnx.TensorProto]:
    import numpy as np
    import onnx

    weight = onnx.numpy_helper.to_array(tensor)
    if np.abs(weight).max() > np.finfo(np.float16).max:
        return []
    stored = f"{tensor.name}__stored"
    nodes.append(
        onnx.helper.make_node(
            "Cast", [stored], [tensor.name], f"{tensor.name}__cast", to=onnx.TensorProto.FLOAT
        )
    )
    return [onnx.numpy_helper.from_array(weight.astype(np.float16), stored)]
