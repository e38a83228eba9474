"""Small graphs for the tests of passes, and whether two graphs answer alike."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgekit.runtime.session import open_session, runner
from edgekit.toolchain.graph import Graph, serialize
from edgekit.toolchain.passes import CanonicalOptions

FLOAT, UINT8, INT32, INT64, BOOL = 1, 2, 6, 7, 9
Shape = Sequence[int | str | None] | None


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> Any:
    return helper.make_node(op, inputs, outputs, **attributes)


def value(name: str, shape: Shape = None, element: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, element, shape)


def model(
    nodes: Sequence[Any],
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any] | Sequence[str],
    constants: Mapping[str, Any] | None = None,
    opset: int = 17,
) -> Any:
    """Make a checked model; an input is a shape, or a pair of shape and element type."""

    def info(name: str, given: Any) -> Any:
        shape, element = given if isinstance(given, tuple) else (given, FLOAT)
        return value(name, shape, element)

    known = outputs if isinstance(outputs, Mapping) else dict.fromkeys(outputs)
    graph = helper.make_graph(
        nodes,
        "test",
        [info(n, s) for n, s in inputs.items()],
        [
            info(n, s) if s is not None else helper.make_empty_tensor_value_info(n)
            for n, s in known.items()
        ],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()],
    )
    proto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10 if opset > 20 else 8
    )
    typed = onnx.shape_inference.infer_shapes(proto)
    for mine, found in zip(proto.graph.output, typed.graph.output, strict=True):
        if not mine.type.HasField("tensor_type"):
            mine.CopyFrom(found)
    onnx.checker.check_model(proto)
    return proto


def branch(name: str, nodes: Sequence[Any], outputs: Sequence[Any], constants: Any = None) -> Any:
    return helper.make_graph(
        nodes,
        name,
        [],
        outputs,
        [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()],
    )


def apply(name: str, proto: Any, **options: Any) -> str | None:
    """Run one pass in place; what it leaves must be valid and load."""
    module = importlib.import_module(f"edgekit.toolchain.passes.{name}")
    note: str | None = module.apply(proto, CanonicalOptions(**options))
    onnx.checker.check_model(proto)
    open_session(serialize(proto), level="ORT_DISABLE_ALL")
    return note


def copy(proto: Any) -> Any:
    other = onnx.ModelProto()
    other.CopyFrom(proto)
    return other


def run(proto: Any, feeds: Mapping[str, Any]) -> dict[str, Any]:
    return runner(open_session(serialize(proto), level="ORT_DISABLE_ALL"))(feeds)


def assert_same(
    before: Any, after: Any, feeds: Mapping[str, Any], *, relative: float = 1e-5
) -> None:
    """Both give the same outputs, in name, type, shape and value."""
    expected, found = run(before, feeds), run(after, feeds)
    assert list(expected) == list(found)
    for name, wanted in expected.items():
        got = found[name]
        assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape), name
        if wanted.dtype.kind != "f":
            np.testing.assert_array_equal(got, wanted, err_msg=name)
            continue
        scale = float(np.abs(wanted).max(initial=0.0)) or 1.0
        np.testing.assert_allclose(got, wanted, rtol=0, atol=relative * scale, err_msg=name)


def ops(proto: Any) -> Counter[str]:
    return Counter(n.op_type for n in proto.graph.node)


def constant(proto: Any, name: str) -> Any:
    found = {i.name: i for i in proto.graph.initializer}
    return numpy_helper.to_array(found[name])


def floats(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def graph_of(proto: Any) -> Graph:
    return Graph.of(copy(proto))
