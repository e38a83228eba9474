"""Write a static int8 graph: QuantizeLinear and DequantizeLinear around every integer node.

onnxruntime's own writer quantizes a tensor for all its readers, float32 ones too, does not order
its nodes and refuses biases behind a float32 layer. This one leaves float32 values to float32
readers, and writes what stands between integer nodes in the form that onnxruntime fuses best:

* ``HardSigmoid`` is an addition of a constant that saturates at both ends of the output's range.
* A number that is added is another zero point: no arithmetic at all.
* ``x * Sigmoid(x)`` of a dequantized x is one node, ``com.microsoft.QuickGelu``: as two nodes, each
  of them dequantizes for itself.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from edgekit.toolchain.graph import Graph
from edgekit.toolchain.passes import CanonicalOptions, _edit, remove_dead
from edgekit.toolchain.quantize import integers
from edgekit.toolchain.quantize.steps import Affine, LayerSteps, Steps
from edgekit.toolchain.target import Quantization

if TYPE_CHECKING:
    import numpy as np
    import onnx

    Array = np.ndarray[Any, Any]

CONTRIB = "com.microsoft"


def write_qdq(
    graph: Graph,
    scheme: Quantization,
    steps: Steps,
    between: Collection[str] = (),
) -> Graph:
    """Quantize layers with fixed ranges.

    Args:
        graph: A canonical float32 graph.
        scheme: The target's types and granularity.
        steps: Of every tensor and weight, chosen for this graph.
        between: Names of further nodes that run on integers, as the steps were chosen for.

    Returns:
        The graph with its weights in int8 and its biases in int32.
    """
    return _Writer(graph, scheme, steps, between).write()


class _Writer:
    def __init__(
        self,
        graph: Graph,
        scheme: Quantization,
        steps: Steps,
        between: Collection[str],
    ) -> None:
        self.proto = graph.copy()
        self.scheme = scheme
        self.plan = steps
        self.integer = {*steps.layers, *between}
        self.outputs = {output.name for output in self.proto.graph.output}
        self.constants = _edit.initializers(self.proto.graph)
        self.nodes: list[onnx.NodeProto] = []
        self.added: dict[str, onnx.TensorProto] = {}
        # By tensor, once it is written: its steps, and the values that they stand for.
        self.steps: dict[str, str] = {}
        self.values: dict[str, str] = {}

    def write(self) -> Graph:
        source = list(self.proto.graph.node)
        for value in self.proto.graph.input:
            if value.name in self.plan.affines:
                self._quantize(value.name, value.name)
        for node in source:
            self._write_node(node)
        _edit.set_nodes(self.proto.graph, self.nodes)
        self.proto.graph.initializer.extend(self.added.values())
        _join_gates(self.proto)
        # Dequantizers that nobody reads, and the float32 weights that were replaced.
        remove_dead.apply(self.proto, CanonicalOptions())
        return finish(self.proto)

    def _write_node(self, node: onnx.NodeProto) -> None:
        import onnx

        written = onnx.NodeProto()
        written.CopyFrom(node)
        if node.name in self.integer:
            if self._is_relabelled(node):
                return
            written = self._integer_node(node, written)
        else:
            for index, name in enumerate(node.input):
                # Behind an integer node there is no float32 value to read.
                if name in self.plan.made_integer:
                    written.input[index] = self.values[name]
        self.nodes.append(written)
        for index, name in enumerate(node.output):
            if name in self.plan.affines:
                raw = name
                if name in self.outputs and name in self.plan.made_integer:
                    raw = written.output[index] = f"{name}__raw"
                self._quantize(name, raw)

    def _integer_node(self, node: onnx.NodeProto, written: onnx.NodeProto) -> onnx.NodeProto:
        import onnx

        for index, name in enumerate(node.input):
            if name in self.values:
                written.input[index] = self.values[name]
        if node.name in self.plan.layers:
            self._write_weights(written, self.plan.layers[node.name])
        elif node.op_type == "HardSigmoid":
            return self._saturating_add(node)
        elif node.op_type in ("Add", "Mul"):
            for index, name in enumerate(node.input):
                if name in self.constants:
                    number = onnx.numpy_helper.to_array(self.constants[name]).reshape(-1)[0]
                    written.input[index] = self._number(f"{node.name}__{index}", float(number))
        return written

    # Activations

    def _quantize(self, name: str, raw: str) -> None:
        """Write the way into steps, and the way out of them."""
        affine = self.plan.affines[name]
        self.steps[name] = f"{name}__steps"
        self._node("QuantizeLinear", raw, affine, self.steps[name], f"{name}__quantize")
        self._restore(name, affine)

    def _restore(self, name: str, affine: Affine) -> None:
        leaves = name in self.outputs and name in self.plan.made_integer
        self.values[name] = name if leaves else f"{name}__value"
        label = f"{name}__dequantize"
        self._node("DequantizeLinear", self.steps[name], affine, self.values[name], label)

    def _node(self, op: str, source: str, affine: Affine, result: str, label: str) -> None:
        import numpy as np
        import onnx

        inputs = [
            source,
            self._constant(f"{label}__scale", np.array(affine.scale, dtype=np.float32)),
            self._constant(f"{label}__zero_point", np.array(affine.zero_point, self._type())),
        ]
        self.nodes.append(onnx.helper.make_node(op, inputs, [result], label))

    def _is_relabelled(self, node: onnx.NodeProto) -> bool:
        """Write an addition that is another zero point; say whether it is one."""
        name = node.output[0]
        if name not in self.plan.relabelled:
            return False
        self.steps[name] = self.steps[next(n for n in node.input if n not in self.constants)]
        self._restore(name, self.plan.affines[name])
        return True

    def _saturating_add(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """Write HardSigmoid(x) = clip(alpha x + beta, 0, 1) as alpha x + beta.

        The input's steps with a scale that is alpha times as large are alpha x, and 0..1 is all
        that the output's steps can stand for.
        """
        import numpy as np
        import onnx

        alpha = float(_edit.attribute(node, "alpha", 0.2))
        beta = float(_edit.attribute(node, "beta", 0.5))
        name = node.input[0]
        affine = self.plan.affines[name]
        scaled = Affine(float(np.float32(affine.scale * alpha)), affine.zero_point)
        self._node(
            "DequantizeLinear",
            self.steps[name],
            scaled,
            f"{node.name}__scaled",
            f"{node.name}__dequantize_scaled",
        )
        shift = self._number(f"{node.name}__beta", beta)
        inputs = [f"{node.name}__scaled", shift]
        return onnx.helper.make_node("Add", inputs, list(node.output), node.name)

    # Constants

    def _number(self, name: str, value: float) -> str:
        """Write a number other than 0 as what it is: one step of its own size."""
        import numpy as np

        first = 0 if self.scheme.activation == "uint8" else -128
        zero_point, step = (first, first + 1) if value > 0 else (first + 1, first)
        scale = np.array(abs(value), dtype=np.float32)
        return self._dequantized(name, np.array([step], self._type()), scale, None, zero_point)

    def _write_weights(self, written: onnx.NodeProto, steps: LayerSteps) -> None:
        step = integers.largest_step(self.scheme)
        name = steps.layer.name
        rounded = integers.round_weight(steps.weight, steps.scale, steps.axis, step)
        written.input[1] = self._dequantized(f"{name}__weight", rounded, steps.scale, steps.axis)
        if steps.bias is not None:
            scale = (steps.scale * steps.input_scale).astype("float32")
            bias = integers.round_bias(steps.bias, scale)
            axis = None if scale.ndim == 0 else 0
            written.input[2] = self._dequantized(f"{name}__bias", bias, scale, axis)

    def _dequantized(
        self, name: str, steps: Array, scale: Array, axis: int | None, zero_point: int = 0
    ) -> str:
        import numpy as np
        import onnx

        zeros = np.full(scale.shape, zero_point, dtype=steps.dtype)
        inputs = [
            self._constant(f"{name}__steps", steps),
            self._constant(f"{name}__scale", np.asarray(scale, dtype=np.float32)),
            self._constant(f"{name}__zero_point", zeros),
        ]
        attributes = {} if axis is None or scale.ndim == 0 else {"axis": axis}
        self.nodes.append(
            onnx.helper.make_node(
                "DequantizeLinear", inputs, [f"{name}__value"], f"{name}__dequantize", **attributes
            )
        )
        return f"{name}__value"

    def _type(self) -> Any:  # noqa: ANN401 - a numpy scalar type
        import numpy as np

        return np.uint8 if self.scheme.activation == "uint8" else np.int8

    def _constant(self, name: str, value: Array) -> str:
        import onnx

        self.added[name] = onnx.numpy_helper.from_array(value, name)
        return name


def finish(proto: onnx.ModelProto) -> Graph:
    """Sign a written proto as ours, without what the build's tools left in it."""
    del proto.metadata_props[:]
    # Shapes noted for the float32 graph; whoever needs shapes infers them.
    del proto.graph.value_info[:]
    proto.producer_name = "edgekit"
    proto.producer_version = ""
    return Graph.of(proto)


def _join_gates(proto: onnx.ModelProto) -> None:
    """Write Mul(x, Sigmoid(x)) of a dequantized x as one QuickGelu(x) with alpha 1."""
    import onnx

    graph = proto.graph
    makers, uses = _edit.producers(graph), _edit.uses(graph)
    joined: dict[str, onnx.NodeProto] = {}
    for node in graph.node:
        if node.op_type != "Mul":
            continue
        for value, gate in (tuple(node.input), tuple(reversed(node.input))):
            sigmoid, maker = makers.get(gate), makers.get(value)
            if (
                sigmoid is not None
                and sigmoid.op_type == "Sigmoid"
                and sigmoid.input[0] == value
                and uses[gate] == 1
                and maker is not None
                and maker.op_type == "DequantizeLinear"
            ):
                joined[node.output[0]] = onnx.helper.make_node(
                    "QuickGelu", [value], list(node.output), node.name, domain=CONTRIB, alpha=1.0
                )
                break
    if joined:
        _edit.set_nodes(graph, [joined.get(node.output[0], node) for node in graph.node])
        if all(opset.domain != CONTRIB for opset in proto.opset_import):
            proto.opset_import.append(onnx.helper.make_opsetid(CONTRIB, 1))
