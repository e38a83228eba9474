"""Write clip(x + 3, 0, 6) / 6 as what it is, a HardSigmoid: one pass over memory instead of three.

Exporters of older operator sets spell hard-swish, x · clip(x + 3, 0, 6) / 6, as four nodes. On a
device these element-wise nodes cost more than the int8 convolutions between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.toolchain.passes import _edit

if TYPE_CHECKING:
    import onnx

    from edgekit.toolchain.passes import CanonicalOptions

_CLIP_INPUTS = 3
# Two spellings of one constant (1/6 as float32) differ by a rounding step.
_CLOSE = 1e-6


@dataclass(frozen=True)
class _Graph:
    """A graph's look-ups, made once."""

    constants: Mapping[str, onnx.TensorProto]
    makers: Mapping[str, onnx.NodeProto]
    readers: Mapping[str, list[onnx.NodeProto]]
    counts: Mapping[str, int]
    outputs: frozenset[str]

    def only_reader(self, value: str) -> onnx.NodeProto | None:
        """Return the one node that reads a value which nothing else sees."""
        if self.counts.get(value) != 1 or value in self.outputs:
            return None
        node = self.readers[value][0]
        return node if _edit.is_standard(node) and value in node.input else None

    def scalar(self, name: str) -> float | None:
        """Return a float constant of one element."""
        tensor = self.constants.get(name)
        if tensor is None or tensor.data_type not in _edit.FLOAT_TYPES:
            return None
        values = _edit.to_array(tensor)
        return float(values.reshape(-1)[0]) if values.size == 1 and values.ndim <= 1 else None


def apply(proto: onnx.ModelProto, options: CanonicalOptions) -> str | None:  # noqa: ARG001
    """Find each Clip from 0 to c between an added a and a division by c."""
    import onnx

    graph = proto.graph
    types = _edit.infer(proto)
    view = _Graph(
        _edit.initializers(graph),
        _edit.producers(graph),
        _edit.consumers(graph),
        _edit.uses(graph),
        frozenset(o.name for o in graph.output),
    )
    taken = _edit.all_names(graph)
    place = {node.output[0]: index for index, node in enumerate(graph.node) if node.output}
    instead: dict[int, list[onnx.NodeProto]] = {}
    for node in graph.node:
        match = _match(node, view, types)
        if match is None:
            continue
        source, added, limit, times, last = match
        nodes = [place[node.input[0]], place[node.output[0]], place[last.output[0]]]
        gate = last.output[0] if times is None else _edit.unique(f"{node.output[0]}/gate", taken)
        made = [
            onnx.helper.make_node(
                "HardSigmoid", [source], [gate], alpha=1.0 / limit, beta=added / limit
            )
        ]
        if times is not None:
            product = view.readers[node.output[0]][0]
            nodes.append(place[product.output[0]])
            made.append(onnx.helper.make_node("Mul", [times, gate], [last.output[0]]))
        instead.update({index: [] for index in nodes})
        instead[place[last.output[0]]] = made
    if not instead:
        return None
    count = sum(bool(made) for made in instead.values())
    _edit.set_nodes(graph, [m for i, n in enumerate(graph.node) for m in instead.get(i, [n])])
    return f"{count} clipped ramps written as HardSigmoid"


_Match = tuple[str, float, float, str | None, "onnx.NodeProto"]


def _match(  # noqa: PLR0911 - one return a condition
    node: onnx.NodeProto, view: _Graph, types: _edit.Types
) -> _Match | None:
    """Return x, a, c, the factor between Clip and division (if any), and the division."""
    if node.op_type != "Clip" or not _edit.is_standard(node) or len(node.input) != _CLIP_INPUTS:
        return None
    low, limit = view.scalar(node.input[1]), view.scalar(node.input[2])
    adder = view.makers.get(node.input[0])
    if low != 0.0 or not limit or limit < 0 or adder is None or adder.op_type != "Add":
        return None
    if view.only_reader(node.input[0]) is None or not _edit.is_standard(adder):
        return None
    x, added = _split(adder, view)
    after = view.only_reader(node.output[0])
    if x is None or added is None or after is None or _widens(adder, x, types):
        return None
    if _divides(after, node.output[0], limit, view):
        return x, added, limit, None, after
    if after.op_type != "Mul":
        return None
    factor = after.input[1] if after.input[0] == node.output[0] else after.input[0]
    last = view.only_reader(after.output[0])
    if last is None or not _divides(last, after.output[0], limit, view):
        return None
    return x, added, limit, factor, last


def _split(adder: onnx.NodeProto, view: _Graph) -> tuple[str | None, float | None]:
    for data, constant in (tuple(adder.input), tuple(adder.input)[::-1]):
        value = view.scalar(constant)
        if value is not None and data not in view.constants:
            return data, value
    return None, None


def _widens(adder: onnx.NodeProto, x: str, types: _edit.Types) -> bool:
    """Say whether adding a constant [1] makes a vector of a scalar."""
    return types.rank(x) == 0 and types.rank(adder.output[0]) != 0


def _divides(node: onnx.NodeProto, value: str, limit: float, view: _Graph) -> bool:
    if node.op_type == "Div" and node.input[0] == value:
        divisor = view.scalar(node.input[1])
    elif node.op_type == "Mul":
        other = view.scalar(node.input[1] if node.input[0] == value else node.input[0])
        divisor = 1.0 / other if other else None
    else:
        return False
    return divisor is not None and abs(divisor / limit - 1.0) <= _CLOSE
