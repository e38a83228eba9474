"""Replace one-hot → matrix → element-wise chain by a table that is looked up.

A one-hot vector has as many values as it has classes, so whatever follows it row by row has too: it
is computed beforehand for each index and gathered. The rows are those that ONNX Runtime computes
from the chain itself, so the result is the same to the last bits. Indices outside of the one-hot's
range get the rows that the chain gives them: the table has one more at each end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgekit.runtime.session import open_session, runner
from edgekit.toolchain.graph import serialize
from edgekit.toolchain.passes import _edit

if TYPE_CHECKING:
    import onnx

    from edgekit.toolchain.passes import CanonicalOptions

MAX_CLASSES = 1 << 16
MAX_TABLE_BYTES = 16 * 1024 * 1024
# The table may be this much larger than the weights that it replaces.
SLACK_BYTES = 64 * 1024
# Clip takes integers since 12, Squeeze takes its axes as an input since 13.
_MIN_OPSET = 13
# Dimensions of a matrix.
_TABLE = 2
_INT64 = 7
_INT32 = 6

_UNARY = frozenset(
    {
        *("Abs", "Ceil", "Celu", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid"),
        *("HardSwish", "LeakyRelu", "Log", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu"),
        *("Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Tanh", "ThresholdedRelu"),
        *("Cast", "Identity"),
    }
)
_BROADCAST = frozenset(["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Clip", "PRelu", "Where"])
# Normalisations within a row, when their axis is the last.
_ROW = {"Softmax": -1, "LogSoftmax": -1, "LayerNormalization": -1}


@dataclass
class _Chain:
    """The nodes between an index and what is computed from it row by row.

    Attributes:
        anchor: The node that makes the one-hot vector.
        index: Name of the integer indices.
        squeeze: True where the indices have a last dimension of 1 that the vector takes.
        low: Lowest index that is one of the classes.
        high: Highest one.
        rank: Rank of the one-hot tensor.
        nodes: The anchor and what follows it.
        values: Results of these nodes.
    """

    anchor: onnx.NodeProto
    index: str
    squeeze: bool
    low: int
    high: int
    rank: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    values: set[str] = field(default_factory=set)


def apply(proto: onnx.ModelProto, options: CanonicalOptions) -> str | None:  # noqa: ARG001
    """Fold each chain that starts at a OneHot, or at an Equal that spells one."""
    if _edit.opset_of(proto) < _MIN_OPSET:
        return None
    graph = proto.graph
    types = _edit.infer(proto)
    constants = _edit.initializers(graph)
    notes = []
    for node in list(graph.node):
        chain = _start(node, graph, types, constants)
        if chain is None:
            continue
        _grow(chain, graph, constants)
        note = _replace(proto, chain, types, constants)
        if note is not None:
            notes.append(note)
    return "; ".join(notes) or None


def _start(  # noqa: PLR0911 - one return a condition
    node: onnx.NodeProto,
    graph: onnx.GraphProto,
    types: _edit.Types,
    constants: Mapping[str, onnx.TensorProto],
) -> _Chain | None:
    """Recognise OneHot(index, depth), or index[…, 1] == [0, 1, …, n-1]."""
    if not _edit.is_standard(node):
        return None
    rank = types.rank(node.output[0]) if node.output else None
    if node.op_type == "OneHot" and all(i in constants for i in node.input[1:]):
        rank = rank or (types.rank(node.input[0]) or -1) + 1
        depth = int(_edit.to_array(constants[node.input[1]]).reshape(-1)[0])
        if _edit.attribute(node, "axis", -1) not in (-1, rank - 1) or not 0 < depth <= MAX_CLASSES:
            return None
        if rank < 1 or types.elements.get(node.input[0]) not in _edit.INTEGER_TYPES:
            return None
        return _Chain(node, node.input[0], False, -depth, depth - 1, rank)
    if node.op_type != "Equal" or rank is None or rank < 1:
        return None
    for index, classes in (tuple(node.input), tuple(node.input)[::-1]):
        tensor = constants.get(classes)
        if tensor is None or index in constants or tensor.data_type not in _edit.INTEGER_TYPES:
            continue
        values = _edit.to_array(tensor)
        shape = types.shapes.get(_narrow(index, graph, types), ())
        if values.ndim < 1 or values.size != values.shape[-1] or values.size < 2:  # noqa: PLR2004
            continue
        low, high = int(values.min()), int(values.max())
        if len(shape) == rank >= values.ndim and shape[-1] == 1 and high - low < MAX_CLASSES:
            return _Chain(node, _narrow(index, graph, types), True, low, high, rank)
    return None


def _narrow(index: str, graph: onnx.GraphProto, types: _edit.Types) -> str:
    """Look through an Expand that only repeats the last dimension: Equal does that by itself."""
    maker = _edit.producers(graph).get(index)
    if maker is None or maker.op_type != "Expand" or not _edit.is_standard(maker):
        return index
    before, after = types.static(maker.input[0]), types.static(index)
    if before and after and len(before) == len(after) and before[:-1] == after[:-1]:
        return str(maker.input[0])
    return index


def _grow(
    chain: _Chain,
    graph: onnx.GraphProto,
    constants: Mapping[str, onnx.TensorProto],
) -> None:
    """Take in every node that computes each row from that row alone."""
    chain.nodes, chain.values = [chain.anchor], {chain.anchor.output[0]}
    for node in graph.node:
        if node.output[0] in chain.values or not _edit.is_standard(node):
            continue
        if chain.values.isdisjoint(node.input) or any(node.output[1:]):
            continue
        if _is_row_wise(node, chain, constants):
            chain.nodes.append(node)
            chain.values.add(node.output[0])


def _is_row_wise(
    node: onnx.NodeProto,
    chain: _Chain,
    constants: Mapping[str, onnx.TensorProto],
) -> bool:
    others = [i for i in node.input if i and i not in chain.values]
    if not all(i in constants for i in others):
        return False
    kind = node.op_type
    if kind in _UNARY:
        return True
    if kind == "MatMul":
        return (
            len(others) == 1
            and others[0] == node.input[1]
            and len(constants[others[0]].dims) == _TABLE
        )
    if kind in _BROADCAST:
        return all(
            len(constants[i].dims) <= chain.rank and math.prod(constants[i].dims[:-1]) == 1
            for i in others
        )
    if kind in _ROW:
        axis = _edit.attribute(node, "axis", _ROW[kind])
        return node.input[0] in chain.values and axis in (-1, chain.rank - 1)
    return False


def _replace(
    proto: onnx.ModelProto,
    chain: _Chain,
    types: _edit.Types,
    constants: Mapping[str, onnx.TensorProto],
) -> str | None:
    """Put a Gather where the chain was, if it has one result and the table is worth it."""
    graph = proto.graph
    if not any(node.op_type == "MatMul" for node in chain.nodes):
        return None  # nothing is gained by looking up what is nearly free to compute
    chosen = {n.output[0] for n in chain.nodes}
    seen_outside = {i for n in graph.node if n.output[0] not in chosen for i in _edit.reads(n)}
    seen_outside |= {o.name for o in graph.output}
    results = [n.output[0] for n in chain.nodes if n.output[0] in seen_outside]
    if len(results) != 1:
        return None
    table = _table(proto, chain, results[0], types, constants)
    if table is None:
        return None
    weights = dict.fromkeys(i for n in chain.nodes for i in n.input if i in constants)
    replaced = sum(_edit.nbytes(constants[name]) for name in weights)
    if table.nbytes > min(replaced + SLACK_BYTES, MAX_TABLE_BYTES):
        return None
    _rewire(graph, chain, results[0], table, types.elements[chain.index])
    rows, columns = table.shape
    return f"{len(chain.nodes)} nodes from a one-hot on became a table of {rows}×{columns}"


def _table(
    proto: onnx.ModelProto,
    chain: _Chain,
    result: str,
    types: _edit.Types,
    constants: Mapping[str, onnx.TensorProto],
) -> Any:  # noqa: ANN401 - an array, or None
    """Run the chain on every index, one beyond each end included."""
    import numpy as np
    import onnx

    lead = chain.rank - 1  # dimensions before the classes
    element = types.elements.get(chain.index)
    if lead < 1 or element is None:
        return None
    dtype = onnx.helper.tensor_dtype_to_np_dtype(element)
    info = np.iinfo(dtype)
    # An index that its type cannot hold never comes: its row may be any.
    indices = np.arange(chain.low - 1, chain.high + 2).clip(info.min, info.max).astype(dtype)
    shape = [1] * (lead - 1) + [len(indices)] + ([1] if chain.squeeze else [])
    anchor = onnx.NodeProto()
    anchor.CopyFrom(chain.anchor)
    for position, name in enumerate(anchor.input):
        if name not in constants:
            anchor.input[position] = chain.index
    nodes = [anchor, *chain.nodes[1:]]
    read = dict.fromkeys(i for n in nodes for i in n.input if i in constants)
    graph = onnx.helper.make_graph(
        nodes,
        "table",
        [onnx.helper.make_tensor_value_info(chain.index, element, shape)],
        [onnx.helper.make_empty_tensor_value_info(result)],
        initializer=[constants[name] for name in read],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=proto.opset_import, ir_version=min(proto.ir_version, 10)
    )
    run = runner(open_session(serialize(model), level="ORT_DISABLE_ALL"))
    rows = run({chain.index: indices.reshape(shape)})[result]
    if rows.shape[:-1] != (*[1] * (lead - 1), len(indices)):
        return None
    return rows.reshape(len(indices), -1)


def _rewire(graph: onnx.GraphProto, chain: _Chain, result: str, table: Any, element: int) -> None:  # noqa: ANN401
    """Make the result by a Gather; what made it before is dead."""
    import numpy as np
    import onnx

    taken = _edit.all_names(graph)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(element if element == _INT32 else _INT64)
    nodes: list[onnx.NodeProto] = []
    value = chain.index

    def constant(name: str, values: Any) -> str:  # noqa: ANN401 - anything that becomes an array
        found = _edit.unique(f"{result}/{name}", taken)
        _edit.add_constant(graph, found, np.array(values))
        return found

    def then(kind: str, *others: str, **attributes: Any) -> None:  # noqa: ANN401
        nonlocal value
        output = _edit.unique(f"{result}/{kind.lower()}", taken)
        nodes.append(onnx.helper.make_node(kind, [value, *others], [output], **attributes))
        value = output

    if chain.squeeze:
        then("Squeeze", constant("axis", np.array([-1], dtype=np.int64)))
    if element not in (_INT32, _INT64):
        then("Cast", to=_INT64)
    first, last = chain.low - 1, chain.high + 1
    then("Clip", constant("first", dtype.type(first)), constant("last", dtype.type(last)))
    if first:
        then("Sub", constant("offset", dtype.type(first)))
    rows = constant("table", table)
    nodes.append(onnx.helper.make_node("Gather", [rows, value], [result], axis=0))
    _edit.set_nodes(
        graph,
        [m for n in graph.node for m in (nodes if result in n.output else [n])],
    )
