"""Quantize dynamically with onnxruntime's own writer: weights now, activations as they come."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from edgekit.runtime.session import import_onnxruntime
from edgekit.toolchain.graph import Graph
from edgekit.toolchain.passes import CanonicalOptions, _edit, sort_nodes
from edgekit.toolchain.quantize.qdq import finish
from edgekit.toolchain.target import Quantization
from edgekit.wire.errors import BuildError

if TYPE_CHECKING:
    import onnx

_INTEGER_TYPES = (2, 3, 21, 22)  # onnx.TensorProto: UINT8, INT8, UINT4, INT4


def write_dynamic(
    graph: Graph, scheme: Quantization, ops: tuple[str, ...], kept: Collection[str] = ()
) -> Graph:
    """Quantize the weights; activations are quantized as they come.

    Args:
        graph: A float32 graph, or a static one whose other layers are left.
        scheme: The target's types and granularity.
        ops: Operator types that become int8.
        kept: Names of nodes that stay float32.

    Raises:
        BuildError: onnxruntime's writer refuses the graph, or it has no such layer.
    """
    import_onnxruntime()
    import onnx
    from onnxruntime.quantization import QuantizationMode, QuantType
    from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer

    types = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}
    names = _dynamic_nodes(graph.proto, ops, kept)
    if not names:
        # To the writer an empty list means all of them.
        raise BuildError("no layer is left to quantize")
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
            names,
            [],
            sorted({*ops, *(["MatMul"] if "Gemm" in ops else [])}),
            {"MatMulConstBOnly": True},
        )
        quantizer.quantize_model()
    proto = quantizer.model.model
    # The writer appends its nodes at the end; ONNX wants each node behind what it reads.
    sort_nodes.apply(proto, CanonicalOptions())
    return finish(proto)


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


def _dynamic_nodes(
    proto: onnx.ModelProto, ops: tuple[str, ...], kept: Collection[str]
) -> list[str]:
    """Return the nodes that the writer can take, under the names that it will look for.

    It rewrites Gemm to MatMul under another name, knows one scale a column of matrices alone, and
    does not see what a subgraph reads.
    """
    ranks = {i.name: len(i.dims) for i in proto.graph.initializer}
    captured = {name for node in proto.graph.node for name in _edit.captured(node)}
    names = []
    for node in proto.graph.node:
        if node.op_type not in ops or node.name in kept:
            continue
        if node.op_type == "MatMul" and ranks.get(node.input[1]) != 2:  # noqa: PLR2004
            continue
        if node.op_type == "Gather" and captured.intersection(node.output):
            continue
        names.append(f"{node.name}_MatMul" if node.op_type == "Gemm" else node.name)
    return names


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
