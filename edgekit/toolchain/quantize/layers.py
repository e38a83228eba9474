"""The layers of a graph that a quantization plan decides on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.toolchain.quantize.weights import stored_weights

if TYPE_CHECKING:
    import onnx

LAYER_OPS = ("Conv", "MatMul", "Gemm")
# Operators that only rescale or clip a layer's result: the layer's range is the range behind them.
_FOLLOWERS = ("Relu", "Clip")


@dataclass(frozen=True)
class Layer:
    """A node with constant weights.

    Attributes:
        name: The node's name, unique in its graph.
        op: Operator type.
        activation: Name of its data input.
        weight: Name of its float32 weight: an initializer, or one that is stored in 8 bits.
        output: Name of its result, behind a Relu or Clip that follows at once.
        parameters: Number of weights.
    """

    name: str
    op: str
    activation: str
    weight: str
    output: str
    parameters: int


def find_layers(proto: onnx.ModelProto, ops: tuple[str, ...] = LAYER_OPS) -> list[Layer]:
    """List the layers of a graph, in the graph's order.

    Args:
        proto: A canonical graph: named nodes, weights as initializers.
        ops: Operator types that count.
    """
    import numpy as np

    weights = {i.name: int(np.prod(i.dims)) for i in proto.graph.initializer if i.data_type == 1}
    weights.update(stored_weights(proto.graph))
    uses = Counter(name for node in proto.graph.node for name in node.input)
    uses.update(output.name for output in proto.graph.output)
    consumer = {name: node for node in proto.graph.node for name in node.input}
    layers = []
    for node in proto.graph.node:
        if node.op_type not in ops or len(node.input) < 2 or node.input[1] not in weights:  # noqa: PLR2004
            continue
        output = node.output[0]
        follower = consumer.get(output)
        if follower is not None and follower.op_type in _FOLLOWERS and uses[output] == 1:
            output = follower.output[0]
        layers.append(
            Layer(
                node.name,
                node.op_type,
                node.input[0],
                node.input[1],
                output,
                weights[node.input[1]],
            )
        )
    return layers
