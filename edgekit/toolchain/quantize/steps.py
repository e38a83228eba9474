"""Choose the 8-bit steps of every tensor that passes through integers.

One scale an activation: channels' own scales were tried, between layers (cross-layer equalization,
Nagel et al., 2019, arXiv:1906.04721) and behind float32 nodes, and left out. Ranges of single
channels, seen on a few dozen samples, clip what other samples hold (EfficientNet-Lite0's agreement
fell from .97 to .79), and quantizing by channel is slow in the layout that integer kernels want.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.toolchain.graph import Graph
from edgekit.toolchain.passes import _edit
from edgekit.toolchain.quantize import integers
from edgekit.toolchain.quantize.layers import Layer
from edgekit.toolchain.quantize.regions import MOVES, data_inputs, followers
from edgekit.toolchain.target import Quantization

if TYPE_CHECKING:
    import numpy as np
    import onnx

    Array = np.ndarray[Any, Any]

Ranges = Mapping[str, tuple[float, float]]

_FLOAT_OUT = ("Gemm", "MatMul")  # onnxruntime has integer products that leave as float32


@dataclass(frozen=True)
class Affine:
    """How 8-bit steps stand for values: ``value = (step - zero_point) * scale``.

    Attributes:
        scale: What a step is worth, > 0.
        zero_point: The step that stands for 0: 0..255 as uint8, -128..127 as int8.
    """

    scale: float
    zero_point: int


@dataclass(frozen=True)
class LayerSteps:
    """How a layer's weights become int8.

    Attributes:
        layer: The layer.
        weight: float32, any shape.
        scale: float32[O] or float32[]: worth of a weight's step.
        axis: The output channels' axis, or None for one scale.
        bias: float32[O], or None.
        input_scale: Worth of a step of what the layer reads.
    """

    layer: Layer
    weight: Array
    scale: Array
    axis: int | None
    bias: Array | None
    input_scale: float


@dataclass(frozen=True)
class Steps:
    """The steps of a graph.

    Attributes:
        affines: By tensor that passes through 8 bits.
        made_integer: The tensors of them that an integer node makes.
        relabelled: The results of added numbers that are other zero points and nothing else.
        layers: By layer's name.
    """

    affines: Mapping[str, Affine]
    made_integer: frozenset[str]
    relabelled: frozenset[str]
    layers: Mapping[str, LayerSteps]


def plan_steps(
    graph: Graph,
    scheme: Quantization,
    ranges: Ranges,
    layers: Collection[Layer],
    between: Collection[str] = (),
) -> Steps:
    """Choose the steps of every tensor that passes through 8 bits, and of every weight.

    Args:
        graph: A canonical float32 graph.
        scheme: The target's types and granularity.
        ranges: Lower (≤ 0) and upper (≥ 0) end of the inputs and outputs of every integer node.
        layers: The layers that become int8.
        between: Names of further nodes that run on integers.
    """
    return _Planner(graph, scheme, ranges, layers, between).plan()


class _Planner:
    def __init__(
        self,
        graph: Graph,
        scheme: Quantization,
        ranges: Ranges,
        layers: Collection[Layer],
        between: Collection[str],
    ) -> None:
        self.graph = graph.proto.graph
        self.scheme = scheme
        self.ranges = ranges
        self.layers = {layer.name: layer for layer in layers}
        self.integer = set(self.layers) | set(between)
        self.followers = followers(graph.proto)
        self.outputs = {output.name for output in self.graph.output}
        self.constants = _edit.initializers(self.graph)
        self.readers = _edit.consumers(self.graph)
        self.uses = _edit.uses(self.graph)
        self.affines: dict[str, Affine] = {}
        self.relabelled: set[str] = set()
        self.made: dict[str, onnx.NodeProto] = {}  # by tensor, the integer node that makes it

    def plan(self) -> Steps:
        quantized = self._quantized()
        for name in sorted(quantized):
            self.affines[name] = self._per_tensor(name)
        self._share_steps()
        layers = {
            node.name: self._layer_steps(self.layers[node.name], node)
            for node in self.graph.node
            if node.name in self.layers
        }
        return Steps(self.affines, frozenset(self.made), frozenset(self.relabelled), layers)

    def _quantized(self) -> set[str]:
        """Return what integer nodes read and make."""
        quantized: set[str] = set()
        for node in self.graph.node:
            if node.name not in self.integer:
                continue
            quantized.update(n for n in data_inputs(node) if n not in self.constants)
            for name in (o for o in node.output if o):
                end = self._end(name)
                readers = self.readers.get(end, [])
                floats = end in self.outputs or not all(r.name in self.integer for r in readers)
                if node.op_type in _FLOAT_OUT and floats:
                    continue
                quantized.add(end)
                self.made[end] = node
        return quantized

    def _end(self, name: str) -> str:
        """Return the tensor behind the Relu or Clip that a node's result passes through."""
        follower = self.followers.get(name)
        return name if follower is None else follower.output[0]

    def _per_tensor(self, name: str) -> Affine:
        low, high = self.ranges[name]
        return self._affine(min(low, 0.0), max(high, 0.0))

    def _affine(self, low: float, high: float) -> Affine:
        scale, zero_point = integers.affine(low, high, self.scheme.activation)
        return Affine(scale, zero_point)

    # Steps that tensors share

    def _share_steps(self) -> None:
        for node in self.graph.node:
            if node.name not in self.integer:
                continue
            ends = [self._end(name) for name in node.output if name]
            if node.op_type in MOVES:
                for name in ends:
                    self.affines[name] = self.affines[node.input[0]]
            elif node.op_type == "HardSigmoid":
                self.affines[ends[0]] = self._affine(0.0, 1.0)
            elif node.op_type == "Add":
                self._shift(node, ends[0])
        for node in reversed(self.graph.node):  # the outer of two before the inner
            if node.op_type == "Concat" and node.name in self.integer:
                # What only this node reads is made in its steps: joined as it is, rounded once.
                joined = self.affines[self._end(node.output[0])]
                for name in node.input:
                    maker = self.made.get(name)
                    own = maker is not None and maker.op_type not in {*MOVES, "HardSigmoid"}
                    if own and self.uses[name] == 1 and name not in self.relabelled:
                        self.affines[name] = joined

    def _shift(self, node: onnx.NodeProto, end: str) -> None:
        """Give both sides of an added number the same steps, a whole number of them apart.

        Rounded again, every value would be off by the same part of a step, and what reads them
        would sum that up.
        """
        shift = shift_of(node, self.constants)
        name = next(n for n in data_inputs(node) if n not in self.constants)
        maker = self.made.get(name)
        if shift is None or maker is None or end != node.output[0] or self.uses[name] != 1:
            return
        if end in self.outputs:
            return
        if maker.op_type in {*MOVES, "HardSigmoid"} or name in self.relabelled:
            return
        if any(end not in reader.input for reader in self.readers.get(end, [])):
            return  # a subgraph reads it under this name
        low, high = self.ranges[name]
        # Both sides need a step for their own zero.
        low, high = min(low, 0.0, -shift), max(high, 0.0, -shift)
        apart = int(abs(shift) / ((high - low) / 255))
        if apart < 1:
            return
        scale = abs(shift) / apart
        first = 0 if self.scheme.activation == "uint8" else -128
        zero_point = first + round(-low / scale)
        shifted = zero_point - (apart if shift > 0 else -apart)
        if min(zero_point, shifted) < first or max(zero_point, shifted) > first + 255:
            return
        self.affines[name] = Affine(scale, zero_point)
        self.affines[end] = Affine(scale, shifted)
        self.relabelled.add(end)

    # Weights

    def _layer_steps(self, layer: Layer, node: onnx.NodeProto) -> LayerSteps:

        weight = _edit.to_array(self.constants[layer.weight])
        axis = integers.channel_axis(layer.op, weight.ndim, self.scheme)
        read = self.affines[layer.activation]
        scale = integers.weight_scale(weight, axis, integers.largest_step(self.scheme))
        bias_name = node.input[2] if len(node.input) > 2 else ""  # noqa: PLR2004
        bias = _edit.to_array(self.constants[bias_name]) if bias_name in self.constants else None
        scale = integers.fit_bias(scale, bias, read.scale)
        return LayerSteps(layer, weight, scale, axis, bias, read.scale)


def shift_of(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> float | None:
    """Return the number that an Add adds to a tensor, or None where it adds something else."""
    if node.op_type != "Add":
        return None
    fixed = [name for name in node.input if name in constants]
    if len(fixed) != 1:
        return None
    values = _edit.to_array(constants[fixed[0]]).reshape(-1)
    # A number of higher rank than the tensor raises its rank: that is more than an addition.
    return float(values[0]) if values.size == 1 and len(constants[fixed[0]].dims) <= 1 else None
