"""Write int8 graphs with onnxruntime's own writers: QDQ if static, integer operators if dynamic."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from edgekit.runtime.session import import_onnxruntime
from edgekit.toolchain.graph import Graph
from edgekit.toolchain.passes import CanonicalOptions, sort_nodes
from edgekit.toolchain.target import Quantization
from edgekit.wire.errors import BuildError

if TYPE_CHECKING:
    import onnx

_INTEGER_TYPES = (2, 3, 21, 22)  # onnx.TensorProto: UINT8, INT8, UINT4, INT4


def write_static(
    graph: Graph,
    scheme: Quantization,
    ranges: Mapping[str, tuple[float, float]],
    layers: list[str],
) -> Graph:
    """Quantize layers with fixed ranges, as QuantizeLinear/DequantizeLinear pairs.

    Args:
        graph: The float32 graph.
        scheme: The target's types and granularity.
        ranges: Range of the input and output of every layer.
        layers: Names of the nodes that become int8; the others stay float32.

    Raises:
        BuildError: onnxruntime's writer refuses the graph.
    """
    import numpy as np

    import_onnxruntime()
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    types = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}
    # The writer changes the ranges that it is given: these are its own.
    data = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in ranges.items()
    }
    with _quiet("onnxruntime's static writer"):
        quantizer = QDQQuantizer(
            graph.copy(),
            scheme.per_channel,
            scheme.reduce_range,
            types[scheme.weight],
            types[scheme.activation],
            TensorsData(CalibrationMethod.MinMax, data),
            _with_followers(graph.proto, set(layers)),
            [],
            list(scheme.static_ops),
            {"ActivationSymmetric": False, "WeightSymmetric": True, "DedicatedQDQPair": False},
        )
        quantizer.quantize_model()
    return _finish(quantizer.model.model)


def write_dynamic(graph: Graph, scheme: Quantization, ops: tuple[str, ...]) -> Graph:
    """Quantize the weights; activations are quantized as they come.

    Args:
        graph: A float32 graph, or a static one whose other layers are left.
        scheme: The target's types and granularity.
        ops: Operator types that become int8.

    Raises:
        BuildError: onnxruntime's writer refuses the graph.
    """
    import_onnxruntime()
    import onnx
    from onnxruntime.quantization import QuantizationMode, QuantType
    from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer

    types = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}
    with _quiet("onnxruntime's dynamic writer"):
        quantizer = ONNXQuantizer(
            onnx.shape_inference.infer_shapes(graph.copy()),
            scheme.per_channel,
            scheme.reduce_range,
            QuantizationMode.IntegerOps,
            False,
            types[scheme.weight],
            QuantType.QUInt8,
            None,
            [n.name for n in graph.proto.graph.node if n.op_type in ops],
            [],
            list(ops),
            {"MatMulConstBOnly": True},
        )
        quantizer.quantize_model()
    return _finish(quantizer.model.model)


def int8_share(graph: Graph) -> float:
    """Return the share of weight elements that are stored in 8 bits or less, 0..1."""
    import numpy as np

    integer = floats = 0
    for tensor in graph.proto.graph.initializer:
        count = int(np.prod(tensor.dims))
        if count < 16:  # noqa: PLR2004 - scales, zero points, shapes
            continue
        if tensor.data_type in _INTEGER_TYPES:
            integer += count
        elif tensor.data_type in (1, 10, 16):  # float32, float16, bfloat16
            floats += count
    return integer / (integer + floats) if integer else 0.0


def _with_followers(proto: onnx.ModelProto, layers: set[str]) -> list[str]:
    """Add the Relu and Clip right behind a chosen layer: the writer narrows ranges only then."""
    chosen = set(layers)
    produced = {output: node.name for node in proto.graph.node for output in node.output}
    for node in proto.graph.node:
        if node.op_type in ("Relu", "Clip") and produced.get(node.input[0]) in layers:
            chosen.add(node.name)
    return sorted(chosen)


def _finish(proto: Any) -> Graph:  # noqa: ANN401 - protobuf messages are untyped
    del proto.metadata_props[:]
    # The writers note shapes that hold for no dynamic dimension; whoever needs shapes infers them.
    del proto.graph.value_info[:]
    # The writers append their nodes at the end; ONNX wants each node behind what it reads.
    sort_nodes.apply(proto, CanonicalOptions())
    proto.producer_name = "edgekit"
    proto.producer_version = ""
    return Graph.of(proto)


@contextlib.contextmanager
def _quiet(what: str) -> Iterator[None]:
    """Silence the writer's logging and give its failures a name."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    except (
        ValueError,
        RuntimeError,
        KeyError,
        AttributeError,
        TypeError,
        IndexError,
        AssertionError,
        NotImplementedError,
    ) as error:
        raise BuildError(f"{what} refuses the graph: {error}") from error
    finally:
        root.setLevel(level)
