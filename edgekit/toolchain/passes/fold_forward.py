"""Fold a scalar Mul and Add into the Conv layers behind them.

y = s · x + b with one s and one b for the whole tensor, as after the activations of PP-LCNet, costs
two passes over memory and nothing else. A Conv behind it takes s into its weights, and b into its
bias unless it pads: padding puts zeros where b would have to be, so then x + b/s stays, one pass of
two.
Scales that differ between channels are left alone: they would unbalance the int8 weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.toolchain.passes import _edit

if TYPE_CHECKING:
    import onnx

    from edgekit.toolchain.passes import CanonicalOptions

_BIAS = 2
# A smaller scale would blow b/s up and lose digits.
_MIN_SCALE = 1e-3
_MAX_SCALE = 1e3


@dataclass
class _Ramp:
    """A chain of scalar nodes that computes scale · source + shift.

    Attributes:
        source: The value that the chain starts from.
        result: The value that only Conv layers read.
        nodes: Results of the chain's nodes, last first.
    """

    source: str
    result: str
    scale: float
    shift: float
    nodes: list[str]


def apply(proto: onnx.ModelProto, options: CanonicalOptions) -> str | None:  # noqa: ARG001
    """Find the values that only Conv layers read, and walk back over scalar nodes."""
    graph = proto.graph
    constants = _edit.initializers(graph)
    types = _edit.infer(proto)
    makers, readers, counts = _edit.producers(graph), _edit.consumers(graph), _edit.uses(graph)
    outputs = {o.name for o in graph.output}
    taken = _edit.all_names(graph)
    instead: dict[str, onnx.NodeProto | None] = {}
    folded = 0
    for node in list(graph.node):
        value = node.output[0]
        layers = readers.get(value, [])
        if value in outputs or not layers or not all(_takes(n, value, constants) for n in layers):
            continue
        ramp = _ramp(value, makers, counts, constants, types)
        if ramp is None:
            continue
        keeps_shift = ramp.shift != 0.0 and any(_pads(layer) for layer in layers)
        if keeps_shift and len(ramp.nodes) == 1:
            continue  # one Add for one Add
        for layer in layers:
            _absorb(graph, layer, ramp.scale, 0.0 if keeps_shift else ramp.shift, taken)
        instead.update(dict.fromkeys(ramp.nodes))
        folded += len(ramp.nodes) - keeps_shift
        if keeps_shift:
            instead[value] = _shifted(graph, ramp, types, taken)
        else:
            for layer in layers:
                layer.input[0] = ramp.source
    if not folded:
        return None
    _edit.set_nodes(graph, _with(graph, instead))
    return f"{folded} scalar nodes folded into the layers behind them"


def _with(
    graph: onnx.GraphProto, instead: Mapping[str, onnx.NodeProto | None]
) -> list[onnx.NodeProto]:
    nodes = (instead.get(n.output[0], n) if n.output else n for n in graph.node)
    return [node for node in nodes if node is not None]


def _takes(node: onnx.NodeProto, value: str, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Say whether a reader is a Conv on this value, with constant float weights."""
    if node.op_type != "Conv" or not _edit.is_standard(node) or list(node.input).count(value) != 1:
        return False
    if node.input[0] != value:
        return False
    weight = constants.get(node.input[1])
    bias = node.input[_BIAS] if len(node.input) > _BIAS else ""
    return (
        weight is not None and weight.data_type == _edit.FLOAT and (not bias or bias in constants)
    )


def _pads(layer: onnx.NodeProto) -> bool:
    auto = _edit.attribute(layer, "auto_pad", b"NOTSET")
    return auto not in (b"NOTSET", b"VALID") or (
        auto == b"NOTSET" and any(_edit.attribute(layer, "pads", [0]))
    )


def _ramp(
    value: str,
    makers: Mapping[str, onnx.NodeProto],
    counts: Mapping[str, int],
    constants: Mapping[str, onnx.TensorProto],
    types: _edit.Types,
) -> _Ramp | None:
    """Walk back from a value; each node but the last must be read by the next one alone."""
    ramp = _Ramp(value, value, 1.0, 0.0, [])
    while (node := makers.get(ramp.source)) is not None:
        if ramp.nodes and counts[ramp.source] != 1:
            break
        step = _scalar_step(node, constants, types)
        if step is None:
            break
        source, scale, shift = step
        ramp.shift += ramp.scale * shift
        ramp.scale *= scale
        ramp.source = source
        ramp.nodes.append(node.output[0])
    good = _MIN_SCALE <= abs(ramp.scale) <= _MAX_SCALE and math.isfinite(ramp.shift)
    return ramp if ramp.nodes and good else None


def _scalar_step(  # noqa: PLR0911 - one return an operator
    node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto], types: _edit.Types
) -> tuple[str, float, float] | None:
    """Return the data input and what a node multiplies it with and adds to it."""
    if node.op_type not in ("Mul", "Div", "Add", "Sub") or not _edit.is_standard(node):
        return None
    first, second = node.input
    data, constant = (first, second) if second in constants else (second, first)
    tensor = constants.get(constant)
    if tensor is None or data in constants or tensor.data_type != _edit.FLOAT:
        return None
    values = _edit.to_array(tensor)
    if values.size != 1 or values.ndim > (types.rank(data) or 1):
        return None
    number = float(values.reshape(-1)[0])
    if node.op_type == "Mul":
        return data, number, 0.0
    if node.op_type == "Add":
        return data, 1.0, number
    if node.op_type == "Sub":
        return (data, 1.0, -number) if data == first else (data, -1.0, number)
    return (data, 1.0 / number, 0.0) if data == first and number else None


def _absorb(
    graph: onnx.GraphProto, layer: onnx.NodeProto, scale: float, shift: float, taken: set[str]
) -> None:
    """conv(s · x + b) = (s · W) * x + (bias + b · sum of each filter)."""
    import numpy as np

    constants = _edit.initializers(graph)
    weight = _edit.to_array(constants[layer.input[1]]).astype(np.float64)
    bias_name = layer.input[_BIAS] if len(layer.input) > _BIAS else ""
    if scale != 1.0:
        layer.input[1] = _edit.unique(f"{layer.input[1]}/forward", taken)
        _edit.add_constant(graph, layer.input[1], (weight * scale).astype(np.float32))
    if shift == 0.0:
        return
    bias = _edit.to_array(constants[bias_name]).astype(np.float64) if bias_name else 0.0
    total = bias + shift * weight.reshape(weight.shape[0], -1).sum(axis=1)
    name = _edit.unique(f"{bias_name or layer.input[1]}/forward", taken)
    _edit.add_constant(graph, name, np.asarray(total, dtype=np.float32))
    del layer.input[_BIAS:]
    layer.input.append(name)


def _shifted(
    graph: onnx.GraphProto, ramp: _Ramp, types: _edit.Types, taken: set[str]
) -> onnx.NodeProto:
    import numpy as np
    import onnx

    name = _edit.unique(f"{ramp.result}/shift", taken)
    dims = () if types.rank(ramp.source) else (1,)
    _edit.add_constant(graph, name, np.full(dims, ramp.shift / ramp.scale, dtype=np.float32))
    return onnx.helper.make_node("Add", [ramp.source, name], [ramp.result])
