"""Replace an If whose condition is constant by the branch that it always takes.

Quantizers do not look into branches: a model whose layers stand in one comes out unquantized.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.toolchain.passes import _edit

if TYPE_CHECKING:
    import onnx

    from edgekit.toolchain.passes import CanonicalOptions


def apply(proto: onnx.ModelProto, options: CanonicalOptions) -> str | None:  # noqa: ARG001
    """Splice constant branches of the main graph; Ifs inside them come up for the next round."""
    graph = proto.graph
    constants = _edit.initializers(graph)
    taken = _edit.all_names(graph)
    nodes: list[onnx.NodeProto] = []
    count = 0
    for node in graph.node:
        if node.op_type != "If" or not _edit.is_standard(node) or node.input[0] not in constants:
            nodes.append(node)
            continue
        condition = bool(_edit.to_array(constants[node.input[0]]).reshape(-1)[0])
        branch = _edit.attribute(node, "then_branch" if condition else "else_branch")
        nodes += _splice(graph, node, branch, taken)
        count += 1
    if not count:
        return None
    _edit.set_nodes(graph, nodes)
    return f"{count} If nodes with a constant condition inlined"


def _splice(
    graph: onnx.GraphProto, node: onnx.NodeProto, branch: onnx.GraphProto, taken: set[str]
) -> list[onnx.NodeProto]:
    """Return the branch's nodes under names of their own; its constants go to the outer graph."""
    import onnx

    body = onnx.GraphProto()
    body.CopyFrom(branch)
    own = [i.name for i in body.initializer] + [o for n in body.node for o in n.output if o]
    # Both branches, and the branches of other Ifs, may use the same names.
    names = {name: _edit.unique(f"{node.output[0]}/{name}", taken) for name in own}
    for tensor in body.initializer:
        tensor.name = names[tensor.name]
    for inner in body.node:
        inner.name = ""  # ONNX Runtime refuses two nodes of one name; tidy gives it a new one
        for index, name in enumerate(inner.output):
            inner.output[index] = names.get(name, name)
    _edit.rename_reads(body, names)
    graph.initializer.extend(body.initializer)
    results = [
        onnx.helper.make_node("Identity", [names.get(inside.name, inside.name)], [outside])
        for inside, outside in zip(body.output, node.output, strict=True)
        if outside
    ]
    return [*body.node, *results]
