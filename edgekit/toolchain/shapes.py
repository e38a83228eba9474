"""Shapes and types of every tensor of a graph, with sizes in the place of dynamic dimensions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.toolchain.fold import fold_shapes, subgraphs_of
from edgekit.wire.errors import BuildError

if TYPE_CHECKING:
    import onnx

Shape = tuple[int, ...]

# What a dynamic dimension is taken for when nobody says: the first axis is a batch of one; any
# other is a picture's side in four dimensions, and a number of tokens or frames in fewer.
ASSUMED_BATCH = 1
ASSUMED_SIDE = 224
ASSUMED_LENGTH = 128
_PICTURE_RANK = 4
# What exporters write for a dimension that they did not name; it stands for no one size.
_NAMELESS = {"", "?"}
# A chain of Shape → Gather → … → Reshape resolves one link of Reshapes a round.
MAX_ROUNDS = 24

# Operators whose output has the broadcast shape of their inputs, including onnxruntime's own, for
# which onnx has no inference.
_ELEMENTWISE = {
    "BiasGelu",
    "DequantizeLinear",
    "FastGelu",
    "Gelu",
    "QLinearAdd",
    "QLinearLeakyRelu",
    "QLinearMul",
    "QLinearSigmoid",
    "QLinearSoftmax",
    "QuantizeLinear",
    "QuickGelu",
    "SkipLayerNormalization",
}


# Those of them with one input.
_UNARY = {"FastGelu", "Gelu", "QuickGelu"}


@dataclass(frozen=True)
class Tensors:
    """What is known of the tensors of a graph and of its subgraphs.

    Attributes:
        shapes: Name to shape, for tensors whose every dimension is known.
        types: Name to ``TensorProto.DataType``.
        constants: Names of initializers and outputs of Constant nodes.
        dynamic: Dynamic dimension of an input, by name, to the size taken for it.
        assumed: Those among them that the caller did not give.
        taken: First output of an If whose condition is constant to the branch it takes.
    """

    shapes: Mapping[str, Shape]
    types: Mapping[str, int]
    constants: frozenset[str]
    dynamic: Mapping[str, int]
    assumed: frozenset[str]
    taken: Mapping[str, str]

    def elements(self, name: str) -> int | None:
        """Number of elements of a tensor, or None where its shape is not known."""
        shape = self.shapes.get(name)
        return None if shape is None else math.prod(shape)

    def bytes(self, name: str) -> int | None:
        """Bytes of a tensor, or None where its shape is not known."""
        elements = self.elements(name)
        return None if elements is None else math.ceil(elements * item_bytes(self.types.get(name)))


def item_bytes(kind: int | None) -> float:
    """Bytes of one element of a ``TensorProto.DataType``; 4 where it is not known."""
    import onnx
    from onnx import TensorProto

    half_bytes = {TensorProto.INT4, TensorProto.UINT4}
    if kind in half_bytes:
        return 0.5
    if not kind or kind == TensorProto.STRING:
        return 4.0
    return float(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize)


def check_structure(proto: onnx.ModelProto) -> None:
    """Refuse a graph whose nodes lack what their operators are defined to have.

    Operators that onnx does not know (onnxruntime's, a vendor's) are taken as they are.

    Raises:
        BuildError: Names the node.
    """
    import onnx

    versions = {o.domain or "": o.version for o in proto.opset_import}
    for graph in graphs_of(proto.graph):
        for node in graph.node:
            domain = "" if node.domain == "ai.onnx" else node.domain
            version = versions.get(domain, 1)
            if not onnx.defs.has(node.op_type, version, domain):
                continue
            schema = onnx.defs.get_schema(node.op_type, version, domain)
            given = {a.name for a in node.attribute}
            missing = [n for n, a in schema.attributes.items() if a.required and n not in given]
            inputs = list(node.input)[: schema.min_input]
            if (
                missing
                or len(inputs) < schema.min_input
                or not all(inputs)
                or len(node.output) < schema.min_output
            ):
                raise BuildError(
                    f"not a valid ONNX graph: {node.op_type} "
                    f"{node.name or '(unnamed)'} lacks {missing[0] if missing else 'an input'}",
                    hint="export the model again",
                )


def infer_tensors(proto: onnx.ModelProto, dims: Mapping[str, int] | None = None) -> Tensors:
    """Infer shapes after giving every dynamic dimension of the inputs a size.

    Args:
        proto: The model; not changed.
        dims: Sizes by dimension name (``batch``) or by place (``input[1]`` for an unnamed one).
    """
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(proto)
    _stand_in(model.graph)
    dynamic, assumed = _fix_inputs(model.graph, dims or {})
    for value in [*model.graph.value_info, *model.graph.output]:
        _fix_value(value, dynamic)
    shapes: dict[str, Shape] = {}
    types: dict[str, int] = {}
    constants: set[str] = set()
    taken: dict[str, str] = {}
    opset = max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=1)
    for _ in range(MAX_ROUNDS):
        model = _infer(model)
        for graph in graphs_of(model.graph):
            _collect(graph, shapes, types, constants)
        if fold_shapes(model.graph, shapes, {}, opset=opset, taken=taken):
            continue
        # Only when arithmetic is at its end: a rule may guess at what folding would have known.
        filled = [_fill(graph, shapes, types) for graph in graphs_of(model.graph)]
        if not any(filled):
            break
    return Tensors(shapes, types, frozenset(constants), dynamic, frozenset(assumed), taken)


def _stand_in(graph: onnx.GraphProto) -> None:
    """Give onnxruntime's unary operators a name that onnx knows; this graph is never run.

    A detector has dozens of them in a row, and each would cost a round of inference.
    """
    for node in graph.node:
        if node.op_type in _UNARY and node.domain and len(node.input) == 1:
            node.op_type, node.domain = "Identity", ""
            del node.attribute[:]


def _infer(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnx

    # Propagating values may meet something it does not know; shapes alone may still come out. A
    # graph that onnx refuses altogether keeps its shapes unknown, which the facts report.
    for propagate in (True, False):
        try:
            return onnx.shape_inference.infer_shapes(model, data_prop=propagate)
        except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
            continue
    return model


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and, depth first, every subgraph of its nodes."""
    yield graph
    for node in graph.node:
        for _, subgraph in subgraphs_of(node):
            yield from graphs_of(subgraph)


def _fix_inputs(graph: onnx.GraphProto, dims: Mapping[str, int]) -> tuple[dict[str, int], set[str]]:
    initializers = {i.name for i in graph.initializer}
    dynamic: dict[str, int] = {}
    assumed: set[str] = set()
    for value in graph.input:
        if value.name in initializers or not value.type.HasField("tensor_type"):
            continue
        shape = value.type.tensor_type.shape.dim
        for axis, dim in enumerate(shape):
            if dim.HasField("dim_value") and dim.dim_value > 0:
                continue
            place, name = f"{value.name}[{axis}]", dim.dim_param
            key = place if name in _NAMELESS or name.startswith("unk__") else name
            size = dims.get(place, dims.get(key, dynamic.get(key)))
            if size is None:
                size = _assume(axis, len(shape))
                assumed.add(key)
            dynamic[key] = size
            dim.dim_value = size
    return dynamic, assumed


def _assume(axis: int, rank: int) -> int:
    if axis == 0:
        return ASSUMED_BATCH
    return ASSUMED_SIDE if rank == _PICTURE_RANK else ASSUMED_LENGTH


def _fix_value(value: onnx.ValueInfoProto, dynamic: Mapping[str, int]) -> None:
    tensor = value.type.tensor_type
    open_dims = False
    for dim in tensor.shape.dim:
        if dim.HasField("dim_value") and dim.dim_value > 0:
            continue
        if dim.dim_param in dynamic:
            dim.dim_value = dynamic[dim.dim_param]
        else:
            open_dims = True
    if open_dims:
        # What the file says of it is symbolic; inference must be free to find numbers.
        tensor.ClearField("shape")


def _collect(
    graph: onnx.GraphProto, shapes: dict[str, Shape], types: dict[str, int], constants: set[str]
) -> None:
    for value in [*graph.input, *graph.value_info, *graph.output]:
        tensor = value.type.tensor_type
        types.setdefault(value.name, tensor.elem_type)
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            shapes[value.name] = tuple(d.dim_value for d in tensor.shape.dim)
    for tensor in graph.initializer:
        shapes[tensor.name] = tuple(tensor.dims)
        types[tensor.name] = tensor.data_type
        constants.add(tensor.name)
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            constants.add(node.output[0])
            for attribute in node.attribute:
                if attribute.name == "value":
                    shapes[node.output[0]] = tuple(attribute.t.dims)
                    types[node.output[0]] = attribute.t.data_type


def _fill(graph: onnx.GraphProto, shapes: dict[str, Shape], types: dict[str, int]) -> bool:
    """Give outputs that onnx could not infer a shape, where it is certain; tell if any got one."""
    import onnx

    found: dict[str, Shape] = {}
    for node in graph.node:
        if node.output and node.output[0] not in shapes:
            found |= _by_rule(node, shapes, types)
    for name, shape in found.items():
        shapes[name] = shape
        info = onnx.helper.make_tensor_value_info(name, types.get(name) or 1, shape)
        graph.value_info.append(info)
    return bool(found)


def _by_rule(
    node: onnx.NodeProto, shapes: dict[str, Shape], types: dict[str, int]
) -> dict[str, Shape]:
    known = [shapes[i] for i in node.input if i in shapes]
    if node.op_type in _ELEMENTWISE and known:
        if not types.get(node.output[0]):
            types[node.output[0]] = types.get(node.input[0], 0)
        return {node.output[0]: max(known, key=lambda s: (math.prod(s), len(s)))}
    if node.op_type == "If":
        # Branches of different shapes: the first that is known stands for the output.
        found: dict[str, Shape] = {}
        for _, branch in subgraphs_of(node):
            for outer, inner in zip(node.output, branch.output, strict=False):
                if inner.name in shapes and outer not in shapes:
                    found.setdefault(outer, shapes[inner.name])
        return found
    if node.op_type == "DynamicQuantizeLSTM":
        x, w = (shapes.get(name, ()) for name in (*node.input, "", "")[:2])
        if len(x) != len(w) or len(x) != 3:  # noqa: PLR2004 - length, batch, width
            return {}
        length, batch, directions = x[0], x[1], w[0]
        hidden = next((a.i for a in node.attribute if a.name == "hidden_size"), 0)
        kinds = ((length, directions, batch, hidden), *[(directions, batch, hidden)] * 2)
        return {name: shape for name, shape in zip(node.output, kinds, strict=False) if name}
    return {}
