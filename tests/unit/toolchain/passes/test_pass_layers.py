from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.runtime.session import import_onnxruntime, open_session, runner

from .pass_graphs import (
    INT32,
    INT64,
    UINT8,
    apply,
    assert_same,
    constant,
    copy,
    floats,
    model,
    node,
    ops,
    run,
)


@settings(max_examples=60, deadline=None)
@given(
    trans_a=st.booleans(),
    trans_b=st.booleans(),
    alpha=st.sampled_from([1.0, 0.5, -2.0]),
    beta=st.sampled_from([1.0, 0.25, 0.0]),
    bias=st.sampled_from([None, (), (1,), (5,), (1, 5), (3, 5), (3, 1), (1, 1)]),
    constant_b=st.booleans(),
    constant_c=st.booleans(),
)
def test_a_gemm_is_normalised_and_computes_the_same(
    trans_a: bool,
    trans_b: bool,
    alpha: float,
    beta: float,
    bias: tuple[int, ...] | None,
    constant_b: bool,
    constant_c: bool,
) -> None:
    shapes = {"a": (4, 3) if trans_a else (3, 4), "b": (5, 4) if trans_b else (4, 5)}
    if bias is not None:
        shapes["c"] = bias
    fixed = {
        name for name, wanted in (("b", constant_b), ("c", constant_c)) if wanted and name in shapes
    }
    values = {name: floats(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    proto = model(
        [
            node(
                "Gemm",
                list(shapes),
                ["y"],
                transA=int(trans_a),
                transB=int(trans_b),
                alpha=alpha,
                beta=beta,
            )
        ],
        {name: list(shapes[name]) for name in shapes if name not in fixed},
        ["y"],
        {name: values[name] for name in fixed},
    )
    before = copy(proto)
    apply("normalise_gemm", proto)
    apply("normalise_gemm", copy(proto))
    assert apply("normalise_gemm", proto) is None
    assert_same(before, proto, {n: v for n, v in values.items() if n not in fixed})
    gemm = next(n for n in proto.graph.node if n.op_type == "Gemm")
    names = {a.name for a in gemm.attribute}
    assert not names & {"transA", "transB"}
    if constant_b:
        assert not names & {"alpha"}
        known = {i.name: list(i.dims) for i in proto.graph.initializer}
        assert known[gemm.input[1]] == [4, 5]
        if len(gemm.input) > 2 and gemm.input[2] in known:
            assert known[gemm.input[2]] == [5]


@pytest.mark.parametrize(
    ("data", "weight", "changes"),
    [((2, 3, 4), (1, 4, 5), True), ((2, 3, 4), (2, 4, 5), False), ((3, 4), (1, 4, 5), False)],
)
def test_a_batch_of_one_matrix_is_a_matrix(
    data: tuple[int, ...], weight: tuple[int, ...], changes: bool
) -> None:
    proto = model(
        [node("MatMul", ["x", "w"], ["y"])], {"x": list(data)}, ["y"], {"w": floats(*weight)}
    )
    before = copy(proto)
    note = apply("normalise_gemm", proto)
    assert note == ("1 batches of one matrix made a matrix" if changes else None)
    assert_same(before, proto, {"x": floats(*data, seed=1)})


def test_the_dynamic_writer_takes_a_normalised_gemm(tmp_path: Path) -> None:
    # onnxruntime#25890
    proto = model(
        [node("Gemm", ["x", "w", "b"], ["y"], transB=1)],
        {"x": [1, 16]},
        ["y"],
        {"w": floats(8, 16), "b": floats(8)},
    )
    for name in ("normalise_gemm", "remove_dead", "tidy"):
        apply(name, proto)
    onnx.save(proto, tmp_path / "m.onnx")
    import_onnxruntime()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(
            tmp_path / "m.onnx",
            tmp_path / "q.onnx",
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
    quantized = onnx.load(tmp_path / "q.onnx")
    assert any(i.data_type == 3 and list(i.dims) == [16, 8] for i in quantized.graph.initializer)
    x = floats(1, 16)
    got = runner(open_session(tmp_path / "q.onnx"))({"x": x})["y"]
    np.testing.assert_allclose(got, run(proto, {"x": x})["y"], atol=0.1)


@contextlib.contextmanager
def _quiet():
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _static(proto: onnx.ModelProto, folder: Path, feeds: list[dict]) -> onnx.ModelProto:
    """Quantize by onnxruntime's static writer with its own calibration."""
    import_onnxruntime()
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(feeds)

        def get_next(self) -> dict | None:
            return next(self.left, None)

    onnx.save(proto, folder / "m.onnx")
    with _quiet():
        quantize_static(
            folder / "m.onnx",
            folder / "q.onnx",
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
        )
    return onnx.load(folder / "q.onnx")


def test_shared_weights_and_biases_survive_quantization(tmp_path: Path) -> None:
    proto = model(
        [
            node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
            node("Mul", ["c", "gain"], ["big"]),
            node("Conv", ["big", "w", "b"], ["d"], pads=[1, 1, 1, 1]),
            node("ReduceMean", ["w"], ["m"], keepdims=0),
            node("Add", ["d", "m"], ["y"]),
        ],
        {"x": [1, 4, 6, 6]},
        ["y"],
        {"w": floats(4, 4, 3, 3) * 0.2, "b": floats(4), "gain": np.float32([50.0])},
    )
    before, x = copy(proto), floats(1, 4, 6, 6, seed=3)
    assert apply("own_weights", proto) == "2 shared initializers given a copy of their own"
    convs = [n for n in proto.graph.node if n.op_type == "Conv"]
    assert convs[0].input[1] == convs[1].input[1]  # one scale a channel, on the same axis
    assert convs[0].input[2] != convs[1].input[2]
    assert_same(before, proto, {"x": x}, relative=0)
    apply("tidy", proto)
    quantized = _static(proto, tmp_path, [{"x": x}])
    assert (
        sum(i.data_type == 3 and list(i.dims) == [4, 4, 3, 3] for i in quantized.graph.initializer)
        == 1
    )
    wanted = run(proto, {"x": x})["y"]
    got = runner(open_session(tmp_path / "q.onnx"))({"x": x})["y"]
    assert np.linalg.norm(got - wanted) < 0.05 * np.linalg.norm(wanted)


def test_a_matrix_read_along_two_axes_is_copied() -> None:
    proto = model(
        [
            node("MatMul", ["x", "w"], ["a"]),
            node("Gather", ["w", "i"], ["e"]),
            node("Add", ["a", "e"], ["y"]),
        ],
        {"x": [2, 4], "i": ([2], INT64)},
        ["y"],
        {"w": floats(4, 4)},
    )
    before = copy(proto)
    assert apply("own_weights", proto)
    assert len(proto.graph.initializer) == 2
    assert_same(before, proto, {"x": floats(2, 4), "i": np.array([0, 3])}, relative=0)


def _norm(channels: int) -> dict:
    return {
        "gamma": floats(channels, seed=1),
        "beta": floats(channels, seed=2),
        "mean": floats(channels, seed=3),
        "var": np.abs(floats(channels, seed=4)) + 0.1,
    }


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_affine_followers_fold_into_any_layer(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["Conv", "ConvTranspose", "Gemm", "MatMul"]))
    groups = data.draw(st.sampled_from([1, 2, 4])) if kind.startswith("Conv") else 1
    rank = data.draw(st.sampled_from([1, 2])) if kind.startswith("Conv") else 0
    cin, cout = 4, 8
    constants, attributes, inputs = {}, {}, ["x", "w"]
    spatial = [5] * rank
    if kind.startswith("Conv"):
        dims = (cout, cin // groups) if kind == "Conv" else (cin, cout // groups)
        constants["w"] = floats(*dims, *[3] * rank)
        attributes = {"group": groups, "dilations": [data.draw(st.sampled_from([1, 2]))] * rank}
        column = (cout, *[1] * rank)
    else:
        constants["w"] = floats(cin, cout)
        column = (cout,)
    if kind != "MatMul" and data.draw(st.booleans()):
        constants["b"] = floats(cout, seed=9)
        inputs.append("b")
    nodes, last = [node(kind, inputs, ["l"], **attributes)], "l"
    folds = 0
    chain = data.draw(
        st.lists(st.sampled_from(["Mul", "Div", "Add", "Sub", "rSub", "Norm"]), max_size=4)
    )
    can_fold = True
    for i, step in enumerate(chain):
        if step == "Norm" and kind not in ("Conv", "ConvTranspose", "Gemm"):
            continue
        name, result = f"k{i}", f"v{i}"
        shape = data.draw(st.sampled_from([(), (1,), column, (1, *column)]))
        if step == "Norm":
            constants |= _norm(cout)
            nodes.append(
                node("BatchNormalization", [last, "gamma", "beta", "mean", "var"], [result])
            )
        else:
            constants[name] = np.abs(floats(*shape, seed=i)) + np.float32(0.5)
            operands = [name, last] if step == "rSub" else [last, name]
            nodes.append(node(step.removeprefix("r"), operands, [result]))
        can_fold = can_fold and not (kind == "MatMul" and step in ("Add", "Sub", "rSub"))
        folds += can_fold
        last = result
    nodes.append(node("Relu", [last], ["y"]))
    proto = model(nodes, {"x": [1, cin, *spatial] if rank else [3, cin]}, ["y"], constants)
    before = copy(proto)
    note = apply("fold_affine", proto)
    assert note == (f"{folds} nodes folded into the layer before them" if folds else None)
    assert len(proto.graph.node) == len(before.graph.node) - folds
    x = floats(1, cin, *spatial) if rank else floats(3, cin)
    assert_same(before, proto, {"x": x}, relative=3e-5)


def test_what_others_read_or_what_broadcasts_is_not_folded() -> None:
    proto = model(
        [
            node("Conv", ["x", "w"], ["a"]),
            node("Mul", ["a", "k"], ["y"]),  # a is also an output
            node("Conv", ["x", "w"], ["c"]),
            node("Add", ["c", "columns"], ["z"]),  # a value a column, not a channel
            node("Conv", ["x", "w"], ["d"]),
            node("Add", ["d", "deep"], ["v"]),  # adds a dimension
            node("Conv", ["x", "w"], ["e"]),
            node("Mul", ["e", "e"], ["u"]),
        ],
        {"x": [1, 2, 4, 4]},
        ["a", "y", "z", "v", "u"],
        {
            "w": floats(4, 2, 1, 1),
            "k": np.float32([2]),
            "columns": floats(4),
            "deep": floats(1, 1, 4, 1, 1),
        },
    )
    assert apply("fold_affine", proto) is None


def test_a_weight_of_two_layers_is_folded_for_one() -> None:
    proto = model(
        [
            node("Conv", ["x", "w"], ["a"]),
            node("Mul", ["a", "k"], ["y"]),
            node("Conv", ["x", "w"], ["z"]),
        ],
        {"x": [1, 2, 4, 4]},
        ["y", "z"],
        {"w": floats(4, 2, 1, 1), "k": np.float32([2])},
    )
    before = copy(proto)
    assert apply("fold_affine", proto)
    assert_same(before, proto, {"x": floats(1, 2, 4, 4)})


@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 1, 1, 1]])
@pytest.mark.parametrize("bias", [True, False])
def test_scalars_fold_into_the_convolutions_behind(pads: list[int], bias: bool) -> None:
    names = ["m", "w", "b"] if bias else ["m", "w"]
    proto = model(
        [
            node("Relu", ["x"], ["r"]),
            node("Mul", ["r", "s"], ["p"]),
            node("Add", ["p", "t"], ["m"]),
            node("Conv", names, ["y"], pads=pads),
            node("Conv", ["m", "d"], ["z"], pads=pads, group=4),
        ],
        {"x": [1, 4, 6, 6]},
        ["y", "z"],
        {
            "s": np.float32([1.7]),
            "t": np.float32([-0.4]),
            "w": floats(3, 4, 3, 3),
            "d": floats(4, 1, 3, 3),
            "b": floats(3),
        },
    )
    if not bias:
        apply("remove_dead", proto)
    before = copy(proto)
    padded = any(pads)
    assert apply("fold_forward", proto) == (
        f"{1 if padded else 2} scalar nodes folded into the layers behind them"
    )
    assert ops(proto) == {"Relu": 1, "Conv": 2, **({"Add": 1} if padded else {})}
    assert_same(before, proto, {"x": floats(1, 4, 6, 6)})


def test_scalars_that_others_read_and_channel_scales_stay() -> None:
    constants = {"s": np.float32([2]), "c": floats(1, 4, 1, 1), "w": floats(3, 4, 1, 1)}
    proto = model(
        [
            node("Mul", ["x", "s"], ["a"]),
            node("Conv", ["a", "w"], ["y"]),
            node("Relu", ["a"], ["z"]),
            node("Mul", ["x", "c"], ["d"]),
            node("Conv", ["d", "w"], ["v"]),
            node("Add", ["x", "s"], ["e"]),
            node("Conv", ["e", "w"], ["u"], pads=[1, 1, 1, 1]),
        ],
        {"x": [1, 4, 6, 6]},
        ["y", "z", "v", "u"],
        constants,
    )
    assert apply("fold_forward", proto) is None


@pytest.mark.parametrize("times", [None, "x", "g"])
@pytest.mark.parametrize("divides", [True, False])
def test_a_clipped_ramp_is_a_hard_sigmoid(times: str | None, divides: bool) -> None:
    nodes = [node("Add", ["three", "x"], ["a"]), node("Clip", ["a", "zero", "six"], ["c"])]
    last = "c"
    if times:
        nodes.append(node("Mul", [times, "c"], ["m"]))
        last = "m"
    nodes.append(
        node("Div", [last, "six"], ["y"]) if divides else node("Mul", ["sixth", last], ["y"])
    )
    proto = model(
        nodes,
        {"x": [2, 5], "g": [2, 5]},
        ["y"],
        {
            "three": np.float32([3]),
            "zero": np.float32(0),
            "six": np.float32(6),
            "sixth": np.float32(1 / 6),
        },
    )
    before = copy(proto)
    assert apply("hard_sigmoid", proto) == "1 clipped ramps written as HardSigmoid"
    assert ops(proto) == {"HardSigmoid": 1, **({"Mul": 1} if times else {})}
    assert_same(before, proto, {"x": floats(2, 5) * 5, "g": floats(2, 5, seed=1)})


@pytest.mark.parametrize(
    "change",
    [
        {"zero": np.float32(-1)},
        {"divisor": np.float32(5)},
        {"three": floats(5)},
        {"outputs": ["y", "c"]},
    ],
)
def test_another_ramp_stays(change: dict) -> None:
    constants = {
        "three": np.float32(3),
        "zero": np.float32(0),
        "six": np.float32(6),
        "divisor": np.float32(6),
    }
    constants |= {k: v for k, v in change.items() if k in constants}
    proto = model(
        [
            node("Add", ["x", "three"], ["a"]),
            node("Clip", ["a", "zero", "six"], ["c"]),
            node("Div", ["c", "divisor"], ["y"]),
        ],
        {"x": [2, 5]},
        change.get("outputs", ["y"]),
        constants,
    )
    assert apply("hard_sigmoid", proto) is None


def _embedding(start: list, element: int, shape: list, constants: dict) -> onnx.ModelProto:
    return model(
        [
            *start,
            node("MatMul", ["hot", "w"], ["m"]),
            node("Add", ["m", "b"], ["a"]),
            node("Erf", ["a"], ["e"]),
            node("Mul", ["e", "a"], ["g"]),
            node("LayerNormalization", ["g", "scale"], ["n"], axis=-1),
            node("ReduceSum", ["n", "axis"], ["y"]),
        ],
        {"i": (shape, element)},
        ["y"],
        {
            "w": floats(10, 4),
            "b": floats(1, 1, 4),
            "scale": floats(4),
            "axis": np.array([1]),
            **constants,
        },
    )


def test_a_one_hot_chain_becomes_a_table() -> None:
    proto = _embedding(
        [node("OneHot", ["i", "depth", "levels"], ["hot"])],
        INT64,
        ["n", 13],
        {"depth": np.array(10), "levels": np.float32([0.1, 2.0])},
    )
    before = copy(proto)
    # 10 classes, as many that count from the end, and one row beyond each end.
    note = "6 nodes from a one-hot on became a table of 22×4"
    assert apply("one_hot_table", proto) == note
    apply("remove_dead", proto)
    assert "OneHot" not in ops(proto)
    assert "MatMul" not in ops(proto)
    for n in (1, 3):
        i = np.random.default_rng(n).integers(-13, 14, size=(n, 13))
        assert_same(before, proto, {"i": i}, relative=1e-6)


@pytest.mark.parametrize("element", [INT32, INT64, UINT8])
@pytest.mark.parametrize("expand", [True, False])
def test_equality_with_counted_classes_is_a_one_hot(expand: bool, element: int) -> None:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(element)
    start = [node("Unsqueeze", ["i", "last"], ["u"])]
    if expand:
        start.append(node("Expand", ["u", "wide"], ["x"]))
    start += [
        node("Equal", ["x" if expand else "u", "classes"], ["q"]),
        node("Cast", ["q"], ["hot"], to=1),
    ]
    proto = _embedding(
        start,
        element,
        [2, 13],
        {
            "last": np.array([-1]),
            "wide": np.array([2, 13, 10]),
            "classes": np.arange(10, dtype=dtype).reshape(1, 1, 10),
        },
    )
    if not expand:
        apply("remove_dead", proto)
    before = copy(proto)
    assert apply("one_hot_table", proto) == "7 nodes from a one-hot on became a table of 12×4"
    apply("remove_dead", proto)
    assert "Equal" not in ops(proto)
    low = 0 if element == UINT8 else -5
    i = np.random.default_rng(0).integers(low, 15, size=(2, 13)).astype(dtype)
    assert_same(before, proto, {"i": i}, relative=1e-6)


def test_a_chain_with_two_results_or_a_larger_table_stays() -> None:
    two = _embedding(
        [node("OneHot", ["i", "depth", "levels"], ["hot"])],
        INT64,
        [1, 3],
        {"depth": np.array(10), "levels": np.float32([0, 1])},
    )
    two.graph.output.append(onnx.helper.make_tensor_value_info("m", 1, [1, 3, 4]))
    assert apply("one_hot_table", two) is None
    wide = model(
        [
            node("OneHot", ["i", "depth", "levels"], ["hot"]),
            node("MatMul", ["hot", "w"], ["m"]),
            node("MatMul", ["m", "v"], ["y"]),
        ],
        {"i": ([1, 3], INT64)},
        ["y"],
        {
            "depth": np.array(5000),
            "levels": np.float32([0, 1]),
            "w": floats(5000, 1),
            "v": floats(1, 64),
        },
    )
    assert apply("one_hot_table", wide) is None


def test_constants_read_by_rows_end_the_chain() -> None:
    proto = model(
        [
            node("OneHot", ["i", "depth", "levels"], ["hot"]),
            node("MatMul", ["hot", "w"], ["m"]),
            node("Add", ["m", "positions"], ["a"]),
            node("Relu", ["a"], ["y"]),
        ],
        {"i": ([1, 3], INT64)},
        ["y"],
        {
            "depth": np.array(10),
            "levels": np.float32([0, 1]),
            "w": floats(10, 4),
            "positions": floats(3, 4),
        },
    )
    before = copy(proto)
    assert apply("one_hot_table", proto) == "2 nodes from a one-hot on became a table of 22×4"
    apply("remove_dead", proto)
    assert ops(proto)["Add"] == 1
    assert constant(proto, "positions").shape == (3, 4)
    assert_same(before, proto, {"i": np.array([[0, 9, -1]])}, relative=1e-6)
