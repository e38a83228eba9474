"""Compute what does not depend on the input: weights behind a Transpose, shapes, conditions.

ONNX Runtime itself does the arithmetic, with its optimizer off. Nothing is folded whose size is not
known beforehand, or that would make the file much larger.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgekit.runtime.session import open_session, runner
from edgekit.toolchain.graph import serialize
from edgekit.toolchain.passes import _edit
from edgekit.wire.errors import BuildError

if TYPE_CHECKING:
    import onnx

    from edgekit.toolchain.passes import CanonicalOptions

# A result may be this much larger than the constants that it is made of.
GROWTH_BYTES = 64 * 1024
MAX_RESULT_BYTES = 512 * 1024 * 1024
_RANDOM = frozenset(
    {
        *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
        *("Multinomial", "Bernoulli", "Dropout"),
    }
)
# Folding these would undo the quantization of a model that comes quantized.
_QUANTIZED = frozenset(["QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"])
_STRING = 8


def apply(proto: onnx.ModelProto, options: CanonicalOptions) -> str | None:  # noqa: ARG001
    """Replace nodes whose result is known by initializers."""
    types = _edit.infer(proto)
    shapes = _fold_shapes(proto, types)
    nodes = _foldable(proto, types)
    values = _evaluate(proto, nodes) if nodes else {}
    gone = [n for n in nodes if all(o in values for o in n.output if o)]
    if not shapes and not gone:
        return None
    graph = proto.graph
    done = {o for node in gone for o in node.output if o}
    _edit.set_nodes(graph, [n for n in graph.node if done.isdisjoint(n.output)])
    graph.initializer.extend(values[o] for n in gone for o in n.output if o)
    return f"{shapes + len(gone)} nodes computed beforehand"


def _foldable(proto: onnx.ModelProto, types: _edit.Types) -> list[onnx.NodeProto]:
    graph = proto.graph
    outputs = {o.name for o in graph.output}
    known: dict[str, int] = {
        name: _edit.nbytes(tensor)
        for name, tensor in _edit.initializers(graph).items()
        if tensor.data_type != _STRING
    }
    found = []
    for node in graph.node:
        inputs = [i for i in node.input if i]
        if (
            not _edit.is_standard(node)
            or node.op_type in _RANDOM | _QUANTIZED | {"Constant"}
            or any(True for _ in _edit.subgraphs(node))
            or not all(i in known for i in inputs)
            or not outputs.isdisjoint(node.output)
        ):
            continue
        sizes = {o: _size(o, types) for o in node.output if o}
        budget = sum(known[i] for i in inputs) + GROWTH_BYTES
        if any(s is None or s > min(budget, MAX_RESULT_BYTES) for s in sizes.values()):
            continue
        known.update({name: size for name, size in sizes.items() if size is not None})
        found.append(node)
    return found


def _size(name: str, types: _edit.Types) -> int | None:
    import math

    import onnx

    shape, element = types.static(name), types.elements.get(name)
    if shape is None or element is None or element == _STRING:
        return None
    return math.prod(shape) * int(onnx.helper.tensor_dtype_to_np_dtype(element).itemsize)


def _evaluate(
    proto: onnx.ModelProto, nodes: list[onnx.NodeProto]
) -> Mapping[str, onnx.TensorProto]:
    """Run nodes that read constants only; where the whole fails, each that can by itself."""
    try:
        return _run(proto, nodes, {})
    except BuildError:
        values: dict[str, onnx.TensorProto] = {}
        for node in nodes:
            try:
                values.update(_run(proto, [node], values))
            except BuildError:
                continue  # a kernel that the runtime lacks: the node stays in the graph
        return values


def _run(
    proto: onnx.ModelProto, nodes: list[onnx.NodeProto], more: Mapping[str, onnx.TensorProto]
) -> dict[str, onnx.TensorProto]:
    import onnx

    constants = _edit.initializers(proto.graph) | dict(more)
    wanted = [o for n in nodes for o in n.output if o]
    read = dict.fromkeys(i for n in nodes for i in n.input if i in constants)
    graph = onnx.helper.make_graph(
        nodes,
        "fold",
        [],
        [onnx.helper.make_empty_tensor_value_info(o) for o in wanted],
        initializer=[constants[name] for name in read],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=proto.opset_import, ir_version=min(proto.ir_version, 10)
    )
    results = runner(open_session(serialize(model), level="ORT_DISABLE_ALL"))({})
    return {name: onnx.numpy_helper.from_array(results[name], name) for name in wanted}


def _fold_shapes(proto: onnx.ModelProto, types: _edit.Types) -> int:
    """Replace Shape and Size, and what is picked out of a Shape, where the dimensions are known."""
    import numpy as np

    graph = proto.graph
    outputs = {o.name for o in graph.output}
    constants = _edit.initializers(graph)
    dims: dict[str, tuple[_edit.Dim, ...]] = {}
    kept, count = [], 0
    for node in graph.node:
        answer: tuple[_edit.Dim, ...] | None = None
        scalar = False
        if not _edit.is_standard(node) or outputs.intersection(node.output):
            pass
        elif node.op_type == "Shape" and node.input[0] in types.shapes:
            shape = types.shapes[node.input[0]]
            answer = shape[_edit.attribute(node, "start", 0) : _edit.attribute(node, "end")]
            dims[node.output[0]] = answer
        elif node.op_type == "Size" and (static := types.static(node.input[0])) is not None:
            answer, scalar = (int(np.prod(static, dtype=np.int64)),), True
        elif node.op_type in ("Gather", "Slice") and node.input[0] in dims:
            answer, scalar = _picked(node, dims[node.input[0]], constants)
            if answer is not None and not scalar:
                dims[node.output[0]] = answer
        if answer is None or not all(isinstance(d, int) for d in answer):
            kept.append(node)
            continue
        values = np.array(answer[0] if scalar else answer, dtype=np.int64)
        _edit.add_constant(graph, node.output[0], values)
        count += 1
    if count:
        _edit.set_nodes(graph, kept)
    return count


def _picked(
    node: onnx.NodeProto,
    dims: tuple[_edit.Dim, ...],
    constants: Mapping[str, onnx.TensorProto],
) -> tuple[tuple[_edit.Dim, ...] | None, bool]:
    """Return the dimensions that a Gather or Slice takes out of a Shape; True for a single one."""
    rest = [i for i in node.input[1:] if i]
    if not rest or not all(i in constants for i in rest):
        return None, False
    values = [_edit.to_array(constants[i]) for i in rest]
    if node.op_type == "Gather":
        wanted = values[0].reshape(-1)
        if values[0].ndim > 1 or any(not -len(dims) <= int(i) < len(dims) for i in wanted):
            return None, False
        return tuple(dims[int(i)] for i in wanted), values[0].ndim == 0
    if len(rest) != len(node.input) - 1 or len(values) < 2 or any(v.size != 1 for v in values):  # noqa: PLR2004
        return None, False
    start, end = int(values[0].item()), int(values[1].item())
    step = int(values[3].item()) if len(values) > 3 else 1  # noqa: PLR2004 - starts, ends, axes, steps
    if step != 1:
        return None, False
    return dims[start:end], False
