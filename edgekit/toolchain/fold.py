"""Fold the arithmetic that graphs do on their own shapes (Shape → Gather → Concat → Reshape)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import onnx

    Values = dict[str, np.ndarray[Any, Any]]

# A shape is short. What is longer is data, and none of our business.
MAX_ELEMENTS = 256

_FOLDABLE = {
    "Add",
    "And",
    "Cast",
    "Ceil",
    "Concat",
    "ConstantOfShape",
    "Div",
    "Equal",
    "Expand",
    "Floor",
    "Gather",
    "Greater",
    "Identity",
    "Less",
    "Max",
    "Min",
    "Mod",
    "Mul",
    "Not",
    "Or",
    "Range",
    "ReduceProd",
    "Reshape",
    "Slice",
    "Squeeze",
    "Sub",
    "Transpose",
    "Unsqueeze",
    "Where",
}


def subgraphs_of(node: onnx.NodeProto) -> list[tuple[str, onnx.GraphProto]]:
    """Return a node's subgraphs by attribute name: ``then_branch``, ``body``."""
    from onnx import AttributeProto

    found = []
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            found.append((attribute.name, attribute.g))
        elif attribute.type == AttributeProto.GRAPHS:
            found += [(attribute.name, g) for g in attribute.graphs]
    return found


def fold_shapes(
    graph: onnx.GraphProto,
    shapes: Mapping[str, tuple[int, ...]],
    outer: Values,
    *,
    opset: int,
    taken: dict[str, str],
) -> bool:
    """Replace nodes that compute small constants by Constant nodes, in place.

    Args:
        graph: Changed in place.
        shapes: What is known so far, by tensor name.
        outer: Constants of the graphs around it.
        opset: Version of the default operator set.
        taken: Gets, by the If's first output, the branch that a constant condition takes.

    Returns:
        Whether any node was replaced.
    """
    from onnx import numpy_helper

    values = dict(outer)
    for tensor in graph.initializer:
        if _count(tensor.dims) <= MAX_ELEMENTS:
            values[tensor.name] = numpy_helper.to_array(tensor)
    changed = False
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value" and _count(attribute.t.dims) <= MAX_ELEMENTS:
                    values[node.output[0]] = numpy_helper.to_array(attribute.t)
            continue
        value = _value(node, shapes, values, opset)
        if value is not None:
            values[node.output[0]] = value
            _replace(node, value)
            changed = True
        if node.op_type == "If" and node.input[0] in values:
            changed |= _settle(node, bool(values[node.input[0]].reshape(-1)[0]), taken)
        for _, subgraph in subgraphs_of(node):
            changed |= fold_shapes(subgraph, shapes, values, opset=opset, taken=taken)
    return changed


def _settle(node: onnx.NodeProto, condition: bool, taken: dict[str, str]) -> bool:
    """Let both branches be the one that is taken, so that inference finds one shape."""
    if node.output[0] in taken:
        return False
    branches = dict(subgraphs_of(node))
    names = ("then_branch", "else_branch") if condition else ("else_branch", "then_branch")
    taken[node.output[0]] = names[0]
    branches[names[1]].CopyFrom(branches[names[0]])
    return True


def _count(dims: Any) -> int:  # noqa: ANN401 - a protobuf sequence
    count = 1
    for dim in dims:
        count *= dim
    return count


def _value(
    node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]], values: Values, opset: int
) -> np.ndarray[Any, Any] | None:
    if node.domain not in ("", "ai.onnx") or len(node.output) != 1:
        return None
    if node.op_type in ("Shape", "Size"):
        shape = shapes.get(node.input[0])
        return None if shape is None else _shape_or_size(node, shape)
    if node.op_type not in _FOLDABLE or not all(i in values for i in node.input if i):
        return None
    result = _evaluate(node, values, opset)
    small = result is not None and result.size <= MAX_ELEMENTS and result.dtype.kind in "biuf"
    return result if small else None


def _shape_or_size(node: onnx.NodeProto, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    import numpy as np

    if node.op_type == "Size":
        return np.array(_count(shape), dtype=np.int64)
    ends = {a.name: a.i for a in node.attribute}
    return np.array(shape[slice(ends.get("start"), ends.get("end"))], dtype=np.int64)


def _evaluate(node: onnx.NodeProto, values: Values, opset: int) -> np.ndarray[Any, Any] | None:
    import onnx
    from onnx.reference import ReferenceEvaluator

    if node.op_type in ("Range", "ConstantOfShape", "Expand") and not _small(node, values):
        return None
    feeds = {name: values[name] for name in node.input if name}
    graph = onnx.helper.make_graph(
        [node],
        "one",
        [onnx.helper.make_tensor_value_info(n, _type(v), v.shape) for n, v in feeds.items()],
        [onnx.helper.make_empty_tensor_value_info(node.output[0])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    try:
        (result,) = ReferenceEvaluator(model).run(None, feeds)
    except (ValueError, TypeError, IndexError, KeyError, RuntimeError, NotImplementedError):
        # Not folded: the shape stays unknown, which the caller reports.
        return None
    import numpy as np

    return np.asarray(result)


def _small(node: onnx.NodeProto, values: Values) -> bool:
    inputs = [values[i] for i in node.input]
    if node.op_type == "Range":
        start, limit, delta = (float(v) for v in inputs)
        return delta != 0 and (limit - start) / delta <= MAX_ELEMENTS
    return _count(int(d) for d in inputs[-1].reshape(-1)) <= MAX_ELEMENTS


def _type(value: np.ndarray[Any, Any]) -> int:
    import onnx

    return int(onnx.helper.np_dtype_to_tensor_dtype(value.dtype))


def _replace(node: onnx.NodeProto, value: np.ndarray[Any, Any]) -> None:
    import onnx

    tensor = onnx.numpy_helper.from_array(value)
    node.CopyFrom(onnx.helper.make_node("Constant", [], [node.output[0]], value=tensor))
