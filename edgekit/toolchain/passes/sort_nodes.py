"""Put nodes behind what they read: ONNX asks for it, and some exporters do not do it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.toolchain.passes import _edit
from edgekit.wire.errors import BuildError

if TYPE_CHECKING:
    import onnx

    from edgekit.toolchain.passes import CanonicalOptions


def apply(proto: onnx.ModelProto, options: CanonicalOptions) -> str | None:  # noqa: ARG001
    """Move as few nodes as it takes; a graph in order keeps its order.

    Raises:
        BuildError: Nodes read each other's results in a circle.
    """
    graph = proto.graph
    makers = {o: i for i, node in enumerate(graph.node) for o in node.output if o}
    needs = [
        sorted({makers[name] for name in _edit.reads(node) if name in makers})
        for node in graph.node
    ]
    if all(not found or found[-1] < index for index, found in enumerate(needs)):
        return None
    order = _order(needs)
    if len(order) < len(needs):
        raise BuildError("the model's nodes read each other's results in a circle")
    moved = sum(a != b for a, b in enumerate(order))
    nodes = list(graph.node)
    _edit.set_nodes(graph, [nodes[i] for i in order])
    return f"{moved} nodes put into order"


def _order(needs: list[list[int]]) -> list[int]:
    """Visit depth first, without recursion: graphs are thousands of nodes deep."""
    order: list[int] = []
    state = [0] * len(needs)  # 0 not seen, 1 waits for its inputs, 2 placed
    for start in range(len(needs)):
        stack = [start]
        while stack:
            node = stack[-1]
            if state[node] == 2:  # noqa: PLR2004
                stack.pop()
                continue
            waiting = [i for i in needs[node] if state[i] != 2]  # noqa: PLR2004
            if not waiting:
                state[node] = 2
                order.append(stack.pop())
            elif state[node] == 1 and any(state[i] == 1 for i in waiting):
                return order  # a circle
            else:
                state[node] = 1
                stack += reversed(waiting)
    return order
