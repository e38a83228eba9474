from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

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


def _if(condition: str, outputs: list[str], then: list, otherwise: list, results: tuple) -> object:
    return node(
        "If",
        [condition],
        outputs,
        then_branch=branch("then", then, [value(n) for n in results[0]]),
        else_branch=branch("else", otherwise, [value(n) for n in results[1]]),
    )


@pytest.mark.parametrize("taken", [True, False])
def test_a_constant_if_becomes_its_branch(taken: bool) -> None:
    proto = model(
        [
            node("Neg", ["x"], ["outer"]),
            _if(
                "flag",
                ["a", "b"],
                [node("Abs", ["outer"], ["t"]), node("Neg", ["t"], ["u"])],
                [node("Exp", ["x"], ["t"]), node("Add", ["t", "outer"], ["u"])],
                (["t", "u"], ["u", "t"]),
            ),
            node("Add", ["a", "b"], ["y"]),
        ],
        {"x": [3]},
        {"y": [3]},
        {"flag": np.array(taken)},
    )
    before = copy(proto)
    assert apply("inline_if", proto) == "1 If nodes with a constant condition inlined"
    assert "If" not in ops(proto)
    assert_same(before, proto, {"x": floats(3)}, relative=0)


def test_ifs_in_ifs_come_up_round_by_round_and_names_never_clash() -> None:
    def nest(depth: int, tag: str) -> list:
        if depth == 0:
            return [node("Neg", ["x"], [f"{tag}r"], name="leaf")]
        return [
            node(
                "If",
                ["flag"],
                [f"{tag}r"],
                then_branch=branch("t", nest(depth - 1, "s"), [value("sr")]),
                else_branch=branch("e", nest(0, "s"), [value("sr")]),
            )
        ]

    proto = model(
        [*nest(3, "one"), *nest(2, "two"), node("Add", ["oner", "twor"], ["y"])],
        {"x": [2]},
        {"y": [2]},
        {"flag": np.array(True)},
    )
    before = copy(proto)
    rounds = 0
    while apply("inline_if", proto) is not None:
        rounds += 1
    assert rounds == 3
    assert "If" not in ops(proto)
    assert_same(before, proto, {"x": floats(2)}, relative=0)


def test_an_if_on_an_input_stays() -> None:
    proto = model(
        [
            _if(
                "flag",
                ["y"],
                [node("Neg", ["x"], ["t"])],
                [node("Abs", ["x"], ["t"])],
                (["t"], ["t"]),
            )
        ],
        {"x": [2], "flag": ([], BOOL)},
        {"y": [2]},
    )
    assert apply("inline_if", proto) is None


def test_a_loop_keeps_working_when_what_it_reads_is_renamed() -> None:
    body = helper.make_graph(
        [
            node("Identity", ["keep"], ["again"]),
            node("Add", ["state", "step"], ["next"]),
        ],
        "body",
        [value("i", [], INT64), value("keep", [], BOOL), value("state", [2])],
        [value("again", [], BOOL), value("next", [2])],
    )
    proto = model(
        [
            node("Identity", ["x"], ["step"]),
            node("Loop", ["three", "yes", "x"], ["y"], body=body),
        ],
        {"x": [2]},
        {"y": [2]},
        {"three": np.array(3), "yes": np.array(True)},
    )
    before = copy(proto)
    assert apply("remove_noops", proto) == "1 nodes without effect removed"
    assert ops(proto) == {"Loop": 1}
    assert_same(before, proto, {"x": floats(2)}, relative=0)


def test_nodes_without_effect_go() -> None:
    proto = model(
        [
            node("Identity", ["x"], ["a"]),
            node("Dropout", ["a", "ratio"], ["b", "mask"]),
            node("Cast", ["b"], ["c"], to=FLOAT),
            node("Transpose", ["c"], ["d"], perm=[0, 1]),
            node("Mul", ["one", "d"], ["e"]),
            node("Add", ["e", "zero"], ["f"]),
            node("Concat", ["f"], ["g"], axis=0),
            node("Reshape", ["g", "shape"], ["h"]),
            node("Pad", ["h", "pads"], ["i"]),
            node("Relu", ["i"], ["j"]),
            node("Identity", ["j"], ["y"]),
        ],
        {"x": [2, 3]},
        ["y"],
        {
            "ratio": np.float32(0.5),
            "one": np.float32([1]),
            "zero": np.float32(0),
            "shape": np.array([-1, 3]),
            "pads": np.zeros(4, np.int64),
        },
    )
    before = copy(proto)
    assert apply("remove_noops", proto) == "10 nodes without effect removed"
    assert [(n.op_type, list(n.input), list(n.output)) for n in proto.graph.node] == [
        ("Relu", ["x"], ["y"])
    ]
    assert_same(before, proto, {"x": floats(2, 3)}, relative=0)


def test_what_has_an_effect_or_a_name_to_keep_stays() -> None:
    proto = model(
        [
            node("Identity", ["x"], ["passed"]),  # an input handed out
            node("Relu", ["x"], ["p"]),
            node("Mul", ["p", "widens"], ["q"]),  # by one, but it adds a dimension
            node("Neg", ["q"], ["a"]),
            node("Div", ["one", "x"], ["b"]),  # one over x is not x
            node("Relu", ["x"], ["r"]),
            node("Identity", ["r"], ["twin"]),  # two outputs with one value
            node("Cast", ["x"], ["c"], to=11),
            node("Dropout", ["x"], ["d", "mask"]),  # whose mask is read
        ],
        {"x": [2]},
        ["passed", "a", "b", "r", "twin", "c", "d", "mask"],
        {"widens": np.float32([[1]]), "one": np.float32(1)},
    )
    assert apply("remove_noops", proto) is None


def test_a_chain_of_identities_to_several_outputs_keeps_every_name() -> None:
    proto = model(
        [
            node("Relu", ["x"], ["a"]),
            node("Identity", ["a"], ["b"]),
            node("Identity", ["b"], ["y"]),
            node("Identity", ["y"], ["z"]),
            node("Neg", ["b"], ["w"]),
        ],
        {"x": [2]},
        ["y", "z", "w"],
    )
    before = copy(proto)
    assert apply("remove_noops", proto)
    assert_same(before, proto, {"x": floats(2)}, relative=0)
    assert ops(proto)["Identity"] == 1


def test_shapes_are_set_and_the_output_follows() -> None:
    proto = model(
        [node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])],
        {"x": [-1, 3, "?", "?"]},
        {"y": [-1, 4, "?", "h"]},
        {"w": floats(4, 3, 3, 3)},
    )
    assert apply("static_shapes", proto, shapes={"x": [1, 3, "height", 32]}) == (
        "x [1, 3, '?', 32]"
    )
    dims = proto.graph.output[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in dims] == [1, 4, 0, 32]
    # Two dimensions named "?" are not one dimension.
    assert not proto.graph.input[0].type.tensor_type.shape.dim[2].HasField("value")


def test_stale_shapes_are_forgotten() -> None:
    proto = model(
        [node("Relu", ["x"], ["h"]), node("Neg", ["h"], ["y"])],
        {"x": ["n", "n"]},
        {"y": ["n", "n"]},
    )
    proto.graph.value_info.append(value("h", ["n", "n"]))
    apply("static_shapes", proto, shapes={"x": [2, 5]})
    assert not proto.graph.value_info
    assert run(proto, {"x": floats(2, 5)})["y"].shape == (2, 5)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"x": [1, 3, 640]}, "the recipe gives 3"),
        ({"x": [1, 3, 16, 32]}, "the recipe gives [1, 3, 16, 32]"),
        ({"x": [0, 3, 32, 32]}, "at least 1"),
        ({"z": [1]}, 'no input "z"'),
    ],
)
def test_a_shape_must_fit(shapes: dict, message: str) -> None:
    proto = model([node("Relu", ["x"], ["y"])], {"x": ["n", 3, 32, 32]}, ["y"])
    with pytest.raises(BuildError) as caught:
        apply("static_shapes", proto, shapes=shapes)
    assert message in caught.value.message


@pytest.mark.parametrize("opset", [9, 11, 12, 15])
def test_the_opset_is_raised_and_outputs_stay(opset: int) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Softmax", ["c"], ["s"], axis=3),
        node("ReduceMean", ["s"], ["y"], axes=[2], keepdims=0),
    ]
    proto = model(nodes, {"x": [1, 3, 8, 8]}, ["y"], {"w": floats(4, 3, 3, 3)}, opset=opset)
    before = copy(proto)
    assert apply("raise_opset", proto) == f"opset {opset} raised to 17"
    assert proto.opset_import[0].version == 17
    # Over its last axis a Softmax means the same before and after 13.
    assert ops(proto) == {"Conv": 1, "Softmax": 1, "ReduceMean": 1}
    assert_same(before, proto, {"x": floats(1, 3, 8, 8)})


def test_the_opset_is_never_over_the_cap_nor_lowered() -> None:
    proto = model([node("Relu", ["x"], ["y"])], {"x": [2]}, ["y"], opset=11)
    assert apply("raise_opset", proto, opset_max=15) == "opset 11 raised to 15"
    assert apply("raise_opset", proto, opset=13) is None
    assert proto.opset_import[0].version == 15


def test_a_conversion_that_changes_outputs_is_not_taken() -> None:
    # onnx converts Hardmax of 12, which flattens, to 13, which does not, as if nothing were.
    proto = model([node("Hardmax", ["x"], ["y"], axis=1)], {"x": [1, 4, 5]}, ["y"], opset=12)
    before = copy(proto)
    note = apply("raise_opset", proto)
    assert note == (
        "opset 17 not reached: the outputs change; "
        "opset 13 not reached: the outputs change; opset stays 12"
    )
    assert_same(before, proto, {"x": floats(1, 4, 5)}, relative=0)


def test_tidy_strips_names_and_numbers() -> None:
    proto = model(
        [
            node("Conv", ["x", "w"], ["a"], name="same"),
            node("Relu", ["a"], ["b"], name="y"),
            node("Neg", ["b"], ["y"]),
        ],
        {"x": [1, 1, 4, 4]},
        ["y"],
        {"w": floats(1, 1, 2, 2)},
    )
    del proto.graph.initializer[:]
    tensor = helper.make_tensor("w", FLOAT, [1, 1, 2, 2], [1.0, 2.0, 3.0, 4.0])
    assert not tensor.HasField("raw_data")
    proto.graph.initializer.append(tensor)
    proto.ir_version = 10
    proto.doc_string = proto.graph.doc_string = "/home/someone/model.py"
    proto.producer_name, proto.producer_version = "pytorch", "2.13"
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    for holder in (proto, proto.graph, proto.graph.node[0], proto.graph.initializer[0]):
        holder.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="/home/someone")
    before = copy(proto)
    assert apply("tidy", proto)
    assert b"someone" not in proto.SerializeToString()
    assert [n.name for n in proto.graph.node] == ["same", "y", "y_2"]
    assert proto.ir_version == 8
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", 17)]
    assert proto.graph.initializer[0].HasField("raw_data")
    assert_same(before, proto, {"x": floats(1, 1, 4, 4)}, relative=0)
    assert apply("tidy", proto) is None


def test_tidy_keeps_types_that_nobody_can_infer_again() -> None:
    proto = model([node("Relu", ["x"], ["y"])], {"x": [2]}, ["y"])
    del proto.graph.node[:]
    proto.graph.node.extend(
        [
            helper.make_node("FusedGelu", ["x"], ["a"], domain="com.example"),
            helper.make_node("Relu", ["a"], ["y"]),
        ]
    )
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    proto.graph.value_info.extend([value("a", [2]), value("b", [2])])
    from edgekit.toolchain.passes import CanonicalOptions, tidy

    tidy.apply(proto, CanonicalOptions())
    assert [v.name for v in proto.graph.value_info] == ["a"]
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", 17), ("com.example", 1)]


def test_tidy_leaves_the_names_that_a_writer_makes_to_it() -> None:
    half = helper.make_tensor("h", 1, [], [0.5])
    inner = [node("Constant", [], ["h"], value=half), node("Mul", ["a_scale", "h"], ["i"])]
    proto = model(
        [
            node("Relu", ["x"], ["a"], name="x_QuantizeLinear"),
            node("Add", ["a", "a_zero_point"], ["a_scale"], name="a_MatMul"),
            node(
                "If",
                ["flag"],
                ["y"],
                then_branch=branch("then", inner, [value("i", [2])]),
                else_branch=branch("else", [node("Neg", ["a"], ["j"])], [value("j", [2])]),
            ),
        ],
        {"x": [2], "flag": ([], BOOL)},
        ["y"],
        {"a_zero_point": floats(2)},
    )
    before = copy(proto)
    assert apply("tidy", proto)
    values = [n.output[0] for n in proto.graph.node]
    assert values == ["a", "a/scale", "y"]
    assert [n.name for n in proto.graph.node[:2]] == ["x/QuantizeLinear", "a/MatMul"]
    assert proto.graph.initializer[0].name == "a/zero_point"
    for flag in (True, False):
        assert_same(before, proto, {"x": floats(2), "flag": np.array(flag)})
    assert apply("tidy", proto) is None


def test_tidy_names_nodes_in_branches_too() -> None:
    proto = model(
        [
            _if(
                "flag",
                ["y"],
                [node("Neg", ["x"], ["t"])],
                [node("Abs", ["x"], ["t"])],
                (["t"], ["t"]),
            )
        ],
        {"x": [2], "flag": ([], BOOL)},
        {"y": [2]},
    )
    apply("tidy", proto)
    names = [n.name for n in proto.graph.node]
    for entry in proto.graph.node[0].attribute:
        names += [n.name for n in entry.g.node]
    assert len(set(names)) == 3
    assert all(names)


def test_a_constant_of_4_bits_keeps_the_ir_that_knows_it() -> None:
    proto = model([node("Identity", ["x"], ["y"])], {"x": [2]}, ["y"], opset=21)
    proto.ir_version = 10
    proto.graph.initializer.append(helper.make_tensor("w", onnx.TensorProto.INT4, [2], [1, 2]))
    apply("tidy", proto)
    assert proto.ir_version == 10
    assert constant(proto, "w").tolist() == [1, 2]


def test_nodes_are_put_into_order() -> None:
    proto = model(
        [node("Relu", ["x"], ["a"]), node("Neg", ["a"], ["b"]), node("Add", ["a", "b"], ["y"])],
        {"x": [2]},
        ["y"],
    )
    before, nodes = copy(proto), list(proto.graph.node)
    assert apply("sort_nodes", proto) is None
    del proto.graph.node[:]
    proto.graph.node.extend(reversed(nodes))
    assert apply("sort_nodes", proto) == "2 nodes put into order"
    assert [n.op_type for n in proto.graph.node] == ["Relu", "Neg", "Add"]
    assert_same(before, proto, {"x": floats(2)}, relative=0)


def test_a_circle_of_nodes_is_refused() -> None:
    proto = model([node("Relu", ["x"], ["y"])], {"x": [2]}, ["y"])
    proto.graph.node.extend([node("Add", ["x", "q"], ["p"]), node("Neg", ["p"], ["q"])])
    with pytest.raises(BuildError, match="in a circle"):
        apply("sort_nodes", proto)
