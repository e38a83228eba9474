"""Turn Constant nodes into initializers, which is where quantizers look for weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.toolchain.passes import _edit

if TYPE_CHECKING:
    import onnx

    from edgekit.toolchain.passes import CanonicalOptions

# Before it, every initializer had to be listed among the inputs.
_MIN_IR = 4


def apply(proto: onnx.ModelProto, options: CanonicalOptions) -> str | None:  # noqa: ARG001
    """Move Constant nodes, in every graph, into that graph's initializers."""
    proto.ir_version = max(proto.ir_version, _MIN_IR)
    count = _free_inputs(proto.graph)
    notes = [f"{count} constants no longer inputs"] if count else []
    moved = sum(_move(graph) for graph in _edit.all_graphs(proto.graph))
    if moved:
        notes.append(f"{moved} Constant nodes made initializers")
    return "; ".join(notes) or None


def _free_inputs(graph: onnx.GraphProto) -> int:
    """Drop inputs that have a default: old exporters list every weight there."""
    weights = {i.name for i in graph.initializer}
    listed = [i for i in graph.input if i.name in weights]
    for value in listed:
        graph.input.remove(value)
    return len(listed)


def _move(graph: onnx.GraphProto) -> int:
    outputs = {o.name for o in graph.output}
    kept, moved = [], 0
    for node in graph.node:
        tensor = _value_of(node) if node.op_type == "Constant" and _edit.is_standard(node) else None
        # An output stays a node's: some runtimes refuse an initializer as the result.
        if tensor is None or node.output[0] in outputs:
            kept.append(node)
            continue
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        moved += 1
    if moved:
        _edit.set_nodes(graph, kept)
    return moved


def _value_of(node: onnx.NodeProto) -> onnx.TensorProto | None:
    import numpy as np
    import onnx

    if len(node.attribute) != 1:
        return None
    name, value = node.attribute[0].name, onnx.helper.get_attribute_value(node.attribute[0])
    if name == "value":
        tensor = onnx.TensorProto()
        tensor.CopyFrom(value)
        return tensor
    dtypes = {"value_float": "f4", "value_floats": "f4", "value_int": "i8", "value_ints": "i8"}
    if name in dtypes:
        return onnx.numpy_helper.from_array(np.array(value, dtype=dtypes[name]))
    return None  # strings and sparse tensors are no weights
