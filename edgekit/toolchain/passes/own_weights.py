"""Give each layer weights of its own where sharing them would clash in int8.

An int32 bias carries the scale of its layer's input, so two layers cannot share one. A weight has
one scale an output channel, and that axis depends on the operator. An LSTM's are stored in another
order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.toolchain.passes import _edit

if TYPE_CHECKING:
    import onnx

    from edgekit.toolchain.passes import CanonicalOptions

LAYERS = frozenset(["Conv", "ConvTranspose", "Gemm", "MatMul"])
_WEIGHT, _BIAS = 1, 2
_MATRICES = (1, 2)  # of an LSTM: for its input, and for its own state


def apply(proto: onnx.ModelProto, options: CanonicalOptions) -> str | None:  # noqa: ARG001
    """Copy a bias for each layer but the first, and a weight for each other kind of reader."""
    graph = proto.graph
    constants = _edit.initializers(graph)
    taken = _edit.all_names(graph)
    owners: dict[str, str] = {}
    copies: dict[tuple[str, str], str] = {}
    count = 0
    for node in graph.node:
        layer = node.op_type in LAYERS | {"LSTM"} and _edit.is_standard(node)
        for name in _edit.captured(node):
            owners.setdefault(name, "other")
        for index, name in enumerate(node.input):
            if name not in constants:
                continue
            user = _user(node, index, layer=layer)
            if owners.setdefault(name, user) == user:
                continue
            if (name, user) not in copies:
                copies[name, user] = _edit.unique(f"{name}/copy", taken)
                tensor = graph.initializer.add()
                tensor.CopyFrom(constants[name])
                tensor.name = copies[name, user]
                count += 1
            node.input[index] = copies[name, user]
    return f"{count} shared initializers given a copy of their own" if count else None


def _user(node: onnx.NodeProto, index: int, *, layer: bool) -> str:
    """Name the readers that may share one tensor with this one."""
    if not layer:
        return "other"
    if node.op_type == "LSTM":
        # The writer turns both of its matrices in place.
        return f"input {index} of {node.output}" if index in _MATRICES else "other"
    if index == _BIAS:
        return f"bias of {node.output[0]}"
    if index == _WEIGHT:
        # Gemm is normalised: its output channels lie where MatMul's do.
        return "columns" if node.op_type in ("Gemm", "MatMul") else f"weight of {node.op_type}"
    return "other"
