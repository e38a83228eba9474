"""What generated graphs are made of: each step adds nodes to a builder, or nothing if none fit."""

from __future__ import annotations

from typing import Any

import numpy as np

from .generated_graphs import MAX_VALUES, MAX_WEIGHTS, VOCABULARY, Builder
from .graph_steps_more import MORE

_WIDTHS = (16, 8, 12, 17, 16, 8, 5, 3, 2, 1)


def conv(b: Builder) -> None:
    """1-D to 3-D; groups, dilations, strides, odd kernels, automatic and asymmetric padding."""
    found = b.value(3, 4, 5)
    if found is None:
        return
    x, (n, c, *sizes) = found
    rank = len(sizes)
    groups = b.pick(1, 1, c, *[g for g in (2, 4) if c % g == 0])
    out = groups * (b.pick(*_WIDTHS) if groups == 1 else b.pick(2, 1, 3))
    kernel = [b.pick(3, 3, 1, 2) for _ in sizes]
    dilations, strides = ([b.number(1, 2) for _ in sizes] for _ in range(2))
    auto = b.pick("NOTSET", "NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
    pads = [b.number(0, 2) if auto == "NOTSET" else 0 for _ in range(2 * rank)]
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    wide = [s + pads[i] + pads[i + rank] for i, s in enumerate(sizes)]
    if auto.startswith("SAME"):
        dilations = [1] * rank  # ONNX Runtime takes no others here
        after = [-(-s // t) for s, t in zip(sizes, strides, strict=True)]
    else:
        after = [(w - r) // t + 1 for w, r, t in zip(wide, reach, strides, strict=True)]
    shape = (n, out, *after)
    weights = (out, c // groups, *kernel)
    if min(after) < 1 or np.prod(shape) > MAX_VALUES or np.prod(weights) > MAX_WEIGHTS:
        return
    inputs = [x, b.weight(*weights)] + ([b.small(out)] if b.coin() else [])
    attributes: dict[str, Any] = {"dilations": dilations, "strides": strides, "group": groups}
    if auto != "NOTSET":
        attributes["auto_pad"] = auto
    elif b.coin() or any(pads):
        attributes["pads"] = pads
    if b.coin():
        attributes["kernel_shape"] = kernel
    b.add("Conv", inputs, shape, **attributes)


def conv_transpose(b: Builder) -> None:
    found = b.value(3, 4)
    if found is None:
        return
    x, (n, c, *sizes) = found
    groups = b.pick(1, 1, *[g for g in (2, c) if c % g == 0])
    out = b.number(1, 4)
    kernel, strides = [b.number(1, 3) for _ in sizes], [b.number(1, 2) for _ in sizes]
    after = [(s - 1) * t + k for s, t, k in zip(sizes, strides, kernel, strict=True)]
    shape, weights = (n, out * groups, *after), (c, out, *kernel)
    if np.prod(shape) > MAX_VALUES or np.prod(weights) > MAX_WEIGHTS:
        return
    inputs = [x, b.weight(*weights)] + ([b.small(out * groups)] if b.coin() else [])
    b.add("ConvTranspose", inputs, shape, strides=strides, group=groups)


def matmul(b: Builder) -> None:
    """A constant matrix, vector or batch of matrices on either side, or no constant at all."""
    found = b.value(2, 3, 4)
    if found is None:
        return
    x, (*outer, m, k) = found
    n = b.pick(k, *_WIDTHS)
    side = b.pick("right", "right", "right", "left", "batch", "vector", "both")
    if n * max(k, m) * int(np.prod(outer)) > MAX_WEIGHTS:
        return
    if side == "right":
        b.add("MatMul", [x, b.weight(k, n, fan_in=k, axis=1)], (*outer, m, n))
    elif side == "left":
        b.add("MatMul", [b.weight(n, m, fan_in=m), x], (*outer, n, k))
    elif side == "batch":
        dims = b.pick((*outer, k, n), (1, k, n))
        b.add(
            "MatMul",
            [x, b.weight(*dims, fan_in=k, axis=len(dims) - 1)],
            (*(outer or dims[:-2]), m, n),
        )
    elif side == "vector":
        b.add("MatMul", [x, b.weight(k, fan_in=k)], (*outer, m))
    else:
        order = [*range(len(outer)), len(outer) + 1, len(outer)]
        turned = b.emit("Transpose", [x], perm=order)
        b.conditioned = False  # squares have no scale of their own
        b.add("MatMul", [x, turned], (*outer, m, m))


def gemm(b: Builder) -> None:
    """Each of transA, transB, alpha, beta, and each shape of C; the constant on either side."""
    found = b.value(2)
    if found is None:
        return
    x, shape = found
    trans_a, trans_b = b.coin(), b.coin()
    left = not b.number(0, 5)
    n = b.pick(*_WIDTHS, *shape)
    if left:
        k, columns = shape if not trans_b else shape[::-1]
        rows = n
        first, second = b.weight(*((k, n) if trans_a else (n, k)), fan_in=k), x
    else:
        rows, k = shape if not trans_a else shape[::-1]
        columns = n
        dims, axis = ((n, k), 0) if trans_b else ((k, n), 1)
        first, second = x, b.weight(*dims, fan_in=k, axis=axis)
    inputs = [first, second]
    c = b.pick(None, (columns,), (columns,), (1, columns), (rows, columns), (rows, 1), (1,), ())
    if c is not None:
        inputs.append(b.small(*c))
    b.add(
        "Gemm",
        inputs,
        (rows, columns),
        transA=int(trans_a),
        transB=int(trans_b),
        alpha=b.pick(1.0, 1.0, 0.5, 2.0),
        beta=b.pick(1.0, 1.0, 0.5, 0.0),
    )


def batch_norm(b: Builder) -> None:
    found = b.value(2, 3, 4, 5)
    if found is not None:
        c = found[1][1]
        gamma = b.constant((1 + b.random.standard_normal(c) * 0.2).astype(np.float32))
        variance = b.constant((b.random.random(c) + 0.5).astype(np.float32))
        inputs = [found[0], gamma, b.small(c), b.small(c), variance]
        b.add("BatchNormalization", inputs, found[1], epsilon=b.pick(1e-5, 1e-3))


def activation(b: Builder) -> None:
    """The common ones, and the same as exporters of older operator sets spell them."""
    found = b.value()
    if found is None:
        return
    x, shape = found
    plain = ["Relu", "Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "Elu", "Softplus"]
    plain += ["Selu", "Celu"] * (b.opset >= 12) + ["HardSwish"] * (b.opset >= 14)
    plain += ["Mish"] * (b.opset >= 18) + ["Gelu"] * (b.opset >= 20)
    op = b.pick(*plain, "swish", "gelu", "hard swish", "clip", "clip", "clip", "prelu")
    if op == "swish":
        b.add("Mul", [x, b.emit("Sigmoid", [x])], shape)
    elif op == "gelu":
        root, one, half = (b.constant(np.float32(v)) for v in (2**0.5, 1, 0.5))
        inner = b.emit("Add", [b.emit("Erf", [b.emit("Div", [x, root])]), one])
        b.add("Mul", [b.emit("Mul", [x, inner]), half], shape)
    elif op == "hard swish":
        three, six, zero = (b.constant(np.float32(v)) for v in (3, 6, 0))
        clipped = b.emit("Clip", [b.emit("Add", [x, three]), zero, six])
        b.add("Div", [b.emit("Mul", [x, clipped]), six], shape)
    elif op == "clip":
        low, high = b.pick((0, 6), (None, 1), (-1, None), (None, None), (0, None), (0.25, 6))
        inputs = [x, *("" if v is None else b.constant(np.float32(v)) for v in (low, high))]
        while inputs[-1] == "":
            inputs.pop()
        b.add("Clip", inputs, shape)
    elif op == "prelu":
        c = shape[1] if len(shape) > 1 else 1
        b.add("PRelu", [x, b.small(*([c] + [1] * (len(shape) - 2)))], shape)
    else:
        b.add(op, [x], shape)


def residual(b: Builder) -> None:
    """Add a value of the same shape, the layer's own input for instance."""
    found = b.value()
    if found is not None:
        x, shape = found
        other = b.pick(*[name for name, known in b.values if known == shape])
        b.add(b.pick("Add", "Add", "Sum"), [x, other], shape)


def concat(b: Builder) -> None:
    found = b.value(2, 3, 4)
    if found is None:
        return
    x, shape = found
    axis = b.number(0, len(shape) - 1)
    fitting = [
        v
        for v in b.values
        if len(v[1]) == len(shape) and all(i == axis or v[1][i] == d for i, d in enumerate(shape))
    ]
    others = [b.pick(*fitting) for _ in range(b.number(0, 2))]
    total = shape[axis] + sum(known[axis] for _, known in others)
    inputs = [x, *(name for name, _ in others)]
    axis -= b.coin() * len(shape)
    dims = list(shape)
    dims[axis] = total
    if np.prod(dims) <= MAX_VALUES:
        b.add("Concat", inputs, dims, axis=axis)


def scalar(b: Builder) -> None:
    """A constant scale or shift, of the whole or of each channel."""
    found = b.value()
    if found is None:
        return
    x, shape = found
    dims = b.pick((), (1,) * len(shape), (1, *shape[1:2], *[1] * (len(shape) - 2))[: len(shape)])
    number = b.random.random(dims) + 0.5
    op = b.pick("Add", "Sub", "Mul", "Div")
    operands = [x, b.constant(np.asarray(number, np.float32))]
    if op != "Div" and b.coin():
        operands.reverse()
    b.add(op, operands, shape)


def embedding(b: Builder) -> None:
    """A table that is looked up, alone or added to a value."""
    length, width = b.number(1, 6), b.number(2, 12)
    ids = b.input("ids", b.inputs.get("ids", ([2, length], 0))[0], 7)
    shape = (*b.inputs["ids"][0], width)
    table = b.weight(VOCABULARY, width, fan_in=1)
    b.add("Gather", [table, ids], shape, **({"axis": 0} if b.coin() else {}))


def block(b: Builder) -> None:
    """What real networks are made of: a layer, a norm, an activation, a short cut."""
    for step in (scalar, conv, batch_norm, activation, residual):
        if b.number(0, 3):
            step(b)


def dense_block(b: Builder) -> None:
    for step in (b.pick(gemm, matmul), scalar, activation, residual):
        if b.number(0, 3):
            step(b)


STEPS = [
    *(conv, conv, conv, block, block, block, dense_block, dense_block, dense_block, matmul, matmul),
    *(gemm, gemm, gemm, conv_transpose),
    *(batch_norm, activation, activation, residual, concat, scalar, embedding),
    *MORE,
]
