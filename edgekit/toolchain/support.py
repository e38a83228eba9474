"""Which of a graph's operators a target's runtime lacks: onnxruntime is asked, by loading."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.runtime.session import import_onnxruntime, open_session
from edgekit.toolchain.fold import subgraphs_of
from edgekit.toolchain.graph import Graph
from edgekit.toolchain.shapes import Tensors, check_structure, graphs_of, infer_tensors
from edgekit.toolchain.target import Target
from edgekit.wire.errors import BuildError

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Problem:
    """One thing that stands between a model and a target.

    Attributes:
        subject: The operator (``com.vendor.Foo``), ``opset``, or ``model``.
        count: Nodes that it concerns.
        reason: What is wrong, in the runtime's words or ours.
        hint: What to do.
    """

    subject: str
    count: int
    reason: str
    hint: str


def find_problems(graph: Graph, target: Target) -> tuple[Problem, ...]:
    """Return what keeps a model from running on a target; empty if nothing does.

    The operators are tried with the onnxruntime installed here, which may be newer than the
    target's; the target's own limit on the operator set catches that difference.

    Raises:
        BuildError: A node lacks an input or attribute that its operator must have.
        MissingToolError: onnxruntime is not installed.
    """
    check_structure(graph.proto)
    problems = []
    if target.runtime.opset_max and graph.opset > target.runtime.opset_max:
        problems.append(
            Problem(
                subject="opset",
                count=len(graph.proto.graph.node),
                reason=f"opset {graph.opset}, but {target.name} (onnxruntime ≤ "
                f"{target.runtime.onnxruntime_max}) loads up to {target.runtime.opset_max}",
                hint="`edgekit build` lowers it where the operators allow; or export an older one",
            )
        )
    import_onnxruntime()
    try:
        open_session(graph.to_bytes())
    except BuildError as error:
        missing = _missing_operators(graph)
        hint = "replace the operator before export, or keep that part out of the model"
        problems += [Problem(op, count, reason, hint) for op, count, reason in missing]
        if not missing and not problems:
            problems.append(Problem("model", 1, _plain(error.message), "export the model again"))
    return tuple(problems)


def _missing_operators(graph: Graph) -> list[tuple[str, int, str]]:
    """Load every kind of node alone; those that do not load are what the runtime lacks."""
    tensors = infer_tensors(graph.proto)
    counts: Counter[str] = Counter()
    examples: dict[str, onnx.NodeProto] = {}
    for inner in graphs_of(graph.proto.graph):
        for node in inner.node:
            name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            counts[name] += 1
            if not subgraphs_of(node):
                examples.setdefault(name, node)
    found = []
    for name, node in examples.items():
        reason = _refusal(node, graph, tensors)
        if reason:
            found.append((name, counts[name], reason))
    return found


def _refusal(node: onnx.NodeProto, graph: Graph, tensors: Tensors) -> str | None:
    import onnx

    constants = [i for i in graph.proto.graph.initializer if i.name in set(node.input)]
    inputs = [
        onnx.helper.make_tensor_value_info(
            name, tensors.types.get(name) or onnx.TensorProto.FLOAT, tensors.shapes.get(name)
        )
        for name in dict.fromkeys(node.input)
        if name and name not in {i.name for i in constants}
    ]
    outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in node.output if name]
    alone = onnx.helper.make_graph([node], "one", inputs, outputs, constants)
    model = onnx.helper.make_model(
        alone, opset_imports=graph.proto.opset_import, ir_version=graph.proto.ir_version
    )
    try:
        open_session(model.SerializeToString())
    except BuildError as error:
        # A node that is torn from its neighbours may fail in other ways, which say nothing here.
        unknown = ("is not a registered function/op", "No Op registered", "NOT_IMPLEMENTED")
        if any(mark in error.message for mark in unknown):
            return _plain(error.message)
    return None


def _plain(message: str) -> str:
    """Drop onnxruntime's prefixes: ``[ONNXRuntimeError] : 10 : INVALID_GRAPH : …``."""
    message = message.removeprefix("onnxruntime cannot load the model: ")
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", message)
