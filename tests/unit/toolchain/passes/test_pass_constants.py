from __future__ import annotations

import numpy as np
import pytest
from onnx import helper, numpy_helper

from edgekit.toolchain.passes import CanonicalOptions, fold_constants
from edgekit.wire.errors import BuildError

from .pass_graphs import (
    BOOL,
    FLOAT,
    INT64,
    apply,
    assert_same,
    branch,
    constant,
    copy,
    floats,
    model,
    node,
    ops,
    run,
    value,
)


@pytest.mark.parametrize(
    ("attribute", "wanted"),
    [
        ({"value": numpy_helper.from_array(np.float32([[1, 2]]))}, np.float32([[1, 2]])),
        ({"value_float": 2.5}, np.float32(2.5)),
        ({"value_floats": [1.0, 2.0]}, np.float32([1, 2])),
    ],
)
def test_a_constant_node_becomes_an_initializer(attribute: dict, wanted: np.ndarray) -> None:
    proto = model(
        [node("Constant", [], ["c"], **attribute), node("Add", ["x", "c"], ["y"])],
        {"x": [1, 2]},
        ["y"],
    )
    before = copy(proto)
    assert apply("constants", proto) == "1 Constant nodes made initializers"
    assert ops(proto) == {"Add": 1}
    found = constant(proto, "c")
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)
    assert_same(before, proto, {"x": floats(1, 2)})


def test_integers_and_branches_too_but_not_what_is_an_output() -> None:
    inner = [node("Constant", [], ["k"], value_floats=[3.0]), node("Mul", ["x", "k"], ["t"])]
    other = [node("Identity", ["x"], ["e"])]
    proto = model(
        [
            node("Constant", [], ["axes"], value_ints=[0]),
            node("Constant", [], ["out"], value_int=7),
            node("Unsqueeze", ["x", "axes"], ["u"]),
            node(
                "If",
                ["flag"],
                ["y"],
                then_branch=branch("a", inner, [value("t")]),
                else_branch=branch("b", other, [value("e")]),
            ),
        ],
        {"x": [2], "flag": ([], BOOL)},
        ["u", "y", "out"],
    )
    before = copy(proto)
    assert apply("constants", proto) == "2 Constant nodes made initializers"
    assert ops(proto)["Constant"] == 1
    then = next(a.g for a in proto.graph.node[-1].attribute if a.name == "then_branch")
    assert [n.op_type for n in then.node] == ["Mul"]
    assert constant(proto, "axes").dtype == np.int64
    for flag in (True, False):
        assert_same(before, proto, {"x": floats(2), "flag": np.array(flag)})


def test_weights_listed_as_inputs_are_constants() -> None:
    proto = model([node("Add", ["x", "w"], ["y"])], {"x": [2]}, ["y"], {"w": floats(2)})
    proto.graph.input.append(value("w", [2]))
    assert apply("constants", proto) == "1 constants no longer inputs"
    assert [i.name for i in proto.graph.input] == ["x"]


def test_a_model_of_the_first_years_may_have_constants_that_are_no_inputs() -> None:
    proto = model([node("Mul", ["x", "w"], ["y"])], {"x": [2], "w": [2]}, ["y"], {"w": floats(2)})
    proto.ir_version = 3
    assert apply("constants", proto) == "1 constants no longer inputs"
    assert proto.ir_version == 4


def test_nothing_to_do_says_nothing() -> None:
    proto = model([node("Relu", ["x"], ["y"])], {"x": [2]}, ["y"])
    for name in ("constants", "fold_constants", "inline_if", "remove_noops", "remove_dead"):
        assert apply(name, proto) is None


def test_an_input_is_fixed_to_a_value_of_its_own_type() -> None:
    proto = model(
        [node("Cast", ["sr"], ["f"], to=FLOAT), node("Mul", ["x", "f"], ["y"])],
        {"x": [2], "sr": ([], INT64)},
        ["y"],
    )
    before, x = copy(proto), floats(2)
    assert apply("fix_inputs", proto, fixed={"sr": 16000}) == "sr = 16000"
    assert constant(proto, "sr").dtype == np.int64
    assert [i.name for i in proto.graph.input] == ["x"]
    expected = run(before, {"x": x, "sr": np.array(16000)})["y"]
    np.testing.assert_array_equal(run(proto, {"x": x})["y"], expected)


@pytest.mark.parametrize(
    ("fixed", "message", "hint"),
    [
        ({"srr": 1}, 'no input "srr"', "did you mean sr?"),
        ({"sr": 1.5}, "cannot be 1.5", None),
        ({"sr": "fast"}, "cannot be 'fast'", None),
        ({"sr": [1, 2, 3]}, "not [3]", None),
    ],
)
def test_a_fixed_value_must_fit(fixed: dict, message: str, hint: str | None) -> None:
    proto = model([node("Identity", ["sr"], ["y"])], {"sr": ([2], INT64)}, ["y"])
    with pytest.raises(BuildError) as caught:
        apply("fix_inputs", proto, fixed=fixed)
    assert message in caught.value.message
    assert hint is None or caught.value.hint == hint


def test_weights_behind_a_transpose_are_computed() -> None:
    proto = model(
        [node("Transpose", ["w"], ["t"], perm=[1, 0]), node("MatMul", ["x", "t"], ["y"])],
        {"x": [1, 3]},
        ["y"],
        {"w": floats(4, 3)},
    )
    before = copy(proto)
    assert apply("fold_constants", proto) == "1 nodes computed beforehand"
    np.testing.assert_array_equal(constant(proto, "t"), constant(before, "w").T)
    assert_same(before, proto, {"x": floats(1, 3)}, relative=0)


def test_a_known_dimension_is_picked_out_of_a_dynamic_shape() -> None:
    proto = model(
        [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "one"], ["channels"]),
            node("Slice", ["s", "low", "high"], ["middle"]),
            node("Gather", ["s", "zero"], ["batch"]),
            node("Concat", ["batch", "channels"], ["target"], axis=0),
            node("Reshape", ["x", "target"], ["y"]),
            node("Identity", ["middle"], ["m"]),
        ],
        {"x": ["n", 6, 1]},
        ["y", "m"],
        {
            "one": np.array([1]),
            "zero": np.array([0]),
            "low": np.array([-2]),
            "high": np.array([2]),
        },
    )
    before = copy(proto)
    assert apply("fold_constants", proto) == "2 nodes computed beforehand"
    assert ops(proto)["Gather"] == 1
    for n in (1, 3):
        assert_same(before, proto, {"x": floats(n, 6, 1)})


def test_shape_takes_start_and_end_and_size_counts() -> None:
    proto = model(
        [
            node("Shape", ["x"], ["s"], start=-2, end=-1),
            node("Size", ["x"], ["n"]),
            node("Add", ["s", "n"], ["y"]),
        ],
        {"x": [2, 3, 4]},
        ["y"],
    )
    before = copy(proto)
    assert apply("fold_constants", proto)
    np.testing.assert_array_equal(constant(proto, "s"), [3])
    assert constant(proto, "n") == 24
    assert_same(before, proto, {"x": floats(2, 3, 4)})


def test_what_would_grow_the_file_or_is_random_or_quantized_stays() -> None:
    proto = model(
        [
            node("Expand", ["one", "huge"], ["big"]),
            node("Expand", ["one", "large"], ["wide"]),  # a mebibyte out of four bytes
            node("RandomNormal", [], ["r"], shape=[2], seed=1.0),
            node("DequantizeLinear", ["q", "scale", "zero"], ["w"]),
            node("Add", ["x", "r"], ["a"]),
            node("Add", ["a", "w"], ["b"]),
            node("ReduceSum", ["big"], ["s"], keepdims=0),
            node("ReduceSum", ["wide"], ["t"], keepdims=0),
            node("Add", ["s", "t"], ["c"]),
            node("Add", ["b", "c"], ["y"]),
        ],
        {"x": [2]},
        ["y"],
        {
            "one": np.float32([1]),
            "large": np.array([1 << 18]),
            "huge": np.array([1 << 40]),
            "q": np.int8([1, 2]),
            "scale": np.float32(0.5),
            "zero": np.int8(0),
        },
    )
    before = [n.op_type for n in proto.graph.node]
    assert fold_constants.apply(proto, CanonicalOptions()) is None
    assert [n.op_type for n in proto.graph.node] == before


def test_a_node_that_the_runtime_cannot_compute_stays_and_the_others_are_computed() -> None:
    # Dividing integers by zero is refused at run time in none; a Gather out of range is.
    proto = model(
        [
            node("Gather", ["w", "far"], ["bad"]),
            node("Neg", ["w"], ["good"]),
            node("Add", ["x", "good"], ["y"]),
            node("Add", ["x", "bad"], ["z"]),
        ],
        {"x": [1]},
        ["y", "z"],
        {"w": np.float32([1]), "far": np.array([5])},
    )
    assert fold_constants.apply(proto, CanonicalOptions()) == "1 nodes computed beforehand"
    assert ops(proto) == {"Gather": 1, "Add": 2}


def test_dead_nodes_and_weights_go() -> None:
    proto = model(
        [
            node("Relu", ["x"], ["y"]),
            node("Add", ["x", "w"], ["dead"]),
            node("Neg", ["dead"], ["deader"]),
        ],
        {"x": [2]},
        ["y"],
        {"w": floats(2), "unused": floats(3)},
    )
    note = apply("remove_dead", proto)
    assert note == "2 dead nodes removed; 2 unused initializers removed"
    assert ops(proto) == {"Relu": 1}
    assert not proto.graph.initializer


def test_what_only_a_branch_reads_is_alive() -> None:
    proto = model(
        [
            node("Relu", ["x"], ["captured"]),
            node(
                "If",
                ["flag"],
                ["y"],
                then_branch=branch("a", [node("Add", ["captured", "w"], ["t"])], [value("t")]),
                else_branch=branch("b", [node("Identity", ["x"], ["e"])], [value("e")]),
            ),
        ],
        {"x": [2], "flag": ([], BOOL)},
        ["y"],
        {"w": floats(2)},
    )
    assert apply("remove_dead", proto) is None


def test_local_functions_are_inlined() -> None:
    function = helper.make_function(
        "local",
        "Twice",
        ["a"],
        ["b"],
        [node("Add", ["a", "a"], ["b"], name="sum")],
        [helper.make_opsetid("", 17)],
    )
    proto = model([node("Relu", ["x"], ["y"])], {"x": [2]}, ["y"])
    proto.graph.node.insert(0, helper.make_node("Twice", ["x"], ["t"], domain="local"))
    proto.graph.node.insert(1, helper.make_node("Twice", ["t"], ["u"], domain="local"))
    proto.graph.node[2].input[0] = "u"
    proto.functions.append(function)
    proto.opset_import.append(helper.make_opsetid("local", 1))
    before = copy(proto)
    assert apply("inline_functions", proto) == "1 functions inlined"
    assert not proto.functions
    assert ops(proto) == {"Add": 2, "Relu": 1}
    assert_same(before, proto, {"x": floats(2)})
