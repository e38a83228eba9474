"""What passes share: look up, rename and replace inside an ONNX graph. No pass."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import onnx

STANDARD_DOMAINS = ("", "ai.onnx")
FLOAT = 1  # onnx.TensorProto.FLOAT
FLOAT_TYPES = (1, 10, 11, 16)  # float32, float16, float64, bfloat16
INTEGER_TYPES = (2, 3, 4, 5, 6, 7, 12, 13)
_INFERENCE_ROUNDS = 32
_SMALL_BYTES = 4096
_STRING = 8
_GRAPH_ATTRIBUTE = 5  # onnx.AttributeProto.GRAPH

# A dimension: a number, a name, or None where nothing is known of it.
Dim = int | str | None
Array = Any  # np.ndarray[Any, Any]; onnx ships no types, so neither do its arrays here


@dataclass(frozen=True)
class Types:
    """Inferred shapes and element types of a graph's values, by name."""

    shapes: Mapping[str, tuple[Dim, ...]]
    elements: Mapping[str, int]

    def static(self, name: str) -> tuple[int, ...] | None:
        """Return a shape in which every dimension is a number, or None."""
        shape = self.shapes.get(name)
        if shape is None:
            return None
        known = tuple(d for d in shape if isinstance(d, int))
        return known if len(known) == len(shape) else None

    def rank(self, name: str) -> int | None:
        """Return the number of dimensions, or None."""
        shape = self.shapes.get(name)
        return None if shape is None else len(shape)


def is_standard(node: onnx.NodeProto) -> bool:
    """Say whether a node is of the default operator set."""
    return node.domain in STANDARD_DOMAINS


def opset_of(proto: onnx.ModelProto) -> int:
    """Return the version of the default operator set; 0 without one."""
    return max((o.version for o in proto.opset_import if o.domain in STANDARD_DOMAINS), default=0)


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:  # noqa: ANN401
    """Return an attribute's value, or the default."""
    import onnx

    for entry in node.attribute:
        if entry.name == name:
            return onnx.helper.get_attribute_value(entry)
    return default


def drop_attribute(node: onnx.NodeProto, *names: str) -> None:
    """Remove attributes."""
    kept = [a for a in node.attribute if a.name not in names]
    del node.attribute[:]
    node.attribute.extend(kept)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs that a node holds (If, Loop, Scan)."""
    for entry in node.attribute:
        if entry.type == _GRAPH_ATTRIBUTE:
            yield entry.g
        yield from entry.graphs


def all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and every graph inside it."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from all_graphs(inner)


def defined(graph: onnx.GraphProto) -> set[str]:
    """Return the names that a graph itself defines."""
    names = {i.name for i in graph.input} | {i.name for i in graph.initializer}
    names.update(i.values.name for i in graph.sparse_initializer)
    names.update(o for node in graph.node for o in node.output if o)
    return names


def all_names(graph: onnx.GraphProto) -> set[str]:
    """Return every value name in a graph and in the graphs inside it."""
    names: set[str] = set()
    for inner in all_graphs(graph):
        names |= defined(inner)
        names.update(i for node in inner.node for i in node.input if i)
        names.update(o.name for o in inner.output)
    return names


def captured(node: onnx.NodeProto) -> list[str]:
    """Return the outer values that a node's subgraphs read, with repetition."""
    found: list[str] = []
    for graph in subgraphs(node):
        own = defined(graph)
        for inner in graph.node:
            found += [n for n in [*inner.input, *captured(inner)] if n and n not in own]
        found += [o.name for o in graph.output if o.name not in own]
    return found


def reads(node: onnx.NodeProto) -> list[str]:
    """Return every value that a node reads, its subgraphs' captures too."""
    return [name for name in node.input if name] + captured(node)


def initializers(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Return the constants by name; one that a caller may override is not constant."""
    inputs = {i.name for i in graph.input}
    return {i.name: i for i in graph.initializer if i.name not in inputs}


def uses(graph: onnx.GraphProto) -> Counter[str]:
    """Count the readers of each value; being a graph output counts as one."""
    counts: Counter[str] = Counter(name for node in graph.node for name in reads(node))
    counts.update(output.name for output in graph.output)
    return counts


def consumers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """Return the nodes that read each value, in the graph's order."""
    found: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in dict.fromkeys(reads(node)):
            found[name].append(node)
    return found


def producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """Return the node that makes each value."""
    return {output: node for node in graph.node for output in node.output if output}


def rename_reads(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Let every reader of a value read another one; follows captures, respects shadowing."""
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in names:
                node.input[index] = names[name]
        for inner in subgraphs(node):
            own = defined(inner)
            outer = {old: new for old, new in names.items() if old not in own}
            if outer:
                rename_reads(inner, outer)
                for output in inner.output:
                    output.name = outer.get(output.name, output.name)


def set_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Replace a graph's nodes."""
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)


def unique(name: str, taken: set[str]) -> str:
    """Return a name that is free, and take it."""
    candidate, count = name, 1
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    taken.add(candidate)
    return candidate


def to_array(tensor: onnx.TensorProto) -> Array:
    """Return a constant's values."""
    import onnx

    return onnx.numpy_helper.to_array(tensor)


def nbytes(tensor: onnx.TensorProto) -> int:
    """Return the size of a constant's values; asking protobuf would serialise it."""
    import math

    import onnx

    if tensor.data_type == _STRING:
        return sum(len(s) for s in tensor.string_data)
    item = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(math.prod(tensor.dims) * item)


def add_constant(graph: onnx.GraphProto, name: str, values: np.ndarray[Any, Any]) -> None:
    """Add an initializer under a free name."""
    import numpy as np
    import onnx

    graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))
    if values.ndim == 0:  # ascontiguousarray makes one dimension of none
        del graph.initializer[-1].dims[:]


def _informed(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy without large weights that carries what shape inference finds.

    onnx gives up behind a Reshape to a computed shape. The length of that shape is known more often
    than its values, and it is the result's rank: with that put in, inference goes on.
    """
    import onnx

    known = without_weights(proto)
    for _ in range(_INFERENCE_ROUNDS):
        try:
            known = onnx.shape_inference.infer_shapes(known, data_prop=True)
        except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
            break
        if not _state_ranks(known.graph):
            break
    return known


def without_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model, its large constants as inputs: inference reads the small ones' values only."""
    import onnx

    light = onnx.ModelProto(ir_version=proto.ir_version)
    light.opset_import.extend(proto.opset_import)
    light.functions.extend(proto.functions)
    light.graph.name = "main"
    light.graph.node.extend(proto.graph.node)
    for field in ("input", "output", "value_info", "sparse_initializer"):
        getattr(light.graph, field).extend(getattr(proto.graph, field))
    inputs = {i.name for i in proto.graph.input}
    for tensor in proto.graph.initializer:
        if nbytes(tensor) <= _SMALL_BYTES:
            light.graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            light.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return light


def with_shapes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy that states every shape that inference finds."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.value_info[:]
    copy.graph.value_info.extend(_informed(proto).graph.value_info)
    return copy


def _state_ranks(graph: onnx.GraphProto) -> bool:
    import onnx

    shapes = {
        v.name: v.type.tensor_type.shape.dim
        for v in [*graph.value_info, *graph.input, *graph.output]
        if v.type.tensor_type.HasField("shape")
    }
    lengths = {t.name: list(t.dims) for t in graph.initializer}
    stated = {v.name: v for v in graph.value_info}
    found = False
    for node in graph.node:
        if node.op_type not in ("Reshape", "ConstantOfShape") or node.output[0] in shapes:
            continue
        shape = node.input[-1]
        dims = lengths.get(shape, [d.dim_value for d in shapes.get(shape, [])])
        value = stated.get(node.output[0])
        if len(dims) != 1 or dims[0] <= 0 or value is None:
            continue
        info = onnx.helper.make_tensor_value_info(
            value.name, value.type.tensor_type.elem_type, [None] * dims[0]
        )
        value.CopyFrom(info)
        found = True
    return found


def infer(proto: onnx.ModelProto) -> Types:
    """Infer shapes and types of the main graph's values."""
    known = _informed(proto)
    shapes: dict[str, tuple[Dim, ...]] = {}
    elements: dict[str, int] = {}
    for value in [*known.graph.value_info, *known.graph.input, *known.graph.output]:
        kind = value.type.tensor_type
        if not value.type.HasField("tensor_type"):
            continue
        elements[value.name] = kind.elem_type
        if kind.HasField("shape"):
            shapes[value.name] = tuple(_dim(d) for d in kind.shape.dim)
    for tensor in proto.graph.initializer:
        shapes[tensor.name] = tuple(tensor.dims)
        elements[tensor.name] = tensor.data_type
    return Types(shapes, elements)


def _dim(dim: Any) -> Dim:  # noqa: ANN401
    if dim.HasField("dim_value") and dim.dim_value >= 0:
        return int(dim.dim_value)
    return str(dim.dim_param) if dim.HasField("dim_param") and dim.dim_param else None
