"""Which nodes between int8 layers run on integers, too, so that nothing goes through float32.

A value that leaves one int8 layer for another is dequantized, changed and quantized again where a
float32 node stands between: three passes over memory. onnxruntime adds, multiplies, joins, pools
and moves 8-bit values as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from edgekit.toolchain.passes import _edit
from edgekit.toolchain.quantize.calibrate import Gate

if TYPE_CHECKING:
    import onnx

# They give the very steps that they are given: the output has the input's scale.
MOVES = frozenset(
    {"DepthToSpace", "Flatten", "MaxPool", "Reshape", "Resize", "Slice", "Split", "Squeeze"}
    | {"Transpose", "Unsqueeze"}
)
# Where the output of an integer node passes through one of these alone, it is part of its range.
FOLLOWERS = ("Relu", "Clip")
_SEVERAL = ("Add", "Concat", "Mul")


def data_inputs(node: onnx.NodeProto) -> list[str]:
    """Return the inputs of a node that are values, not shapes, axes or bounds."""
    count = len(node.input) if node.op_type in _SEVERAL else 1
    return [name for name in node.input[:count] if name]


def followers(proto: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Return the Relu or Clip that is the only reader of a tensor, by that tensor's name."""
    uses = _edit.uses(proto.graph)
    return {
        node.input[0]: node
        for node in proto.graph.node
        if node.op_type in FOLLOWERS and uses[node.input[0]] == 1
    }


def integer_between(
    proto: onnx.ModelProto, layers: Collection[str], ops: Collection[str]
) -> frozenset[str]:
    """Return the names of the nodes between int8 layers that can run on integers.

    A node does when all its values come from integer nodes, and when some int8 layer is behind it:
    the tail behind the last layers, where boxes meet scores, stays float32.

    Args:
        proto: A canonical graph: named nodes, in topological order.
        layers: Names of the layers that become int8.
        ops: Operators that the target's runtime has for integers.
    """
    absorbed = {node.name for node in followers(proto).values()}
    scalars = {name for name, value in _edit.initializers(proto.graph).items() if _is_scalar(value)}
    integer: set[str] = set()  # tensors that an integer node makes
    grown: set[str] = set()
    readers = _edit.consumers(proto.graph)
    for node in proto.graph.node:
        fixed = scalars if node.op_type in ("Add", "Mul") else ()
        data = [name for name in data_inputs(node) if name not in fixed]
        comes_integer = bool(data) and all(name in integer for name in data)
        light = (
            comes_integer and node.op_type in ops and _is_exact(node) and not _seen(node, readers)
        )
        if node.name in layers or light or (comes_integer and node.name in absorbed):
            integer.update(name for name in node.output if name)
        if light:
            grown.add(node.name)
    leads = set(layers)
    for node in reversed(proto.graph.node):
        behind = [reader.name for name in node.output for reader in readers.get(name, [])]
        if (node.name in grown or node.name in absorbed) and leads.intersection(behind):
            leads.add(node.name)
    return frozenset(grown & leads)


def _is_scalar(value: onnx.TensorProto) -> bool:
    """Tell whether a constant is one float32 number other than 0, which 8 bits hold exactly."""
    import math

    import onnx

    # One of higher rank than the tensor it meets raises that one's rank.
    if value.data_type != onnx.TensorProto.FLOAT or list(value.dims) not in ([], [1]):
        return False
    number = float(onnx.numpy_helper.to_array(value).reshape(-1)[0])
    return math.isfinite(number) and number != 0


def _seen(node: onnx.NodeProto, readers: Mapping[str, Sequence[onnx.NodeProto]]) -> bool:
    """Tell whether a subgraph reads a result: it would see what is not rounded to steps yet."""
    return any(name not in r.input for name in node.output for r in readers.get(name, ()))


def _is_exact(node: onnx.NodeProto) -> bool:
    """Tell whether a move gives the steps that it is given: interpolation makes new ones."""
    if node.op_type == "MaxPool" and len([name for name in node.output if name]) > 1:
        return False  # indices are no steps
    if node.op_type != "Resize":
        return True
    return bool(_edit.attribute(node, "mode", b"nearest") == b"nearest")


def gates(proto: onnx.ModelProto) -> dict[str, Gate]:
    """Return the tensors that one gate alone reads, by name: x of x * Sigmoid(x), and the like."""
    readers = _edit.consumers(proto.graph)
    outputs = {output.name for output in proto.graph.output}
    kinds = {
        "Sigmoid": (Gate.SIGMOID, Gate.SILU),
        "HardSigmoid": (Gate.HARD_SIGMOID, Gate.HARD_SWISH),
    }
    found: dict[str, Gate] = {}
    for name, nodes in readers.items():
        gate = next((n for n in nodes if n.op_type in kinds), None)
        if gate is None or name in outputs or not _is_usual(gate):
            continue
        alone, product = kinds[gate.op_type]
        others = [n for n in nodes if n is not gate]
        if not others:
            found[name] = alone
        elif [n.op_type for n in others] == ["Mul"] and set(others[0].input) == {
            name,
            gate.output[0],
        }:
            found[name] = product
    return found


def _is_usual(gate: onnx.NodeProto) -> bool:
    """Tell whether a gate is where the choice of ranges takes it to be."""
    if gate.op_type == "Sigmoid":
        return True
    alpha = float(_edit.attribute(gate, "alpha", 0.2))
    beta = float(_edit.attribute(gate, "beta", 0.5))
    return 1 / 6 - 1e-3 <= alpha <= 0.2 + 1e-3 and abs(beta - 0.5) < 1e-3  # noqa: PLR2004
