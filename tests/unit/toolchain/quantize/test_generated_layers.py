"""Whatever the graph: the passes keep what it computes, and every layer with constants is found.

The graphs are drawn by ``generated_graphs``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from hypothesis import HealthCheck, event, given, settings

from edgekit.runtime.session import Run, open_session, runner
from edgekit.toolchain.compare import compare_outputs
from edgekit.toolchain.graph import Graph
from edgekit.toolchain.passes import CanonicalOptions, canonicalise, optimize
from edgekit.toolchain.quantize.layers import find_layers
from edgekit.toolchain.stages import MAX_CANONICAL_ERROR
from edgekit.wire.errors import BuildError

from .generated_graphs import Case, graphs
from .graph_steps import STEPS


def layers_with_constants(proto: Any) -> set[str]:
    """Names of nodes that multiply data with a constant, wherever the constant comes from."""
    varies = {i.name for i in proto.graph.input} - {i.name for i in proto.graph.initializer}
    for node in proto.graph.node:
        inner = any(a.type == onnx.AttributeProto.GRAPH for a in node.attribute)
        if inner or varies.intersection(node.input):
            varies.update(node.output)
    return {
        node.name
        for node in proto.graph.node
        if node.op_type in ("Conv", "MatMul", "Gemm")
        and node.input[0] in varies
        and node.input[1] not in varies
    }


def reference(source: Graph, feeds: Sequence[Mapping[str, Any]]) -> Run | None:
    """The graph as it comes; None where onnxruntime's optimizer makes another of it.

    It joins a Pad with a MaxPool that does not take it, and turns a matrix before a vector.
    """
    run = runner(open_session(source.to_bytes(), level="ORT_DISABLE_ALL"))
    try:
        optimized = runner(open_session(source.to_bytes()))
    except BuildError:
        return None
    differences = compare_outputs(run, optimized, feeds)
    return run if all(d.relative_l2 <= MAX_CANONICAL_ERROR for d in differences) else None


def check(case: Case, path: Path) -> None:
    """Take a graph through the passes, as it comes from a file."""
    path.write_bytes(case.proto.SerializeToString())
    source = Graph.load(path)
    run = reference(source, case.feeds)
    if run is None:
        event("onnxruntime's own optimizer breaks it")
        return
    assert all(np.isfinite(v).all() for feed in case.feeds for v in run(feed).values())

    graph, notes = canonicalise(source, CanonicalOptions(opset_max=26))
    graph, more = optimize(graph)
    for note in (*notes, *more):
        event(note.name)
    after = runner(open_session(graph.to_bytes()))
    for difference in compare_outputs(run, after, case.feeds):
        assert difference.relative_l2 <= MAX_CANONICAL_ERROR, difference
    layers = [layer.name for layer in find_layers(graph.proto)]
    assert len(layers) == len(set(layers))
    assert set(layers) == layers_with_constants(graph.proto)
    event(f"layers: {len(layers)}")


@settings(
    max_examples=500,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(case=graphs(STEPS))
def test_every_layer_of_any_graph_is_found(case: Case | None) -> None:
    if case is not None:
        with tempfile.TemporaryDirectory() as folder:
            check(case, Path(folder) / "model.onnx")
