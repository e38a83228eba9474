"""Fold BatchNormalization and constant Mul, Div, Add and Sub into the layer before them.

What scales and shifts each output channel of a Conv, ConvTranspose or Gemm is a matter of its
weights and bias. A MatMul has no bias, so it takes in scales only. Computed in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.toolchain.passes import _edit

if TYPE_CHECKING:
    import onnx

    from edgekit.toolchain.passes import CanonicalOptions

_LAYERS = frozenset(["Conv", "ConvTranspose", "Gemm", "MatMul"])
_BIAS = 2
_TABLE = 2  # dimensions of a matrix


@dataclass(frozen=True)
class _Affine:
    """What a node does to each output channel: scale · y + shift, float64[channels]."""

    scale: Any
    shift: Any


def apply(proto: onnx.ModelProto, options: CanonicalOptions) -> str | None:  # noqa: ARG001
    """Walk each layer's chain of followers for as long as it can take them in."""
    graph = proto.graph
    constants = _edit.initializers(graph)
    types = _edit.infer(proto)
    counts, readers = _edit.uses(graph), _edit.consumers(graph)
    outputs = {o.name for o in graph.output}
    place = {node.output[0]: index for index, node in enumerate(graph.node) if node.output}
    taken = _edit.all_names(graph)
    gone: set[int] = set()
    for node in graph.node:
        if not _is_layer(node, constants):
            continue
        chain: list[_Affine] = []
        value = node.output[0]
        while counts[value] == 1 and value not in outputs:
            follower = readers[value][0]
            affine = _affine(node, follower, value, constants, types)
            if affine is None:
                break
            chain.append(affine)
            value = follower.output[0]
            gone.add(place[value])
        if chain:
            _rewrite(graph, node, chain, constants, taken)
            node.output[0] = value
    if not gone:
        return None
    _edit.set_nodes(graph, [n for i, n in enumerate(graph.node) if i not in gone])
    return f"{len(gone)} nodes folded into the layer before them"


def _is_layer(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    if node.op_type not in _LAYERS or not _edit.is_standard(node) or len(node.input) <= 1:
        return False
    weight = constants.get(node.input[1])
    if weight is None or weight.data_type not in _edit.FLOAT_TYPES:
        return False
    if any(_edit.attribute(node, name, 0) for name in ("transA", "transB")):
        return False
    if any(_edit.attribute(node, name, 1.0) != 1.0 for name in ("alpha", "beta")):
        return False
    if node.op_type in ("Gemm", "MatMul") and len(weight.dims) != _TABLE:
        return False
    bias = node.input[_BIAS] if len(node.input) > _BIAS else ""
    return not bias or (bias in constants and len(constants[bias].dims) == 1)


def _affine(
    layer: onnx.NodeProto,
    node: onnx.NodeProto,
    value: str,
    constants: Mapping[str, onnx.TensorProto],
    types: _edit.Types,
) -> _Affine | None:
    """Return what a follower does to the layer's channels, or None where it does something else."""
    if not _edit.is_standard(node):
        return None
    channels = _channels(layer, constants)
    if node.op_type == "BatchNormalization":
        return _batch_norm(layer, node, constants)
    if node.op_type not in ("Mul", "Div", "Add", "Sub") or node.input[0] == node.input[1]:
        return None
    behind = node.input[0] == value
    constant = constants.get(node.input[1 if behind else 0])
    if constant is None or constant.data_type not in _edit.FLOAT_TYPES:
        return None
    operand = _per_channel(layer, constant, channels, types.rank(value), constants)
    return None if operand is None else _as_affine(layer, node.op_type, operand, behind=behind)


def _as_affine(layer: onnx.NodeProto, kind: str, operand: Any, *, behind: bool) -> _Affine | None:  # noqa: ANN401
    import numpy as np

    zero, one = np.zeros_like(operand), np.ones_like(operand)
    if kind == "Mul":
        return _Affine(operand, zero)
    if kind == "Div":
        return _Affine(one / operand, zero) if behind and operand.all() else None
    if layer.op_type == "MatMul":
        return None
    if kind == "Add":
        return _Affine(one, operand)
    return _Affine(one, -operand) if behind else _Affine(-one, operand)


def _batch_norm(
    layer: onnx.NodeProto, node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]
) -> _Affine | None:
    """Inference: gamma · (y - mean) / sqrt(variance + epsilon) + beta (Ioffe & Szegedy, 2015)."""
    import numpy as np

    parameters = [constants.get(name) for name in node.input[1:5]]
    trains = _edit.attribute(node, "training_mode", 0) or not _edit.attribute(node, "spatial", 1)
    if layer.op_type == "MatMul" or trains or any(node.output[1:]):
        return None
    values = [_edit.to_array(p).astype(np.float64) for p in parameters if p is not None]
    if len(values) != 4:  # noqa: PLR2004 - gamma, beta, mean, variance
        return None
    gamma, beta, mean, variance = values
    scale = gamma / np.sqrt(variance + _edit.attribute(node, "epsilon", 1e-5))
    if not np.isfinite(scale).all():
        return None
    return _Affine(scale, beta - mean * scale)


def _channels(layer: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> int:
    dims = list(constants[layer.input[1]].dims)
    if layer.op_type == "ConvTranspose":
        return int(dims[1] * _edit.attribute(layer, "group", 1))
    return int(dims[0] if layer.op_type == "Conv" else dims[1])


def _per_channel(
    layer: onnx.NodeProto,
    constant: onnx.TensorProto,
    channels: int,
    rank: int | None,
    constants: Mapping[str, onnx.TensorProto],
) -> Any:  # noqa: ANN401 - float64[channels], or None
    """Return a constant as one value a channel, if that is how it broadcasts."""
    import numpy as np

    if layer.op_type in ("Conv", "ConvTranspose"):
        rank = len(constants[layer.input[1]].dims)
    elif layer.op_type == "Gemm":
        rank = _TABLE
    dims = list(constant.dims)
    if len(dims) > (1 if rank is None else rank):
        return None  # it would add dimensions
    axis = len(dims) - 1 if layer.op_type in ("Gemm", "MatMul") else len(dims) - (rank or 0) + 1
    if any(d != 1 for i, d in enumerate(dims) if i != axis):
        return None
    values = _edit.to_array(constant).astype(np.float64).reshape(-1)
    if values.size not in (1, channels) or not np.isfinite(values).all():
        return None
    return np.array(np.broadcast_to(values, (channels,)))


def _rewrite(
    graph: onnx.GraphProto,
    layer: onnx.NodeProto,
    chain: list[_Affine],
    constants: Mapping[str, onnx.TensorProto],
    taken: set[str],
) -> None:
    """Put a chain's scales into the weights and its shifts into the bias."""
    import numpy as np

    weight = _edit.to_array(constants[layer.input[1]])
    bias_name = layer.input[_BIAS] if len(layer.input) > _BIAS else ""
    scale = np.ones(_channels(layer, constants))
    shift = np.zeros_like(scale)
    if bias_name:
        shift = shift + _edit.to_array(constants[bias_name]).astype(np.float64)
    has_bias = bool(bias_name)
    for affine in chain:
        scale, shift = scale * affine.scale, shift * affine.scale + affine.shift
        has_bias = has_bias or bool(affine.shift.any())
    name = _edit.unique(f"{layer.input[1]}/folded", taken)
    _edit.add_constant(graph, name, _scaled(layer, weight, scale))
    layer.input[1] = name
    if has_bias:
        name = _edit.unique(f"{bias_name or layer.input[1]}/bias", taken)
        _edit.add_constant(graph, name, shift.astype(weight.dtype))
        del layer.input[_BIAS:]
        layer.input.append(name)


def _scaled(layer: onnx.NodeProto, weight: Any, scale: Any) -> Any:  # noqa: ANN401 - arrays
    """Multiply each output channel; ConvTranspose keeps them as [in, out / groups]."""
    import numpy as np

    wide = weight.astype(np.float64)
    if layer.op_type in ("Gemm", "MatMul"):
        return (wide * scale).astype(weight.dtype)
    if layer.op_type == "Conv":
        return (wide * scale.reshape(-1, *[1] * (weight.ndim - 1))).astype(weight.dtype)
    groups = int(_edit.attribute(layer, "group", 1))
    grouped = wide.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    by_group = scale.reshape(groups, 1, weight.shape[1], *[1] * (weight.ndim - 2))
    return (grouped * by_group).reshape(weight.shape).astype(weight.dtype)
