"""Multiply-adds of one node, from the shapes of its inputs and outputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgekit.toolchain.shapes import Shape, Tensors

if TYPE_CHECKING:
    import onnx

# Where an operator keeps its two factors: (activation, weight or second matrix).
_CONV = {
    "Conv": (0, 1),
    "FusedConv": (0, 1),
    "ConvInteger": (0, 1),
    "QLinearConv": (0, 3),
    "NhwcFusedConv": (0, 1),
}
_MATMUL = {
    "MatMul": (0, 1),
    "FusedMatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "MatMulIntegerToFloat": (0, 1),
    "DynamicQuantizeMatMul": (0, 1),
    "QLinearMatMul": (0, 3),
}
_GEMM = {"Gemm": (0, 1), "FusedGemm": (0, 1), "QGemm": (0, 3)}
_RECURRENT = {"LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"}
_ATTENTION = {"Attention": (0, 1), "QAttention": (0, 1)}

WEIGHTED = {*_CONV, *_MATMUL, *_GEMM, *_RECURRENT, *_ATTENTION, "ConvTranspose"}
INTEGER = {
    "ConvInteger",
    "DynamicQuantizeLSTM",
    "DynamicQuantizeMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "QAttention",
    "QGemm",
    "QLinearConv",
    "QLinearMatMul",
}


def count_macs(node: onnx.NodeProto, tensors: Tensors) -> int | None:
    """Count the multiply-adds of a node.

    Returns:
        The count; 0 for operators that multiply no matrices; None where a shape is not known.
    """
    rule = _rule(node.op_type)
    if rule is None or not node.output:
        return 0
    count, places = rule
    shapes = [tensors.shapes.get(node.input[i]) for i in places if i < len(node.input)]
    out = tensors.shapes.get(node.output[0])
    known = [shape for shape in shapes if shape is not None]
    if out is None or len(known) < len(places):
        return None
    return count(node, out, known)


_Count = Callable[["onnx.NodeProto", Shape, list[Shape]], int | None]


def _rule(op: str) -> tuple[_Count, tuple[int, ...]] | None:
    if op == "ConvTranspose":
        return _transposed, (0, 1)
    if op in _RECURRENT:
        return _recurrent, (0, 1, 2)
    for table, count in (
        (_CONV, _convolution),
        (_MATMUL, _matmul),
        (_GEMM, _gemm),
        (_ATTENTION, _attention),
    ):
        if op in table:
            return count, table[op]
    return None


def _convolution(_node: onnx.NodeProto, out: Shape, shapes: list[Shape]) -> int:
    # Each output value is one dot product over a filter: Cin / groups × kernel.
    return math.prod(out) * math.prod(shapes[1][1:])


def _transposed(_node: onnx.NodeProto, _out: Shape, shapes: list[Shape]) -> int:
    # Each input value is spread over a filter: Cout / groups × kernel.
    return math.prod(shapes[0]) * math.prod(shapes[1][1:])


def _matmul(_node: onnx.NodeProto, out: Shape, shapes: list[Shape]) -> int:
    return math.prod(out) * (shapes[0][-1] if shapes[0] else 1)


def _gemm(_node: onnx.NodeProto, out: Shape, shapes: list[Shape]) -> int:
    rows = out[0] if out else 1
    return math.prod(out) * (math.prod(shapes[0]) // rows if rows else 0)


def _recurrent(_node: onnx.NodeProto, _out: Shape, shapes: list[Shape]) -> int | None:
    # Input and recurrent weights of every gate and direction, once a step and sequence.
    x, w, r = shapes
    if len(x) < 2:  # noqa: PLR2004 - length, batch
        return None
    return x[0] * x[1] * (math.prod(w) + math.prod(r))


def _attention(_node: onnx.NodeProto, _out: Shape, shapes: list[Shape]) -> int | None:
    x, w = shapes
    if len(x) < 3:  # noqa: PLR2004 - batch, length, width
        return None
    batch, length, width = x[:3]
    return batch * (length * width * w[-1] + 2 * length * length * (w[-1] // 3))


def is_depthwise(node: onnx.NodeProto, tensors: Tensors) -> bool:
    """Tell whether a convolution has one input channel a filter, and more than one filter."""
    if node.op_type not in _CONV or len(node.input) <= _CONV[node.op_type][1]:
        return False
    filters = tensors.shapes.get(node.input[_CONV[node.op_type][1]])
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    return bool(filters) and groups > 1 and filters is not None and filters[1] == 1
