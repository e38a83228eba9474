"""Whatever the graph: canonicalise and optimize keep what it computes, and leave it loadable."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from onnx import helper

from edgekit.toolchain.passes import CanonicalOptions, canonicalise, optimize

from .pass_graphs import (
    BOOL,
    INT64,
    assert_same,
    branch,
    floats,
    graph_of,
    model,
    node,
    value,
)


@dataclass
class _Builder:
    """A graph under way: one float value of a known shape after the other."""

    draw: Any
    opset: int
    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, Any] = field(default_factory=dict)
    values: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    count: int = 0

    def name(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def constant(self, array: Any) -> str:
        """An initializer, a Constant node, or an initializer behind an Identity."""
        array = np.asarray(array)
        how = self.draw(st.sampled_from(["initializer", "node", "behind"]))
        name = self.name()
        if how == "node":
            tensor = helper.make_tensor(
                name,
                helper.np_dtype_to_tensor_dtype(array.dtype),
                array.shape,
                array.ravel().tolist(),
            )
            self.nodes.append(node("Constant", [], [name], value=tensor))
            return name
        self.constants[name] = array
        if how == "initializer":
            return name
        other = self.name()
        self.nodes.append(node("Identity", [name], [other]))
        return other

    def weight(self, *shape: int) -> str:
        """A new constant, or one of that shape that another layer has already."""
        shared = [n for n, a in self.constants.items() if a.shape == shape and a.dtype.kind == "f"]
        if shared and self.draw(st.booleans()):
            return str(self.draw(st.sampled_from(shared)))
        return self.constant(floats(*shape, seed=self.count) * 0.5)

    def add(self, op: str, inputs: list[str], shape: tuple[int, ...], **attributes: Any) -> str:
        name = self.name()
        self.nodes.append(node(op, inputs, [name], **attributes))
        self.values.append((name, shape))
        return name

    def last(self, rank: int | None = None) -> tuple[str, tuple[int, ...]] | None:
        fitting = [v for v in self.values if rank is None or len(v[1]) == rank]
        if not fitting:
            return None
        return fitting[-1] if self.draw(st.integers(0, 3)) else self.draw(st.sampled_from(fitting))


def _conv(b: _Builder) -> None:
    found = b.last(4)
    if found is None:
        return
    x, (n, c, h, w) = found
    groups = b.draw(st.sampled_from([g for g in (1, 2, c) if c % g == 0]))
    cout = groups * b.draw(st.integers(1, 2))
    kernel, dilation, stride, pad = (b.draw(st.integers(1, m)) for m in (3, 2, 2, 2))
    reach = dilation * (kernel - 1)
    if min(h, w) + 2 * (pad - 1) <= reach:
        return
    sizes = [(s + 2 * (pad - 1) - reach - 1) // stride + 1 for s in (h, w)]
    inputs = [x, b.weight(cout, c // groups, kernel, kernel)]
    if b.draw(st.booleans()):
        inputs.append(b.weight(cout))
    b.add(
        "Conv",
        inputs,
        (n, cout, *sizes),
        group=groups,
        dilations=[dilation] * 2,
        strides=[stride] * 2,
        pads=[pad - 1] * 4,
    )


def _batch_norm(b: _Builder) -> None:
    found = b.last(4)
    if found is not None:
        c = found[1][1]
        names = [b.weight(c) for _ in range(3)] + [b.constant(np.abs(floats(c)) + 0.2)]
        b.add("BatchNormalization", [found[0], *names], found[1])


def _gemm(b: _Builder) -> None:
    found = b.last(2)
    if found is None:
        return
    x, (m, k) = found
    n = b.draw(st.integers(1, 4))
    trans_b = b.draw(st.booleans())
    inputs = [x, b.weight(*((n, k) if trans_b else (k, n)))]
    shapes = [None, (n,), (1, n), (m, n), (1,)] + ([()] if b.opset >= 13 else [])
    shape = b.draw(st.sampled_from(shapes))
    if shape is not None:
        inputs.append(b.constant(floats(*shape)))
    alpha, beta = (b.draw(st.sampled_from([1.0, 0.5])) for _ in range(2))
    b.add("Gemm", inputs, (m, n), transB=int(trans_b), alpha=alpha, beta=beta)


def _flatten(b: _Builder) -> None:
    found = b.last(4)
    if found is not None:
        x, (n, *rest) = found
        b.add("Flatten", [x], (n, int(np.prod(rest))))


def _matmul(b: _Builder) -> None:
    found = b.last()
    if found is not None and len(found[1]) > 1:
        n = b.draw(st.integers(1, 4))
        b.add("MatMul", [found[0], b.weight(found[1][-1], n)], (*found[1][:-1], n))


def _scalar(b: _Builder) -> None:
    found = b.last()
    if found is None:
        return
    x, shape = found
    value_ = b.draw(st.sampled_from([0.0, 1.0, 2.0, 3.0, 6.0, -0.5]))
    dims = b.draw(st.sampled_from([(), (1,), (1,) * len(shape)]))
    op = b.draw(st.sampled_from(["Add", "Sub", "Mul", "Div"]))
    value_ = value_ or (1.0 if op == "Div" else 0.0)
    operands = [x, b.constant(np.full(dims, value_, np.float32))]
    if op != "Div" and b.draw(st.booleans()):
        operands.reverse()
    b.add(op, operands, shape)


def _per_channel(b: _Builder) -> None:
    found = b.last(4)
    if found is not None:
        shape = b.draw(st.sampled_from([(1, found[1][1], 1, 1), (found[1][1], 1, 1)]))
        b.add(b.draw(st.sampled_from(["Add", "Mul"])), [found[0], b.weight(*shape)], found[1])


def _pointwise(b: _Builder) -> None:
    found = b.last()
    if found is not None:
        op = b.draw(st.sampled_from(["Relu", "Identity", "Dropout", "Sigmoid", "Neg", "Tanh"]))
        b.add(op, [found[0]], found[1])


def _hard_swish(b: _Builder) -> None:
    found = b.last()
    if found is None:
        return
    x, shape = found
    three, six, zero = (b.constant(np.float32(v)) for v in (3, 6, 0))
    moved = b.add("Add", [x, three], shape)
    clipped = b.add("Clip", [moved, zero, six], shape)
    gated = b.add("Mul", [x, clipped], shape)
    b.add("Div", [gated, six], shape)


def _block(b: _Builder) -> None:
    """What real networks are made of: a scaled input, a layer, a norm, an activation."""
    for step in (_scalar, _scalar, _conv, _batch_norm, _per_channel, _hard_swish):
        if b.draw(st.booleans()):
            step(b)


def _reshape(b: _Builder) -> None:
    """By a shape computed from the data's own: Shape, Gather, Concat."""
    found = b.last()
    if found is None or len(found[1]) < 2:
        return
    x, shape = found
    dims, first = b.name(), b.name()
    b.nodes.append(node("Shape", [x], [dims]))
    b.nodes.append(node("Gather", [dims, b.constant(np.array([0]))], [first], axis=0))
    target = b.name()
    b.nodes.append(node("Concat", [first, b.constant(np.array([-1]))], [target], axis=0))
    b.add("Reshape", [x, target], (shape[0], int(np.prod(shape[1:]))))


def _transpose(b: _Builder) -> None:
    found = b.last()
    if found is not None:
        order = b.draw(st.permutations(range(len(found[1]))))
        b.add("Transpose", [found[0]], tuple(found[1][i] for i in order), perm=list(order))


def _softmax(b: _Builder) -> None:
    found = b.last()
    if found is not None and found[1]:
        axis = b.draw(st.integers(0, len(found[1]) - 1))
        b.add("Softmax", [found[0]], found[1], axis=axis)


def _branch(b: _Builder) -> None:
    """An If on a constant, on a known shape, or on an input; it reads outer values."""
    found = b.last()
    if found is None:
        return
    x, shape = found
    how = b.draw(st.sampled_from(["constant", "shape", "input"]))
    if how == "constant":
        condition = b.constant(np.array(b.draw(st.booleans())))
    elif how == "shape":
        size, condition = b.name(), b.name()
        b.nodes.append(node("Size", [x], [size]))
        b.nodes.append(node("Equal", [size, b.constant(np.array(6))], [condition]))
    else:
        condition = "flag"
    half = helper.make_tensor("half", 1, [], [0.5])
    b.add(
        "If",
        [condition],
        shape,
        then_branch=branch(
            "then",
            [node("Constant", [], ["k"], value=half), node("Mul", [x, "k"], ["r"])],
            [value("r", list(shape))],
        ),
        else_branch=branch("else", [node("Neg", [x], ["r"])], [value("r", list(shape))]),
    )


def _loop(b: _Builder) -> None:
    found = b.last()
    if found is None:
        return
    x, shape = found
    step = b.weight(1)
    body = helper.make_graph(
        [node("Identity", ["go"], ["again"]), node("Add", ["state", step], ["next"])],
        "body",
        [value("i", [], INT64), value("go", [], BOOL), value("state", list(shape))],
        [value("again", [], BOOL), value("next", list(shape))],
    )
    times, yes = b.constant(np.array(3)), b.constant(np.array(True))
    b.add("Loop", [times, yes, x], shape, body=body)


_STEPS = [
    *(_conv, _conv, _batch_norm, _gemm, _flatten, _matmul, _scalar, _scalar, _per_channel),
    *(
        _block,
        _block,
        _block,
        _pointwise,
        _hard_swish,
        _reshape,
        _transpose,
        _softmax,
        _branch,
        _loop,
    ),
]


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_what_a_graph_computes_never_changes(data: st.DataObject) -> None:
    opset = data.draw(st.integers(11, 21), label="opset")
    shape = data.draw(st.sampled_from([(1, 4, 6, 6), (2, 3, 5, 4), (2, 6)]), label="shape")
    b = _Builder(data.draw, opset, values=[("x", shape)])
    for step in data.draw(st.lists(st.sampled_from(_STEPS), min_size=1, max_size=10)):
        step(b)
    made = [name for name, _ in b.values[1:]]
    if not made:
        return
    extra = data.draw(st.lists(st.sampled_from(made), max_size=2, unique=True), label="outputs")
    shapes = dict(b.values)
    outputs = {name: list(shapes[name]) for name in dict.fromkeys([*extra, made[-1]])}
    dynamic: list[Any] = list(shape)
    if data.draw(st.booleans(), label="dynamic batch"):
        dynamic[0] = "n"
        for dims in outputs.values():
            dims[:] = [None] * len(dims)
    proto = model(b.nodes, {"x": dynamic, "flag": ([], BOOL)}, outputs, b.constants, opset=opset)
    static = data.draw(st.booleans(), label="static")
    options = CanonicalOptions(shapes={"x": list(shape)} if static else {}, opset=17, opset_max=23)
    graph, notes = canonicalise(graph_of(proto), options)
    small, more = optimize(graph)
    for note in (*notes, *more):
        event(note.name)
        if note.name == "raise_opset":
            event(note.text)
    assert small.opset >= min(opset, 17)
    assert small.input_names == ["x", "flag"]
    again, notes = optimize(small)
    assert again.to_bytes() == small.to_bytes(), notes
    for flag in (True, False):
        feeds = {"x": floats(*shape), "flag": np.array(flag)}
        for after in (graph, small):
            assert_same(proto, after.proto, feeds, relative=2e-4)
