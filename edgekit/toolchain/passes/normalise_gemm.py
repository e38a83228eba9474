"""Bring Gemm and its relatives into the form that the int8 writers take.

After it a Gemm computes A·B + C with B as it multiplies ([K, N], no transposition), alpha = beta =
1, and C either absent or one value a column. onnxruntime's dynamic writer breaks on transB
(onnxruntime#25890); a C of another shape cannot become an int32 bias. A MatMul by one matrix that
is written as a batch of one gets the matrix: int8 takes no scale a column for batches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.toolchain.passes import _edit

if TYPE_CHECKING:
    import onnx

    from edgekit.toolchain.passes import CanonicalOptions

_BIAS = 2  # A, B, C
_TABLE = 2  # dimensions of a matrix


def apply(proto: onnx.ModelProto, options: CanonicalOptions) -> str | None:  # noqa: ARG001
    """Rewrite every Gemm on floats, and MatMuls by a batch of one."""
    graph = proto.graph
    types = _edit.infer(proto)
    taken = _edit.all_names(graph)
    nodes: list[onnx.NodeProto] = []
    unbatched = sum(_unbatch(graph, node, types, taken) for node in graph.node)
    count = 0
    for node in graph.node:
        if node.op_type != "Gemm" or not _edit.is_standard(node) or not _is_float(node, types):
            nodes.append(node)
            continue
        before = node.SerializeToString(deterministic=True)
        replacement = _normalise(graph, node, taken)
        nodes += replacement
        count += len(replacement) > 1 or node.SerializeToString(deterministic=True) != before
    _edit.set_nodes(graph, nodes)
    notes = [f"{count} Gemm nodes normalised"] if count else []
    notes += [f"{unbatched} batches of one matrix made a matrix"] if unbatched else []
    return "; ".join(notes) or None


def _unbatch(
    graph: onnx.GraphProto, node: onnx.NodeProto, types: _edit.Types, taken: set[str]
) -> bool:
    """Make [1, K, N] a [K, N] where the data has as many dimensions anyway."""
    if node.op_type != "MatMul" or not _edit.is_standard(node):
        return False
    weight = _edit.initializers(graph).get(node.input[1])
    if weight is None or weight.data_type not in _edit.FLOAT_TYPES:
        return False
    rank = types.rank(node.input[0])
    if len(weight.dims) <= _TABLE or rank is None or rank < len(weight.dims):
        return False
    if any(d != 1 for d in weight.dims[:-_TABLE]):
        return False
    node.input[1] = _edit.unique(f"{node.input[1]}/matrix", taken)
    _edit.add_constant(
        graph, node.input[1], _edit.to_array(weight).reshape(tuple(weight.dims[-_TABLE:]))
    )
    return True


def _is_float(node: onnx.NodeProto, types: _edit.Types) -> bool:
    return (
        types.elements.get(node.output[0], types.elements.get(node.input[1])) in _edit.FLOAT_TYPES
    )


def _normalise(
    graph: onnx.GraphProto, node: onnx.NodeProto, taken: set[str]
) -> list[onnx.NodeProto]:
    constants = _edit.initializers(graph)
    before: list[onnx.NodeProto] = []
    if _edit.attribute(node, "transA", 0):
        before.append(_transpose(node, 0, taken))
    _edit.drop_attribute(node, "transA", *_neutral(node))
    _normalise_weight(graph, node, constants, before, taken)
    if len(node.input) > _BIAS and not node.input[_BIAS]:
        del node.input[_BIAS:]
    if len(node.input) <= _BIAS:
        _edit.drop_attribute(node, "beta")
        return [*before, node]
    return [*before, *_normalise_bias(graph, node, constants, taken)]


def _neutral(node: onnx.NodeProto) -> list[str]:
    """List the factors that a node states and that are 1 without being stated."""
    return [name for name in ("alpha", "beta") if _edit.attribute(node, name, 1.0) == 1.0]


def _normalise_weight(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    constants: dict[str, onnx.TensorProto],
    before: list[onnx.NodeProto],
    taken: set[str],
) -> None:
    alpha = _edit.attribute(node, "alpha", 1.0)
    transposed = bool(_edit.attribute(node, "transB", 0))
    weight = constants.get(node.input[1])
    if weight is None:
        if transposed:
            before.append(_transpose(node, 1, taken))
        _edit.drop_attribute(node, "transB")
        return  # an alpha stays: there is nothing to multiply it into
    if transposed or alpha != 1.0:
        values = _edit.to_array(weight)
        values = values.T if transposed else values
        scaled = values if alpha == 1.0 else (values * values.dtype.type(alpha))
        node.input[1] = _edit.unique(f"{node.input[1]}/gemm", taken)
        _edit.add_constant(graph, node.input[1], scaled)
    _edit.drop_attribute(node, "alpha", "transB")


def _normalise_bias(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    constants: dict[str, onnx.TensorProto],
    taken: set[str],
) -> list[onnx.NodeProto]:
    """Make C a vector of N; a C of another kind is added behind the Gemm."""
    import numpy as np
    import onnx

    beta = _edit.attribute(node, "beta", 1.0)
    name = node.input[_BIAS]
    weight, bias = _edit.initializers(graph).get(node.input[1]), constants.get(name)
    if weight is None or (bias is None and beta != 1.0):
        return [node]  # it stays float32 whatever its form
    _edit.drop_attribute(node, "beta")
    if bias is not None:
        columns = int(weight.dims[1])
        values = _edit.to_array(bias)
        values = values if beta == 1.0 else values * values.dtype.type(beta)
        a_row = values.ndim < _TABLE or values.shape[0] == 1
        if a_row:
            values = np.broadcast_to(values.reshape(-1), (columns,))
        if beta != 1.0 or list(bias.dims) != list(values.shape):
            name = _edit.unique(f"{name}/gemm", taken)
            _edit.add_constant(graph, name, values)
        if a_row:
            node.input[_BIAS] = name
            return [node]
    result = node.output[0]
    del node.input[_BIAS:]
    node.output[0] = _edit.unique(f"{result}/gemm", taken)
    return [node, onnx.helper.make_node("Add", [node.output[0], name], [result])]


def _transpose(node: onnx.NodeProto, index: int, taken: set[str]) -> onnx.NodeProto:
    import onnx

    source = node.input[index]
    node.input[index] = _edit.unique(f"{source}/transposed", taken)
    return onnx.helper.make_node("Transpose", [source], [node.input[index]], perm=[1, 0])
