"""What a runtime makes of a graph's nodes: which run as int8, which in float, which vanish.

The rules are onnxruntime's CPU graph optimizations at level ALL, as far as they decide arithmetic:

* A node computed from constants alone is folded.
* ``DequantizeLinear → op → QuantizeLinear`` becomes one integer operator when everything that flows
  in comes from a DequantizeLinear and everything that flows out goes to a QuantizeLinear. A matrix
  product may also leave as float. An op with one float side runs in float, and the quantize and
  dequantize nodes around it stay and cost memory traffic.
* Relu and Clip in front of a QuantizeLinear are part of its range; activations after a float
  convolution or Gemm are computed in its output loop; batch normalisation is folded into weights.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from edgekit.toolchain.fold import subgraphs_of
from edgekit.toolchain.macs import INTEGER, WEIGHTED, count_macs
from edgekit.toolchain.shapes import Tensors

if TYPE_CHECKING:
    import onnx


class Place(StrEnum):
    """How a node runs."""

    INT8 = "int8"
    FLOAT = "float"
    FREE = "free"  # folded into constants or into a neighbour


# Operators that onnxruntime runs on 8-bit integers when QDQ nodes surround them.
_QDQ_BOTH_SIDES = {
    "Add",
    "AveragePool",
    "Clip",
    "Concat",
    "Conv",
    "Flatten",
    "Gather",
    "GlobalAveragePool",
    "LeakyRelu",
    "MaxPool",
    "Mul",
    "Pad",
    "Relu",
    "Reshape",
    "Resize",
    "Sigmoid",
    "Slice",
    "Softmax",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
    "Where",
}
_QDQ_FLOAT_OUT = {"MatMul", "Gemm"}
_INT8_ALWAYS = INTEGER | {"QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearSigmoid"}
_ACTIVATIONS = {"Relu", "Clip", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid"}
_VIEWS = {"Identity", "Dropout"}


@dataclass(frozen=True)
class Flat:
    """A graph without nesting: each If as the branch it takes, each Loop as one pass of its body.

    Attributes:
        nodes: In order of execution, each with a name for people.
        producers: Tensor to the index of the node that makes it.
        consumers: Tensor to the indices of the nodes that read it.
        escaping: Tensors that leave a graph or subgraph.
        constants: Tensors that are known before the first run.
        ranks: Number of dimensions of the tensors whose shape is known.
    """

    nodes: Sequence[tuple[str, onnx.NodeProto]]
    producers: dict[str, int]
    consumers: dict[str, list[int]]
    escaping: frozenset[str]
    constants: frozenset[str]
    ranks: Mapping[str, int]


def flatten(graph: onnx.GraphProto, tensors: Tensors) -> Flat:
    """Lay a graph and the subgraphs that run out in one row."""
    nodes: list[tuple[str, onnx.NodeProto]] = []
    escaping: set[str] = set()
    _walk(graph, tensors, "", nodes, escaping)
    constants = set(tensors.constants)
    producers: dict[str, int] = {}
    consumers: dict[str, list[int]] = defaultdict(list)
    for index, (_, node) in enumerate(nodes):
        inputs = [i for i in node.input if i]
        shape_known = (
            node.op_type == "Shape" and not tensors.dynamic and inputs[0] in tensors.shapes
        )
        pure = not node.op_type.startswith("Random") and not subgraphs_of(node)
        if shape_known or (pure and inputs and all(i in constants for i in inputs)):
            constants.update(node.output)
        producers.update((o, index) for o in node.output if o)
        for name in inputs:
            consumers[name].append(index)
    ranks = {name: len(shape) for name, shape in tensors.shapes.items()}
    return Flat(nodes, producers, consumers, frozenset(escaping), frozenset(constants), ranks)


def _walk(
    graph: onnx.GraphProto,
    tensors: Tensors,
    path: str,
    nodes: list[tuple[str, onnx.NodeProto]],
    escaping: set[str],
) -> None:
    escaping.update(o.name for o in graph.output)
    for index, node in enumerate(graph.node):
        name = f"{path}{node.name or f'{node.op_type}_{index}'}"
        branches = subgraphs_of(node)
        if node.op_type == "If" and branches:
            taken = tensors.taken.get(node.output[0])
            heaviest = max(branches, key=lambda b: _weight(b[1], tensors))
            branches = [next((b for b in branches if b[0] == taken), heaviest)]
        for branch, subgraph in branches:
            _walk(subgraph, tensors, f"{name}/{branch}/", nodes, escaping)
        nodes.append((name, node))


def _weight(graph: onnx.GraphProto, tensors: Tensors) -> int:
    own = sum(count_macs(node, tensors) or 0 for node in graph.node)
    return own + sum(_weight(g, tensors) for node in graph.node for _, g in subgraphs_of(node))


def place(flat: Flat) -> list[Place]:
    """Decide how every node of a flat graph runs, in its order."""
    placer = _Placer(flat)
    return placer.run()


class _Placer:
    def __init__(self, flat: Flat) -> None:
        self.flat = flat
        self.places = [Place.FLOAT] * len(flat.nodes)

    def run(self) -> list[Place]:
        for index, (_, node) in enumerate(self.flat.nodes):
            if node.op_type == "Constant" or (
                node.output and all(o in self.flat.constants for o in node.output if o)
            ):
                self.places[index] = Place.FREE
            elif node.op_type in _INT8_ALWAYS or self._is_qdq_group(node):
                self.places[index] = Place.INT8
        for index, (_, node) in enumerate(self.flat.nodes):
            if self.places[index] is Place.FLOAT and self._vanishes(node):
                self.places[index] = Place.FREE
        return self.places

    def _producer(self, name: str) -> onnx.NodeProto | None:
        index = self.flat.producers.get(name)
        return None if index is None else self.flat.nodes[index][1]

    def _consumers(self, name: str) -> Iterable[onnx.NodeProto]:
        return [self.flat.nodes[i][1] for i in self.flat.consumers.get(name, ())]

    def _ends_quantized(self, name: str) -> bool:
        """Follow a tensor through one activation to QuantizeLinear nodes alone."""
        consumers = list(self._consumers(name))
        if not consumers or name in self.flat.escaping:
            return False
        if len(consumers) == 1 and consumers[0].op_type in ("Relu", "Clip"):
            name = consumers[0].output[0]
            consumers = list(self._consumers(name))
            if not consumers or name in self.flat.escaping:
                return False
        return all(c.op_type == "QuantizeLinear" for c in consumers)

    def _is_qdq_group(self, node: onnx.NodeProto) -> bool:
        if node.op_type not in _QDQ_BOTH_SIDES | _QDQ_FLOAT_OUT:
            return False
        weighted = node.op_type in WEIGHTED
        # Shapes, axes, indices and biases stay what they are.
        data = [i for i in node.input[: 2 if weighted else None] if i]
        data = [i for i in data if weighted or i not in self.flat.constants or self._dequantized(i)]
        if not data or not all(self._dequantized(i) for i in data):
            return False
        if node.op_type in _QDQ_FLOAT_OUT:
            return True
        return all(self._ends_quantized(o) for o in node.output if o)

    def _dequantized(self, name: str) -> bool:
        producer = self._producer(name)
        return producer is not None and producer.op_type == "DequantizeLinear"

    def _vanishes(self, node: onnx.NodeProto) -> bool:
        op = node.op_type
        if op in _VIEWS:
            return True
        if op == "DequantizeLinear":
            readers = self.flat.consumers.get(node.output[0], [])
            return bool(readers) and all(self.places[i] is Place.INT8 for i in readers)
        source = self.flat.producers.get(node.input[0]) if node.input else None
        if op == "QuantizeLinear":
            if source is not None and self.flat.nodes[source][1].op_type in ("Relu", "Clip"):
                inner = next(iter(self.flat.nodes[source][1].input), "")
                if self.places[source] is not Place.INT8:
                    source = self.flat.producers.get(inner)
            return source is not None and self.places[source] is Place.INT8
        return self._gates_itself(node) or self._joins_producer(node)

    def _joins_producer(self, node: onnx.NodeProto) -> bool:
        """Tell whether a node is computed in its producer's output loop."""
        data = [i for i in node.input if i and i not in self.flat.constants]
        if len(data) != 1:
            return False
        source = self.flat.producers.get(data[0])
        if source is None or len(self.flat.consumers[data[0]]) != 1:
            return False
        maker = self.flat.nodes[source][1].op_type
        if self.places[source] is Place.FREE and maker == "BatchNormalization":
            maker = "Conv"
        if self.places[source] is Place.INT8:
            # The scaling back to float after an integer product is one fused operator.
            scaling = maker in ("MatMulInteger", "Cast", "Mul") and node.op_type in ("Cast", "Mul")
            return scaling or (node.op_type in ("Relu", "Clip") and self._ends_quantized(data[0]))
        joins: bool = node.op_type == "BatchNormalization" and maker in ("Conv", "ConvTranspose")
        joins |= node.op_type in _ACTIVATIONS and maker in ("Conv", "Gemm", "FusedConv")
        # A constant bias or scale of the output's own rank; a flat one stays a node.
        rank = self.flat.ranks.get(node.output[0], 0)
        flat_matrix = maker == "MatMul" and rank == 2  # noqa: PLR2004
        fixed = max((self.flat.ranks.get(i, 0) for i in node.input if i not in data), default=0)
        folds_in = maker == "Conv" and fixed == rank
        joins |= node.op_type == "Add" and (flat_matrix or folds_in)
        joins |= node.op_type == "Mul" and folds_in
        return joins

    def _gates_itself(self, node: onnx.NodeProto) -> bool:
        """Tell whether a Mul is the second half of x × sigmoid(x), which is one operator."""
        if node.op_type != "Mul" or len(node.input) != 2:  # noqa: PLR2004
            return False
        for gate, value in (tuple(node.input), tuple(reversed(node.input))):
            maker = self._producer(gate)
            if (
                maker is not None
                and maker.op_type == "Sigmoid"
                and maker.input[0] == value
                and len(self.flat.consumers[gate]) == 1
                # Every reader of a dequantized tensor gets a copy of its own: no pattern then.
                and not self._dequantized(value)
            ):
                return True
        return False
