"""Move biases by what rounding shifts the results of their layers by.

The empirical form of Nagel et al., 2019, "Data-Free Quantization Through Weight Equalization and
Bias Correction" (arXiv:1906.04721, section 4.2 and appendix D): layer after layer, in the graph's
order, what each channel is off in the mean is taken from its bias. A layer is looked at when all
layers before it are corrected, and so answers for what is left of their errors, too.

Other than there, an error counts by the square of the slope that follows it. What a Relu or a gate
lets through as zero is often far off, because ranges end there on purpose, and does not matter.

The float32 and the int8 graph are walked once, side by side and piece by piece: a piece ends at a
layer, and the values that later pieces read are kept, a set for each feed. That costs about two
passes in float32 for each feed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.runtime.session import open_session
from edgekit.toolchain.graph import Graph, serialize
from edgekit.toolchain.passes import CanonicalOptions, _edit, remove_dead
from edgekit.toolchain.quantize.calibrate import Feeds, Gate
from edgekit.toolchain.quantize.layers import Layer
from edgekit.toolchain.quantize.qdq import finish
from edgekit.toolchain.quantize.regions import followers, gates
from edgekit.wire.errors import BuildError

if TYPE_CHECKING:
    import numpy as np
    import onnx

    Array = np.ndarray[Any, Any]

_BIASED = ("Conv", "Gemm")  # a MatMul has no bias to move
_BIAS = 2  # the input that holds it
_INT32_MAX = 2**31 - 1
_STEP = 0.01  # between the two values that a gate's slope is taken from

Slope = Callable[[Any], Any]


def corrected(
    graph: Graph, int8: Graph, layers: Collection[Layer], feeds: Sequence[Feeds]
) -> Graph:
    """Correct the biases of a static int8 graph, and of the layers in it that stay float32.

    Args:
        graph: The float32 graph that the other was written from.
        int8: As ``quantize.static.quantized`` writes it: its layers have the names of the first.
        layers: The layers to correct, int8 or not; those without a place for a bias are left out.
        feeds: Calibration feeds, all of which are used: every value that is still read is kept for
            each of them, twice. A dozen or two are enough.

    Returns:
        The int8 graph with other biases, still int32 behind int8 layers.

    Raises:
        BuildError: There are no feeds, or what stands between layers is no tensor.
    """
    if not feeds:
        raise BuildError("there are no calibration samples", hint="give the recipe [[calibration]]")
    names = {layer.name for layer in layers}
    exact, rounded = _Walk(graph.proto, feeds), _Walk(int8.proto, feeds)
    slopes, writer = _Slopes(graph.proto), _Writer(int8.copy())
    places = {node.name: index for index, node in enumerate(graph.proto.graph.node)}
    for index, node in enumerate(int8.proto.graph.node):
        if node.name not in names or not writer.takes(node.name):
            continue
        wanted, found = exact.up_to(places[node.name]), rounded.up_to(index)
        slope = slopes.of(graph.proto.graph.node[places[node.name]].output[0])
        change = writer.move(node.name, _mean_error(wanted, found, slope))
        rounded.shift(node.output[0], change)
    return writer.finish()


def _mean_error(wanted: Sequence[Array], found: Sequence[Array], slope: Slope) -> Array:
    """Return what is to be added to each channel: float64[O].

    Errors count by the square of the slope behind them, which makes the sum of squares behind the
    activation least, to first order.

    Args:
        wanted: float32[N, O, …], a feed each.
        found: The same of the rounded graph.
        slope: Of what the result passes through.
    """
    import numpy as np

    total, weight = 0.0, 0.0
    for a, b in zip(wanted, found, strict=True):
        axes = (0, *range(2, a.ndim))
        # A value that rounding moved across a bend counts, too.
        weights = np.maximum(slope(a), slope(b)) ** 2
        total = total + (weights * (a - b)).sum(axis=axes, dtype=np.float64) / a.size
        weight = weight + weights.sum(axis=axes, dtype=np.float64) / a.size
    return np.where(weight > 0, total / np.maximum(weight, 1e-12), 0.0)


class _Slopes:
    """What the results of a graph's layers pass through."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.gates = gates(proto)
        self.followers = followers(proto)
        self.constants = _edit.initializers(proto.graph)

    def of(self, name: str) -> Slope:
        """Return the slope's magnitude as a function of values."""
        import numpy as np

        follower, gate = self.followers.get(name), self.gates.get(name, Gate.NONE)
        if follower is not None:
            low, high = self._bounds(follower)
            return lambda x: ((x > low) & (x < high)).astype(np.float32)
        if gate is Gate.NONE:
            return np.ones_like
        return lambda x: np.abs(gate.apply(x + _STEP) - gate.apply(x - _STEP)) / (2 * _STEP)

    def _bounds(self, node: onnx.NodeProto) -> tuple[float, float]:
        if node.op_type == "Relu":
            return 0.0, float("inf")
        ends = [float("-inf"), float("inf")]
        for index, name in enumerate(list(node.input)[1:3]):
            if name in self.constants:
                ends[index] = float(_edit.to_array(self.constants[name]))
        return ends[0], ends[1]


class _Walk:
    """A graph that runs piece by piece over several feeds."""

    def __init__(self, proto: onnx.ModelProto, feeds: Sequence[Feeds]) -> None:
        self.proto = proto
        self.nodes = list(proto.graph.node)
        self.constants = {i.name: i for i in proto.graph.initializer if i.name not in feeds[0]}
        self.done = 0
        self.last_read = {
            name: index for index, node in enumerate(self.nodes) for name in _edit.reads(node)
        }
        self.values: list[dict[str, Array]] = [dict(feed) for feed in feeds]

    def up_to(self, index: int) -> list[Array]:
        """Run all nodes up to one and with it; return its result for each feed."""
        piece, self.done = self.nodes[self.done : index + 1], index + 1
        result = piece[-1].output[0]
        later = [o for node in piece for o in node.output if self.last_read.get(o, -1) > index]
        outputs = list(dict.fromkeys([*later, result]))
        reads = {name for node in piece for name in _edit.reads(node)}
        made = {name for node in piece for name in node.output}
        inputs = sorted(reads - made - set(self.constants))
        session = self._session(piece, inputs, outputs, reads)
        for values in self.values:
            found = session.run(outputs, {name: values[name] for name in inputs})
            for name in [n for n in values if self.last_read.get(n, -1) <= index]:
                del values[name]
            values.update(zip(outputs, found, strict=True))
        return [values[result] for values in self.values]

    def shift(self, name: str, change: Array) -> None:
        """Add a number to each channel of a kept value: change is float64[O]."""
        import numpy as np

        for values in self.values:
            along = change.reshape(-1, *[1] * (values[name].ndim - 2)).astype(np.float32)
            values[name] = values[name] + along

    def _session(
        self,
        piece: Sequence[onnx.NodeProto],
        inputs: Sequence[str],
        outputs: Sequence[str],
        reads: Collection[str],
    ) -> Any:  # noqa: ANN401
        import numpy as np
        import onnx

        helper, first = onnx.helper, self.values[0]
        for name in inputs:
            if not isinstance(first[name], np.ndarray):
                raise BuildError(f'"{name}" stands between layers and is no tensor')
        proto = helper.make_model(
            helper.make_graph(
                piece,
                "piece",
                [
                    helper.make_tensor_value_info(
                        name, helper.np_dtype_to_tensor_dtype(first[name].dtype), None
                    )
                    for name in inputs
                ],
                [helper.make_empty_tensor_value_info(name) for name in outputs],
                [self.constants[name] for name in sorted(reads) if name in self.constants],
            ),
            opset_imports=self.proto.opset_import,
            ir_version=self.proto.ir_version,
        )
        return open_session(serialize(proto))


class _Writer:
    """Biases of a static int8 graph, to be moved."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self.nodes = {node.name: node for node in proto.graph.node}
        self.makers = _edit.producers(proto.graph)
        self.constants = _edit.initializers(proto.graph)
        self.uses = _edit.uses(proto.graph)
        self.taken = _edit.all_names(proto.graph)
        self.added: dict[str, onnx.NodeProto] = {}  # by the node before which they stand

    def takes(self, name: str) -> bool:
        """Tell whether a node has a bias, or a place for one."""
        node = self.nodes[name]
        if node.op_type not in _BIASED:
            return False
        bias, int8 = self._bias(node), self._is_int8(node)
        if not bias:
            return int8 or node.input[1] in self.constants
        if not int8:
            return bias in self.constants
        maker = self.makers.get(bias)
        own = maker is not None and maker.op_type == "DequantizeLinear" and self.uses[bias] == 1
        return own and maker is not None and maker.input[0] in self.constants

    def move(self, name: str, change: Array) -> Array:
        """Add to a layer's bias; return what was really added, in whole steps: float64[O]."""
        node = self.nodes[name]
        bias = self._bias(node)
        if self._is_int8(node):
            maker = self.makers[bias] if bias else self._zero_bias(node, len(change))
            return self._move_steps(maker, change)
        import numpy as np

        old = _edit.to_array(self.constants[bias]) if bias else np.zeros(len(change), np.float32)
        new = (old + change).astype(np.float32)
        self._set_bias(node, self._constant(f"{name}__corrected", new))
        return np.asarray(new.astype(np.float64) - old)

    def finish(self) -> Graph:
        """Return the graph, without the constants that were replaced."""
        nodes: list[onnx.NodeProto] = []
        for node in self.proto.graph.node:
            nodes += [*([self.added[node.name]] if node.name in self.added else []), node]
        _edit.set_nodes(self.proto.graph, nodes)
        remove_dead.apply(self.proto, CanonicalOptions())
        return finish(self.proto)

    def _move_steps(self, maker: onnx.NodeProto, change: Array) -> Array:
        import numpy as np

        old = _edit.to_array(self.constants[maker.input[0]]).astype(np.float64)
        scale = _edit.to_array(self.constants[maker.input[1]]).astype(np.float64)
        new = np.clip(np.round(old + change / scale), -_INT32_MAX, _INT32_MAX)
        maker.input[0] = self._constant(f"{maker.input[0]}__corrected", new.astype(np.int32))
        return np.asarray((new - old) * scale)

    def _zero_bias(self, node: onnx.NodeProto, channels: int) -> onnx.NodeProto:
        """Give an int8 layer a bias of zeros, in steps of input scale × weight scale."""
        import numpy as np
        import onnx

        read, weight = (self._scale(name) for name in node.input[:2])
        scale = np.asarray(read * weight, dtype=np.float32)
        value = _edit.unique(f"{node.name}__bias__value", self.taken)
        maker = onnx.helper.make_node(
            "DequantizeLinear",
            [
                self._constant(f"{node.name}__bias__steps", np.zeros(channels, np.int32)),
                self._constant(f"{node.name}__bias__scale", scale),
            ],
            [value],
            f"{node.name}__bias__dequantize",
            **({"axis": 0} if scale.ndim else {}),
        )
        self.added[node.name] = maker
        self._set_bias(node, value)
        return maker

    def _scale(self, name: str) -> Array:
        scale: Array = _edit.to_array(self.constants[self.makers[name].input[1]])
        return scale

    def _is_int8(self, node: onnx.NodeProto) -> bool:
        makers = [self.makers.get(name) for name in node.input[:2]]
        return all(
            m is not None and m.op_type == "DequantizeLinear" and m.input[1] in self.constants
            for m in makers
        )

    def _bias(self, node: onnx.NodeProto) -> str:
        return node.input[_BIAS] if len(node.input) > _BIAS else ""

    def _set_bias(self, node: onnx.NodeProto, name: str) -> None:
        inputs = [*node.input[:_BIAS], name]
        del node.input[:]
        node.input.extend(inputs)

    def _constant(self, name: str, value: Array) -> str:
        free = _edit.unique(name, self.taken)
        _edit.add_constant(self.proto.graph, free, value)
        self.constants[free] = self.proto.graph.initializer[-1]
        return free
