"""A hypothesis strategy for ONNX graphs as exporters write them, odd ones included.

Every graph is valid and runs in float32; ``graph_steps`` has what it is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import helper, numpy_helper

FLOAT, INT64, BOOL = 1, 7, 9
VOCABULARY = 11
FEEDS = 4
# Enough for every operator, little enough for hundreds of graphs.
MAX_VALUES = 2048
MAX_WEIGHTS = 2048

_SHAPES = [
    *((1, 4, 6, 6), (2, 3, 5, 7), (1, 1, 9, 4), (1, 8, 8, 8), (3, 2, 7, 5), (1, 16, 1, 1)),
    *((1, 3, 11), (2, 4, 9), (3, 5, 6), (1, 2, 4, 5, 3), (2, 16), (1, 7), (5, 12)),
]
_ODD_VALUES = [
    *("/model/層.{0}/Conv_output_0", "a b {0}", "{0}", "x/{0}:0", "ß {0}\n", "v{1}_quantized"),
    *("v{1}_scale", "v{1}_zero_point", "v{1}_QuantizeLinear_Output", "__probe{1}_w", "{0}''\\"),
    *("v{1}__ReduceMin", "v{1}_DequantizeLinear_Output", "v{1}_QuantizeLinear", "v{1}_output"),
]
_ODD_NODES = ["/model/層.{0}/Conv", "node {0}", "{0}", "a:{0}", "v{1}_QuantizeLinear", "__probe{1}"]


@dataclass(frozen=True)
class Case:
    """A graph, what to feed it with, and whether its numbers are of the kind that 8 bits take."""

    proto: Any
    feeds: Sequence[Mapping[str, Any]]
    well_conditioned: bool

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """Show the nodes alone: hypothesis prints a failing example."""
        for n in self.proto.graph.node:
            printer.text(f"\n    {n.op_type}({', '.join(n.input)}) -> {', '.join(n.output)}")
            printer.break_()


@dataclass
class Builder:
    """A graph under way: float values of known shapes, one after the other."""

    draw: Any
    opset: int
    random: np.random.Generator
    node_names: str
    odd_values: bool
    odd_weights: bool
    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, Any] = field(default_factory=dict)
    also_inputs: list[str] = field(default_factory=list)
    values: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    weights: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    inputs: dict[str, tuple[list[int], int]] = field(default_factory=dict)
    conditioned: bool = True
    count: int = 0
    _taken: set[str] = field(default_factory=lambda: {"x", "flag", "ids"})

    def pick(self, *options: Any) -> Any:
        return self.draw(st.sampled_from(options))

    def number(self, low: int, high: int) -> int:
        return int(self.draw(st.integers(low, high)))

    def coin(self) -> bool:
        return bool(self.draw(st.booleans()))

    def name(self) -> str:
        self.count += 1
        name = f"v{self.count}"
        if self.odd_values and self.coin():
            name = self.pick(*_ODD_VALUES).format(self.count, max(1, self.count - 2))
            name = name if name not in self._taken else f"{name}{self.count}"
        self._taken.add(name)
        return name

    def _node_name(self) -> str:
        if self.node_names == "none":
            return ""
        if self.node_names == "same":
            return "layer"
        if self.node_names == "odd":
            return str(self.pick(*_ODD_NODES).format(len(self.nodes), max(1, self.count - 2)))
        return f"node{len(self.nodes)}"

    def emit(self, op: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; its result's name, or their names where there are more."""
        made = [self.name() for _ in range(outputs)]
        self.nodes.append(
            helper.make_node(op, list(inputs), made, name=self._node_name(), **attributes)
        )
        return made[0] if outputs == 1 else made

    def add(self, op: str, inputs: Sequence[str], shape: Sequence[int], **attributes: Any) -> str:
        """Add a node whose result later nodes may read."""
        name = str(self.emit(op, inputs, **attributes))
        self.keep(name, shape)
        return name

    def keep(self, name: str, shape: Sequence[int]) -> None:
        self.values.append((name, tuple(int(d) for d in shape)))

    def constant(self, array: Any) -> str:
        """A constant in one of the ways in which exporters write it."""
        array = np.asarray(array)
        how = self.pick("initializer", "initializer", "node", "behind", "input", "transposed")
        if how == "node":
            return str(self.emit("Constant", [], value=numpy_helper.from_array(array)))
        name = self.name()
        if how == "transposed" and array.ndim > 1:
            order = list(reversed(range(array.ndim)))
            self.constants[name] = np.ascontiguousarray(array.transpose(order))
            return str(self.emit("Transpose", [name], perm=order))
        self.constants[name] = array
        if how == "input":
            self.also_inputs.append(name)
        return str(self.emit("Identity", [name])) if how == "behind" else name

    def weight(self, *shape: int, fan_in: int | None = None, axis: int = 0) -> str:
        """A layer's weights, or those of that shape that another layer has already."""
        shared = [name for name, known in self.weights if known == shape]
        if shared and self.coin():
            return str(self.pick(*shared))
        values = self.random.standard_normal(shape)
        values /= np.sqrt(fan_in or max(1, int(np.prod(shape[1:]))))
        kind = self.pick("normal", "normal", "zero channel", *self.odd_weights * _ODD_WEIGHTS)
        if kind != "normal":
            self.conditioned = self.conditioned and kind == "zero channel"
            _spoil(values, kind, axis)
        name = self.constant(values.astype(np.float32))
        self.weights.append((name, shape))
        return name

    def small(self, *shape: int, scale: float = 0.5) -> str:
        """A bias or the like."""
        return self.constant((self.random.standard_normal(shape) * scale).astype(np.float32))

    def value(self, *ranks: int) -> tuple[str, tuple[int, ...]] | None:
        """A value of one of these ranks, most often the last; None where there is none."""
        fitting = [v for v in self.values if not ranks or len(v[1]) in ranks]
        if not fitting:
            return None
        return fitting[-1] if self.number(0, 3) else self.pick(*fitting)

    def input(self, name: str, shape: Sequence[int], element: int) -> str:
        self.inputs[name] = (list(shape), element)
        return name


_ODD_WEIGHTS = ("huge channel", "tiny", "constant", "zero", "outlier")


def _spoil(values: Any, kind: str, axis: int) -> None:
    """Make weights of a kind that scales stumble over."""
    first = [slice(None)] * values.ndim
    first[axis] = slice(0, 1)
    if kind == "zero channel":
        values[tuple(first)] = 0
    elif kind == "huge channel":
        values[tuple(first)] *= 1e4
    elif kind == "tiny":
        values *= 1e-9
    elif kind == "constant":
        values[...] = 0.25
    elif kind == "zero":
        values[...] = 0
    else:
        values.reshape(-1)[0] = 50


@st.composite
def graphs(draw: Any, steps: Sequence[Callable[[Builder], None]]) -> Case | None:
    """Draw a graph; None where the steps made nothing."""
    opset, shape = draw(st.integers(11, 21)), draw(st.sampled_from(_SHAPES))
    b = Builder(
        draw,
        opset,
        np.random.default_rng(draw(st.integers(0, 2**16))),
        node_names=draw(st.sampled_from(["plain", "none", "same", "odd"])),
        odd_values=draw(st.booleans()),
        odd_weights=draw(st.integers(0, 2)) == 0,
        values=[("x", shape)],
    )
    b.input("x", shape, FLOAT)
    for step in draw(st.lists(st.sampled_from(steps), min_size=3, max_size=8)):
        step(b)
    made = b.values[1:]
    if not made:
        return None
    read = {name for node in b.nodes for name in node.input}
    leaves = [v for v in made if v[0] not in read][-3:]
    more = draw(st.lists(st.sampled_from(made), max_size=2)) + leaves
    old = opset < 14 and b.coin() and all(n.op_type != "If" for n in b.nodes)
    proto = _model(b, dict([*more, made[-1]]), dynamic=b.coin(), old=old)
    return Case(proto, _feeds(b), b.conditioned)


def _model(b: Builder, outputs: Mapping[str, Sequence[int]], *, dynamic: bool, old: bool) -> Any:
    def info(name: str, shape: Sequence[Any], element: int = FLOAT) -> Any:
        return helper.make_tensor_value_info(name, element, shape)

    constants = [numpy_helper.from_array(np.asarray(v), n) for n, v in b.constants.items()]
    inputs = [
        info(name, [f"n_{name}", *shape[1:]] if dynamic and shape else shape, element)
        for name, (shape, element) in b.inputs.items()
    ]
    # Exporters of the first years listed every weight among the inputs.
    listed = list(b.constants) if old else b.also_inputs
    inputs += [info(c.name, list(c.dims), c.data_type) for c in constants if c.name in set(listed)]
    ports = {*outputs, *b.inputs}
    results = [
        info(name, [None] * len(shape) if dynamic else shape)
        for name, shape in outputs.items()
        # A writer names a value's scale after it: such a pair of outputs is beyond help.
        if not any(name.startswith(f"{port}_") for port in ports)
    ]
    proto = helper.make_model(
        helper.make_graph(b.nodes, "generated", inputs, results, constants),
        opset_imports=[helper.make_opsetid("", b.opset)],
        ir_version=3 if old else 10 if b.opset > 20 else 8,
    )
    onnx.checker.check_model(proto)
    return proto


def _feeds(b: Builder) -> list[dict[str, Any]]:
    kind = b.pick("normal", "normal", "image", "bytes", "silence")
    feeds = []
    for index in range(FEEDS):
        feed: dict[str, Any] = {}
        for name, (shape, element) in b.inputs.items():
            if element == BOOL:
                feed[name] = np.array(index % 2 == 0)
            elif element == INT64:
                feed[name] = b.random.integers(0, VOCABULARY, shape)
            elif kind in ("image", "bytes"):
                feed[name] = b.random.random(shape) * (255 if kind == "bytes" else 1)
            else:
                feed[name] = b.random.standard_normal(shape) * (kind == "normal" or index > 0)
            if element == FLOAT:
                feed[name] = feed[name].astype(np.float32)
        feeds.append(feed)
    return feeds
