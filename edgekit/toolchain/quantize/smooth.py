"""Even out the channels that matrix products read, so that one scale holds all of them.

SmoothQuant (Xiao et al., 2022, arXiv:2211.10438, equation 4): X·W = (X / s)·(s · W), with s for
each input channel, moves what makes a few channels of a transformer's activations large into the
weights, which have a scale for each column anyway. Where a LayerNormalization feeds the products
alone, 1 / s goes into its scale and bias and costs nothing. Elsewhere, behind a residual sum that
reads the same values or behind a GELU, it is a multiplication for each value of X.

The paper takes one alpha for a model. With 0.5 throughout, MiniLM's products behind a GELU became
up to 4 dB worse, and int8 without float32 layers worse than before: here each value has its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.toolchain.graph import Graph
from edgekit.toolchain.passes import CanonicalOptions, _edit, remove_dead
from edgekit.toolchain.quantize.calibrate import Feeds, session_with_outputs
from edgekit.toolchain.quantize.layers import Layer, find_layers

if TYPE_CHECKING:
    import numpy as np
    import onnx

    Array = np.ndarray[Any, Any]

# Shares of the difficulty that move into the weights; the paper takes one for the whole model.
ALPHAS = (0.5, 0.65, 0.8)
# What is left of the error where a multiplication is worth its time.
WORTH = 0.7
_MATRIX = 2
_LEAST = 1e-5
_FEEDS = 8
_FINEST = 1e-30


def smoothed(
    graph: Graph,
    feeds: Sequence[Feeds],
    alphas: Sequence[float] = ALPHAS,
    *,
    worth: float = WORTH,
) -> Graph:
    """Return a float32 graph of the same function whose products read evener channels.

    Products that read the same value get the same scales: those of the alpha, if any, by which
    dynamic int8 changes their results least.

    Args:
        graph: A canonical float32 graph.
        feeds: Calibration feeds; at most 8 are used.
        alphas: Shares of the difficulty to try, each 0..1.
        worth: The largest share of the error that may be left where scales cost a multiplication;
            0 for scales that cost nothing alone.

    Returns:
        The graph; names of its layers, inputs and outputs are the same.
    """
    groups = _groups(graph)
    if not groups or not feeds:
        return graph
    count = min(_FEEDS, len(feeds))
    few = [feeds[i * len(feeds) // count] for i in range(count)]
    writer = _Writer(graph.copy())
    for name, values in _values(graph, list(groups), few).items():
        layers = groups[name]
        norm = writer.only_feeds(name, layers)
        weights = [writer.weight(layer) for layer in layers]
        found = _best_scales(values, weights, alphas, worth if norm is None else 1.0)
        if found is None:
            continue
        for layer in layers:
            writer.scale_rows(layer, found)
        if norm is None:
            writer.multiply(name, layers, 1 / found)
        else:
            writer.scale_norm(norm, 1 / found)
    return writer.finish()


def _best_scales(
    values: Sequence[Array], weights: Sequence[Array], alphas: Sequence[float], worth: float
) -> Array | None:
    """Return the scales that leave the least error, or None where too much of it is left.

    Args:
        values: float32[rows, K], a feed each.
        weights: float32[K, N], of the products that read them.
        alphas: To try.
        worth: Share of the error without scales that may be left.
    """
    import numpy as np

    activation = np.max([np.abs(v).max(axis=0, initial=0.0) for v in values], axis=0)
    rows = np.max([np.abs(w).max(axis=1, initial=0.0) for w in weights], axis=0)
    limit = worth * dynamic_error(values, weights, np.ones_like(activation))
    best: Array | None = None
    for alpha in alphas:
        scales = channel_scales(activation, rows, alpha)
        error = dynamic_error(values, weights, scales)
        if error < limit:
            best, limit = scales, error
    return best


def dynamic_error(values: Sequence[Array], weights: Sequence[Array], scales: Array) -> float:
    """Return the noise over the signal of products in dynamic int8, the mean of all of them.

    Args:
        values: float32[rows, K], a feed each: one uint8 scale a feed.
        weights: float32[K, N]: one int8 scale a column.
        scales: float32[K], > 0: values are divided by them, rows multiplied.
    """
    import numpy as np

    noise = []
    for weight in weights:
        scaled = weight * scales[:, None]
        step = np.maximum(np.abs(scaled).max(axis=0) / 127, _FINEST)
        rounded = np.round(scaled / step) * step
        for value in values:
            wanted = value @ weight
            missed = _rounded(value / scales) @ rounded - wanted
            signal = float((wanted.astype(np.float64) ** 2).sum())
            noise.append(float((missed.astype(np.float64) ** 2).sum()) / max(signal, _FINEST))
    return float(np.mean(noise))


def _rounded(value: Array) -> Array:
    """Return what 256 even steps from the least to the largest value keep; 0 is one of them."""
    import numpy as np

    low, high = float(value.min(initial=0.0)), float(value.max(initial=0.0))
    step = max((high - low) / 255, _FINEST)
    return np.asarray(np.round(value / step) * step, dtype=np.float32)


def channel_scales(activation: Array, weight: Array, alpha: float) -> Array:
    """Return s = max|X|^alpha / max|W|^(1 - alpha), equation 4, around a mean of 1.

    Args:
        activation: float32[K], the largest magnitude of each channel.
        weight: float32[K], the largest magnitude of each row, over all matrices that read it.
        alpha: 0..1.

    Returns:
        float32[K], > 0; 1 for channels that are always zero. A common factor changes nothing, so
        the geometric mean is made 1.
    """
    import numpy as np

    live = (activation > 0) & (weight > 0)
    x = np.maximum(activation.astype(np.float64), _LEAST * activation.max(initial=0.0))
    w = np.maximum(weight.astype(np.float64), _LEAST * weight.max(initial=0.0))
    logs = alpha * np.log(np.where(live, x, 1)) - (1 - alpha) * np.log(np.where(live, w, 1))
    middle = logs[live].mean() if live.any() else 0.0
    return np.where(live, np.exp(logs - middle), 1.0).astype(np.float32)


def _groups(graph: Graph) -> dict[str, list[Layer]]:
    """Return the products with one constant matrix by the value that they read."""
    constants = _edit.initializers(graph.proto.graph)
    nodes = {node.name: node for node in graph.proto.graph.node}
    groups: dict[str, list[Layer]] = defaultdict(list)
    for layer in find_layers(graph.proto, ("MatMul", "Gemm")):
        weight, node = constants.get(layer.weight), nodes[layer.name]
        if weight is None or len(weight.dims) != _MATRIX or layer.activation in constants:
            continue
        if any(_edit.attribute(node, flag, 0) for flag in ("transA", "transB")):
            continue
        groups[layer.activation].append(layer)
    return groups


def _values(graph: Graph, names: Sequence[str], feeds: Sequence[Feeds]) -> dict[str, list[Array]]:
    """Return what products read: by value, float32[rows, K] a feed each.

    A value that is NaN or infinite anywhere has no entry.
    """
    import numpy as np

    session, fed = session_with_outputs(graph, names), set(graph.input_names)
    wanted = [name for name in names if name not in fed]
    values: dict[str, list[Array]] = {name: [] for name in names}
    for feed in feeds:
        # To onnxruntime an empty list means all outputs.
        answers = session.run(wanted, dict(feed)) if wanted else []
        found = dict(zip(wanted, answers, strict=True))
        found.update({name: feed[name] for name in names if name in fed})
        for name, value in found.items():
            values[name].append(value.reshape(-1, value.shape[-1]))
    return {n: found for n, found in values.items() if all(np.isfinite(v).all() for v in found)}


class _Writer:
    """A float32 graph whose products get other inputs and weights."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self.nodes = {node.name: node for node in proto.graph.node}
        self.constants = _edit.initializers(proto.graph)
        self.makers = _edit.producers(proto.graph)
        self.readers = _edit.consumers(proto.graph)
        self.outputs = {output.name for output in proto.graph.output}
        self.taken = _edit.all_names(proto.graph)
        self.before: dict[str, onnx.NodeProto] = {}  # new nodes, by the node that they go before

    def only_feeds(self, name: str, layers: Collection[Layer]) -> onnx.NodeProto | None:
        """Return the LayerNormalization that makes a value for some products and for nothing else.

        Who asks for its shape alone may.
        """
        maker = self.makers.get(name)
        if maker is None or maker.op_type != "LayerNormalization" or name in self.outputs:
            return None
        if any(part and part not in self.constants for part in maker.input[1:]):
            return None
        if len(self.constants[maker.input[1]].dims) != 1:
            return None  # it normalises more than the channels
        products = {layer.name for layer in layers}
        others = [r for r in self.readers[name] if r.name not in products]
        return maker if all(reader.op_type == "Shape" for reader in others) else None

    def weight(self, layer: Layer) -> Array:
        """Return a product's weights: float32[K, N]."""
        weight: Array = _edit.to_array(self.constants[layer.weight])
        return weight

    def scale_rows(self, layer: Layer, scales: Array) -> None:
        """Multiply the rows of a product's weights: float32[K, N] by float32[K]."""
        weight = _edit.to_array(self.constants[layer.weight]) * scales[:, None]
        self.nodes[layer.name].input[1] = self._constant(f"{layer.weight}__smoothed", weight)

    def scale_norm(self, norm: onnx.NodeProto, factors: Array) -> None:
        """Multiply what a LayerNormalization gives."""
        for index in range(1, len(norm.input)):
            if norm.input[index]:
                value = _edit.to_array(self.constants[norm.input[index]]) * factors
                norm.input[index] = self._constant(f"{norm.input[index]}__smoothed", value)

    def multiply(self, name: str, layers: Sequence[Layer], factors: Array) -> None:
        """Let some products read a value times a factor for each channel."""
        import onnx

        result = _edit.unique(f"{name}__smoothed", self.taken)
        products = {layer.name for layer in layers}
        for layer in layers:
            self.nodes[layer.name].input[0] = result
        inputs = [name, self._constant(f"{name}__factors", factors)]
        first = next(n.name for n in self.proto.graph.node if n.name in products)
        self.before[first] = onnx.helper.make_node("Mul", inputs, [result], f"{result}/Mul")

    def finish(self) -> Graph:
        """Return the graph, without the weights that were replaced."""
        nodes: list[onnx.NodeProto] = []
        for node in self.proto.graph.node:
            nodes += [*([self.before[node.name]] if node.name in self.before else []), node]
        _edit.set_nodes(self.proto.graph, nodes)
        remove_dead.apply(self.proto, CanonicalOptions())
        return Graph.of(self.proto)

    def _constant(self, name: str, value: Array) -> str:
        free = _edit.unique(name, self.taken)
        _edit.add_constant(self.proto.graph, free, value)
        return free
