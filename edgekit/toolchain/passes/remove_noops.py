"""Remove nodes that return their input: Identity, Dropout, a Cast to the same type, x + 0."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.toolchain.passes import _edit

if TYPE_CHECKING:
    import onnx

    from edgekit.toolchain.passes import CanonicalOptions

# With one input these return it.
_VARIADIC = frozenset(["Concat", "Sum", "Max", "Min", "Mean"])
# With a constant of this value these return their other input.
_NEUTRAL = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0}
# These return their input when its shape is what they would give it.
_RESHAPING = frozenset(["Reshape", "Expand", "Flatten", "Squeeze", "Unsqueeze", "Tile"])


def apply(proto: onnx.ModelProto, options: CanonicalOptions) -> str | None:  # noqa: ARG001
    """Let the readers of each such node read what it reads."""
    graph = proto.graph
    types = _edit.infer(proto)
    constants = _edit.initializers(graph)
    counts = _edit.uses(graph)
    outputs = {o.name for o in graph.output}
    gone: set[int] = set()
    names: dict[str, str] = {}
    last: list[tuple[int, str]] = []
    for index, node in enumerate(graph.node):
        if not _edit.is_standard(node) or not node.output:
            continue
        source = _source(node, types, constants)
        if source is None or any(counts[o] for o in node.output[1:] if o):
            continue
        if node.output[0] in outputs:
            last.append((index, source))
        else:
            names[node.output[0]] = names.get(source, source)
            gone.add(index)
    _edit.rename_reads(graph, names)
    for index, source in last:
        if _give_name(graph, graph.node[index], names.get(source, source), outputs):
            gone.add(index)
    if not gone:
        return None
    _edit.set_nodes(graph, [n for i, n in enumerate(graph.node) if i not in gone])
    return f"{len(gone)} nodes without effect removed"


def _give_name(
    graph: onnx.GraphProto, node: onnx.NodeProto, source: str, outputs: set[str]
) -> bool:
    """Let what a node hands out take the output's name; False where that cannot be."""
    maker = _edit.producers(graph).get(source)
    if maker is None or source in outputs:
        return False  # an input or a constant handed out, or two outputs with one value
    result = node.output[0]
    node.output[0] = f"{result}/removed"  # for the moment: two nodes may not make one value
    for index, name in enumerate(maker.output):
        if name == source:
            maker.output[index] = result
    _edit.rename_reads(graph, {source: result})
    return True


def _source(  # noqa: PLR0911 - one return an operator
    node: onnx.NodeProto, types: _edit.Types, constants: dict[str, onnx.TensorProto]
) -> str | None:
    """Return the value that a node hands on unchanged, if it does."""
    kind, data = node.op_type, node.input[0] if node.input else ""
    if kind == "Identity":
        return data
    if kind == "Dropout":
        return data if _is_inference(node, constants) else None
    if kind in _VARIADIC:
        return data if len(node.input) == 1 else None
    if kind in _NEUTRAL:
        return _other_operand(node, types, constants)
    if kind == "Cast":
        element = types.elements.get(data)
        return data if element is not None and element == _edit.attribute(node, "to") else None
    if kind == "Transpose":
        order = _edit.attribute(node, "perm")
        return data if order is not None and list(order) == sorted(order) else None
    if kind == "Pad":
        pads = constants.get(node.input[1]) if len(node.input) > 1 else None
        return data if pads is not None and not _edit.to_array(pads).any() else None
    if kind in _RESHAPING:
        shape = types.static(data)
        return data if shape is not None and shape == types.static(node.output[0]) else None
    return None


def _is_inference(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    if len(node.input) < 3 or not node.input[2]:  # noqa: PLR2004 - data, ratio, training_mode
        return True
    mode = constants.get(node.input[2])
    return mode is not None and not _edit.to_array(mode).any()


def _other_operand(
    node: onnx.NodeProto, types: _edit.Types, constants: dict[str, onnx.TensorProto]
) -> str | None:
    first, second = node.input
    pairs = (
        [(first, second)] if node.op_type in ("Sub", "Div") else [(first, second), (second, first)]
    )
    for data, constant in pairs:
        rank = types.rank(data)
        if constant not in constants or data in constants or rank is None:
            continue
        dims = constants[constant].dims
        # A neutral constant may still broadcast: only one that cannot is without effect.
        if len(dims) > rank or any(d != 1 for d in dims):
            continue
        values = _edit.to_array(constants[constant])
        if bool((values == _NEUTRAL[node.op_type]).all()):
            return str(data)
    return None
