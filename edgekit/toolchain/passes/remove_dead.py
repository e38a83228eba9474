"""Remove nodes and initializers that no output depends on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.toolchain.passes import _edit

if TYPE_CHECKING:
    import onnx

    from edgekit.toolchain.passes import CanonicalOptions


def apply(proto: onnx.ModelProto, options: CanonicalOptions) -> str | None:  # noqa: ARG001
    """Walk back from the outputs and drop what was not met; subgraphs are left whole."""
    graph = proto.graph
    live = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if live.isdisjoint(node.output):
            continue
        kept.append(node)
        live.update(_edit.reads(node))
    nodes = len(graph.node) - len(kept)
    if nodes:
        _edit.set_nodes(graph, kept[::-1])
    weights = _drop(graph, live)
    notes = [f"{nodes} dead nodes removed"] if nodes else []
    if weights:
        notes.append(f"{weights} unused initializers removed")
    return "; ".join(notes) or None


def _drop(graph: onnx.GraphProto, live: set[str]) -> int:
    kept = [i for i in graph.initializer if i.name in live]
    dropped = len(graph.initializer) - len(kept)
    if dropped:
        del graph.initializer[:]
        graph.initializer.extend(kept)
    sparse = [i for i in graph.sparse_initializer if i.values.name in live]
    dropped += len(graph.sparse_initializer) - len(sparse)
    del graph.sparse_initializer[:]
    graph.sparse_initializer.extend(sparse)
    return dropped
