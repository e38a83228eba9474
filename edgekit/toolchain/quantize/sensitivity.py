"""What each layer loses by itself, in dB, from one run of one graph.

Beside every layer the probe graph computes the same layer with its input and weights rounded to 8
bits, and sums the squares of the result and of the difference. One pass over a few samples then
ranks all layers: no layer needs a model of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.runtime.session import open_session
from edgekit.toolchain.graph import Graph, serialize
from edgekit.toolchain.passes import _edit
from edgekit.toolchain.quantize import integers
from edgekit.toolchain.quantize.calibrate import Feeds
from edgekit.toolchain.quantize.layers import Layer
from edgekit.toolchain.target import Quantization

if TYPE_CHECKING:
    import numpy as np

MAX_SQNR_DB = 100.0
LOW_QUANTILE = 0.1


def layer_sqnr_db(
    graph: Graph,
    layers: Sequence[Layer],
    ranges: Mapping[str, tuple[float, float]],
    feeds: Sequence[Feeds],
    scheme: Quantization,
) -> dict[str, float]:
    """Return the signal-to-quantization-noise ratio of each layer, 0..100 dB: a low feed's.

    Args:
        graph: The float32 graph.
        layers: The layers to rank.
        ranges: Range of every layer's activation.
        feeds: Calibration feeds (never evaluation's).
        scheme: The target's types and granularity.
    """
    import numpy as np
    import onnx

    proto = graph.copy()
    weights = {i.name: i for i in proto.graph.initializer}
    nodes = {n.name: n for n in proto.graph.node}
    outputs: list[str] = []
    stem = _edit.unique("__probe", {name[:7] for name in _edit.all_names(proto.graph)})
    for index, layer in enumerate(layers):
        tag = f"{stem}{index}"
        rounded = _rounded(onnx.numpy_helper.to_array(weights[layer.weight]), layer.op, scheme)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(rounded, f"{tag}_w"))
        activation = _round_activation(proto, layer.activation, ranges[layer.activation], tag)
        twin = onnx.NodeProto()
        twin.CopyFrom(nodes[layer.name])
        twin.name, twin.output[0] = f"{tag}_twin", f"{tag}_y"
        twin.input[0], twin.input[1] = activation, f"{tag}_w"
        result = nodes[layer.name].output[0]
        proto.graph.node.extend(
            [
                twin,
                onnx.helper.make_node("Sub", [result, f"{tag}_y"], [f"{tag}_d"]),
                onnx.helper.make_node("ReduceSumSquare", [result], [f"{tag}_s"], keepdims=0),
                onnx.helper.make_node("ReduceSumSquare", [f"{tag}_d"], [f"{tag}_n"], keepdims=0),
            ]
        )
        outputs += [f"{tag}_s", f"{tag}_n"]
    proto.graph.output.extend(onnx.helper.make_tensor_value_info(o, 1, None) for o in outputs)
    # Without graph optimization the rounding nodes stay what they are: float arithmetic.
    session = open_session(serialize(proto), threads=1, level="ORT_DISABLE_ALL")
    by_feed = []
    for feed in feeds:
        sums = [float(v) for v in session.run(outputs, dict(feed))]
        by_feed.append([_sqnr_db(s, n) for s, n in zip(sums[::2], sums[1::2], strict=True)])
    # Sums over all feeds would hear the loud ones alone: a low quantile over feeds does not.
    low = np.quantile(np.array(by_feed), LOW_QUANTILE, axis=0)
    return {layer.name: float(low[i]) for i, layer in enumerate(layers)}


def _sqnr_db(signal: float, noise: float) -> float:
    if noise <= 0 or signal <= 0:
        return MAX_SQNR_DB
    return max(0.0, min(MAX_SQNR_DB, 10 * math.log10(signal / noise)))


def _rounded(weight: np.ndarray[Any, Any], op: str, scheme: Quantization) -> Any:  # noqa: ANN401
    """Return what a weight's steps stand for: float32, its shape."""
    axis = integers.channel_axis(op, weight.ndim, scheme)
    largest = integers.largest_step(scheme)
    scale = integers.weight_scale(weight, axis, largest)
    return integers.restore(integers.round_weight(weight, scale, axis, largest), scale, axis)


def _round_activation(proto: Any, name: str, limits: tuple[float, float], tag: str) -> str:  # noqa: ANN401
    import numpy as np
    import onnx

    low, high = limits
    scale = max((high - low) / 255, 1e-12)
    zero_point = int(np.clip(round(-low / scale), 0, 255))
    proto.graph.initializer.extend(
        [
            onnx.numpy_helper.from_array(np.array(scale, dtype=np.float32), f"{tag}_scale"),
            onnx.numpy_helper.from_array(np.array(zero_point, dtype=np.uint8), f"{tag}_zero"),
        ]
    )
    proto.graph.node.extend(
        [
            onnx.helper.make_node(
                "QuantizeLinear", [name, f"{tag}_scale", f"{tag}_zero"], [f"{tag}_q"]
            ),
            onnx.helper.make_node(
                "DequantizeLinear", [f"{tag}_q", f"{tag}_scale", f"{tag}_zero"], [f"{tag}_x"]
            ),
        ]
    )
    return f"{tag}_x"
