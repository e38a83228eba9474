"""More steps of generated graphs: shapes, pooling, norms, recurrence and control flow."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from .generated_graphs import BOOL, FLOAT, INT64, MAX_VALUES, Builder


def _ints(b: Builder, *values: int) -> str:
    return b.constant(np.array(values, np.int64))


def pool(b: Builder) -> None:
    found = b.value(3, 4, 5)
    if found is None:
        return
    x, (n, c, *sizes) = found
    if any(n.op_type == "Pad" and x in n.output for n in b.nodes):
        return  # onnxruntime 1.31 joins the two, and its pool then refuses pads of a kernel's size
    op = b.pick("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
    if op.startswith("Global"):
        b.add(op, [x], (n, c, *[1] * len(sizes)))
        return
    kernel, strides = [b.number(1, 3) for _ in sizes], [b.number(1, 2) for _ in sizes]
    pads = [b.number(0, k - 1) for k in [*kernel, *kernel]]
    rank = len(sizes)
    after = [
        (s + pads[i] + pads[i + rank] - kernel[i]) // strides[i] + 1 for i, s in enumerate(sizes)
    ]
    if min(after) < 1:
        return
    more = {"count_include_pad": 1} if op == "AveragePool" and b.coin() else {}
    b.add(op, [x], (n, c, *after), kernel_shape=kernel, strides=strides, pads=pads, **more)


def resize(b: Builder) -> None:
    found = b.value(4)
    if found is None:
        return
    x, (n, c, h, w) = found
    scales = [b.pick(1, 2, 3), b.pick(1, 2)]
    shape = (n, c, h * scales[0], w * scales[1])
    if np.prod(shape) > MAX_VALUES:
        return
    empty = b.constant(np.zeros(0, np.float32)) if b.opset < 13 or b.coin() else ""
    inputs = [x, empty, b.constant(np.array([1, 1, *scales], np.float32))]
    if b.coin():
        inputs = [x, empty, b.constant(np.zeros(0, np.float32)) if b.opset < 13 else ""]
        inputs.append(_ints(b, *shape))
    mode, corners = b.pick(("nearest", "asymmetric"), ("linear", "half_pixel"))
    b.add("Resize", inputs, shape, mode=mode, coordinate_transformation_mode=corners)


def softmax(b: Builder) -> None:
    found = b.value()
    # Over one element it is 1, and onnxruntime 1.31's QLinearSoftmax gives 0.
    axes = [i for i, d in enumerate(found[1]) if d > 1] if found is not None else []
    if found is not None and axes:
        axis = b.pick(*axes)
        b.add("Softmax", [found[0]], found[1], axis=axis - b.coin() * len(found[1]))


def flatten(b: Builder) -> None:
    found = b.value(3, 4, 5)
    if found is not None:
        axis = b.number(1, len(found[1]) - 1)
        shape = (int(np.prod(found[1][:axis])), int(np.prod(found[1][axis:])))
        b.add("Flatten", [found[0]], shape, axis=axis)


def reshape(b: Builder) -> None:
    """To a constant shape, or to one that is computed from the data's own."""
    found = b.value(2, 3, 4, 5)
    if found is None:
        return
    x, shape = found
    rest = int(np.prod(shape[1:]))
    how = b.pick("flat", "computed", "split", "merge")
    if how == "computed":
        first = b.emit("Gather", [b.emit("Shape", [x]), _ints(b, 0)], axis=0)
        target = b.emit("Concat", [first, _ints(b, -1)], axis=0)
        b.add("Reshape", [x, target], (shape[0], rest))
    elif how == "split":
        by = b.pick(*[d for d in (1, 2, 3, 4) if rest % d == 0])
        b.add("Reshape", [x, _ints(b, 0, by, -1)], (shape[0], by, rest // by))
    elif how == "merge":
        b.add("Reshape", [x, _ints(b, -1, shape[-1])], (shape[0] * rest // shape[-1], shape[-1]))
    else:
        b.add("Reshape", [x, _ints(b, 0, -1)], (shape[0], rest))


def transpose(b: Builder) -> None:
    found = b.value(2, 3, 4, 5)
    if found is not None:
        order = [int(i) for i in b.random.permutation(len(found[1]))]
        b.add("Transpose", [found[0]], [found[1][i] for i in order], perm=order)


def unsqueeze(b: Builder) -> None:
    found = b.value(1, 2, 3)
    if found is None:
        return
    axis = b.number(1, len(found[1]))
    shape = (*found[1][:axis], 1, *found[1][axis:])
    if b.opset < 13:
        b.add("Unsqueeze", [found[0]], shape, axes=[axis])
    else:
        b.add("Unsqueeze", [found[0], _ints(b, axis)], shape)


def reduce_mean(b: Builder) -> None:
    found = b.value(2, 3, 4)
    if found is None:
        return
    axis, keep = b.number(1, len(found[1]) - 1), b.number(0, 1)
    shape = [d for i, d in enumerate(found[1]) if i != axis or keep]
    if keep:
        shape[axis] = 1
    if b.opset < 18:
        b.add("ReduceMean", [found[0]], shape, axes=[axis], keepdims=keep)
    else:
        b.add("ReduceMean", [found[0], _ints(b, axis)], shape, keepdims=keep)


def split(b: Builder) -> None:
    found = b.value(2, 3, 4)
    if found is None or found[1][1] < 2:
        return
    x, shape = found
    b.conditioned = False  # a part may be quieter than a step of the whole
    first = b.number(1, shape[1] - 1)
    sizes = (first, shape[1] - first)
    if b.opset < 13:
        made = b.emit("Split", [x], 2, axis=1, split=sizes)
    else:
        made = b.emit("Split", [x, _ints(b, *sizes)], 2, axis=1)
    for name, size in zip(made, sizes, strict=True):
        b.keep(name, (shape[0], size, *shape[2:]))


def pad(b: Builder) -> None:
    found = b.value(3, 4)
    if found is None:
        return
    x, shape = found
    pads = [0, 0, *(b.number(0, 2) for _ in shape[2:])]
    after = [d + 2 * p for d, p in zip(shape, pads, strict=True)]
    if np.prod(after) <= MAX_VALUES:
        more = [b.constant(np.float32(0))] if b.coin() else []
        b.add("Pad", [x, _ints(b, *pads, *pads), *more], after)


def norm(b: Builder) -> None:
    """Over the last axis or the picture: only where it is wide enough to have a variance."""
    found = b.value(3, 4)
    if found is None or found[1][-1] < 4:
        return
    x, shape = found
    b.conditioned = False  # they make a quiet channel as loud as the others
    if b.opset >= 17 and b.coin():
        scale = b.constant(np.ones(shape[-1], np.float32))
        b.add("LayerNormalization", [x, scale, b.small(shape[-1])], shape, axis=-1)
    else:
        scale = b.constant(np.ones(shape[1], np.float32))
        b.add("InstanceNormalization", [x, scale, b.small(shape[1])], shape)


def recurrent(b: Builder) -> None:
    """LSTM or GRU over [sequence, batch, input], with and without what is optional."""
    found = b.value(3)
    if found is None:
        return
    x, (length, batch, width) = found
    op, gates = b.pick(("LSTM", 4), ("GRU", 3))
    hidden, both = b.number(1, 6), b.coin()
    ways = 2 if both else 1
    inputs = [x, b.weight(ways, gates * hidden, width, fan_in=width, axis=1)]
    inputs.append(b.weight(ways, gates * hidden, hidden, fan_in=hidden, axis=1))
    if b.coin():
        inputs.append(b.small(ways, 2 * gates * hidden))
    if b.coin():
        inputs += [""] * (5 - len(inputs))
        inputs += [b.small(ways, batch, hidden) for _ in range(2 if op == "LSTM" else 1)]
    direction = "bidirectional" if both else b.pick("forward", "reverse")
    more = {"linear_before_reset": b.number(0, 1)} if op == "GRU" else {}
    y, last = b.emit(op, inputs, 2, hidden_size=hidden, direction=direction, **more)
    if b.coin():
        b.keep(last, (ways, batch, hidden))
        return
    turned = b.emit("Transpose", [y], perm=[0, 2, 1, 3])
    b.add("Reshape", [turned, _ints(b, 0, 0, -1)], (length, batch, ways * hidden))


def _info(name: str, shape: Any, element: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, element, shape)


def branch(b: Builder) -> None:
    """An If on a constant, a known shape or an input, with a layer in one of its branches."""
    found = b.value(2, 3)
    if found is None:
        return
    x, shape = found
    how = b.pick("constant", "shape", "input")
    if how == "constant":
        condition = b.constant(np.array(b.coin()))
    elif how == "shape":
        condition = b.emit("Equal", [b.emit("Size", [x]), b.constant(np.array(6))])
    else:
        condition = b.input("flag", [], BOOL)
    width = shape[-1]
    square = (b.random.standard_normal((width, width)) / np.sqrt(width)).astype(np.float32)
    weight = numpy_helper.from_array(square, f"inner{b.count}")
    if b.coin():
        then = [helper.make_node("Constant", [], [weight.name], value=weight)]
        own = []
    else:
        then, own = [], [weight]
    then.append(helper.make_node("MatMul", [x, weight.name], [f"then{b.count}"], name="layer"))
    other = [helper.make_node("Neg", [x], [f"else{b.count}"])]
    out = [None] * len(shape)
    b.add(
        "If",
        [condition],
        shape,
        then_branch=helper.make_graph(then, "then", [], [_info(f"then{b.count}", out)], own),
        else_branch=helper.make_graph(other, "else", [], [_info(f"else{b.count}", out)]),
    )


def loop(b: Builder) -> None:
    """A Loop whose body multiplies with a matrix from outside."""
    found = b.value(2, 3)
    if found is None:
        return
    x, shape = found
    weight, tag = b.weight(shape[-1], shape[-1], fan_in=shape[-1], axis=1), b.count
    body = helper.make_graph(
        [
            helper.make_node("Identity", [f"go{tag}"], [f"again{tag}"]),
            helper.make_node("MatMul", [f"state{tag}", weight], [f"next{tag}"]),
        ],
        "body",
        [
            _info(f"i{tag}", [], INT64),
            _info(f"go{tag}", [], BOOL),
            _info(f"state{tag}", [None] * len(shape)),
        ],
        [_info(f"again{tag}", [], BOOL), _info(f"next{tag}", [None] * len(shape))],
    )
    times, yes = b.constant(np.array(b.number(0, 3))), b.constant(np.array(True))
    b.add("Loop", [times, yes, x], shape, body=body)


MORE = [
    *(pool, resize, softmax, flatten, flatten, reshape, transpose, unsqueeze, reduce_mean, split),
    *(pad, norm, recurrent, branch, loop),
]
