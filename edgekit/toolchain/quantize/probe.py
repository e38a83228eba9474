"""A graph that tells of its tensors only what calibration asks: extremes, sizes and some values.

All of it is taken inside the graph: an activation is freed as soon as its last reader has run, and
nothing larger than a few values a tensor leaves onnxruntime, however large the graph.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.runtime.session import open_session
from edgekit.toolchain.graph import Graph, serialize
from edgekit.toolchain.passes import _edit

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_FLOAT, _INT64 = 1, 7  # onnx.TensorProto
_END = 2**62


@dataclass(frozen=True)
class Seen:
    """What one run told, tensor by tensor in the order of their names.

    Attributes:
        low: float32, smallest values.
        high: float32, largest values.
        finite: bool, no value is NaN or infinite.
        sizes: int64, numbers of values.
        values: The values at every step-th place from a start, one 1-D array a tensor.
    """

    low: Array
    high: Array
    finite: Array
    sizes: Array
    values: Sequence[Array]


class Probe:
    """A session of a graph that reports on some of its tensors."""

    def __init__(self, graph: Graph, tensors: Sequence[str]) -> None:
        proto = graph.copy()
        self._count = len(tensors)
        self._stem = _edit.unique("__calibrate", {n[:11] for n in _edit.all_names(proto.graph)})
        _add_reports(proto, tensors, self._stem)
        data = serialize(proto)
        del proto  # one copy of the weights less while onnxruntime makes its own
        self._session = open_session(data, threads=1)

    def run(self, feed: Any, starts: Array | None = None, steps: Array | None = None) -> Seen:  # noqa: ANN401
        """Run the graph.

        Args:
            feed: The graph's inputs.
            starts: int64, the place of each tensor's first value to return; None for its first.
            steps: int64, how far apart the returned values are; None returns one.
        """
        import numpy as np

        count = self._count
        starts = np.zeros(count, dtype=np.int64) if starts is None else starts
        steps = np.full(count, _END, dtype=np.int64) if steps is None else steps
        places = dict(feed)
        for index in range(count):
            places[f"{self._stem}_start{index}"] = starts[index : index + 1]
            places[f"{self._stem}_step{index}"] = steps[index : index + 1]
        outputs = self._session.run(None, places)
        low, high, total, sizes = (
            np.concatenate(outputs[i * count : (i + 1) * count]) for i in range(4)
        )
        # onnxruntime's extremes pass over a NaN that is not the first value; a sum does not.
        good = np.isfinite(low) & np.isfinite(high) & ~np.isnan(total)
        return Seen(low, high, good, sizes, outputs[4 * count :])


def step_of(size: int, most: int) -> int:
    """Return how far apart values are taken so that no more than a number of them is.

    The smallest step that will do and that shares no factor with the size. Systematic samples
    mislead where the step meets a period (Cochran, Sampling Techniques, 1977, section 8.7); the
    periods of a tensor in memory are products of its dimensions.
    """
    step = max(1, -(-size // most))
    while math.gcd(step, size) > 1:
        step += 1
    return step


def _add_reports(proto: Any, tensors: Sequence[str], stem: str) -> None:  # noqa: ANN401
    """Let a graph give nothing but what the probe asks.

    Each answer is an output of its own: onnxruntime plans memory for what is joined, which takes it
    longer than all else where hundreds of tensors are.
    """
    from onnx import helper

    graph, make = proto.graph, helper.make_node
    types = {i.name: i.type.tensor_type.elem_type for i in graph.input}
    for name, value in (("all", -1), ("end", _END), ("axis", 0)):
        graph.initializer.append(helper.make_tensor(f"{stem}_{name}", _INT64, [1], [value]))
    for index, tensor in enumerate(tensors):
        source, flat = tensor, f"{stem}_flat{index}"
        start, step = f"{stem}_start{index}", f"{stem}_step{index}"
        for name in (start, step):
            graph.input.append(helper.make_tensor_value_info(name, _INT64, [1]))
        if types.get(tensor, _FLOAT) != _FLOAT:
            source = f"{stem}_float{index}"
            graph.node.append(make("Cast", [tensor], [source], to=_FLOAT))
        slice_inputs = [flat, start, f"{stem}_end", f"{stem}_axis", step]
        graph.node.extend(
            [
                make("Reshape", [source, f"{stem}_all"], [flat]),
                make("ReduceMin", [flat], [f"{stem}_low{index}"], keepdims=1),
                make("ReduceMax", [flat], [f"{stem}_high{index}"], keepdims=1),
                make("ReduceL1", [flat], [f"{stem}_total{index}"], keepdims=1),
                make("Shape", [flat], [f"{stem}_size{index}"]),
                make("Slice", slice_inputs, [f"{stem}_value{index}"]),
            ]
        )
    del graph.output[:]
    for part in ("low", "high", "total", "size", "value"):
        graph.output.extend(
            helper.make_empty_tensor_value_info(f"{stem}_{part}{index}")
            for index in range(len(tensors))
        )
