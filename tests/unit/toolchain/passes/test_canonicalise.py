from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from edgekit.toolchain import passes
from edgekit.toolchain.graph import Graph
from edgekit.toolchain.passes import (
    CANONICAL_ORDER,
    OPTIMIZE_ORDER,
    CanonicalOptions,
    PassNote,
    canonicalise,
    optimize,
    pass_names,
)
from edgekit.wire.errors import BuildError

from .pass_graphs import (
    BOOL,
    INT64,
    assert_same,
    branch,
    copy,
    floats,
    graph_of,
    model,
    node,
    ops,
    value,
)

REPOSITORY = Path(__file__).parents[4]


def _voice() -> onnx.ModelProto:
    """As exporters write: a rate that picks a branch, constants as nodes, a norm."""
    return model(
        [
            node("Constant", [], ["high"], value_int=16000),
            node("Equal", ["sr", "high"], ["is_high"]),
            node(
                "If",
                ["is_high"],
                ["h"],
                then_branch=branch(
                    "then",
                    [
                        node("Constant", [], ["k"], value_floats=[2.0]),
                        node("Conv", ["x", "w"], ["c"]),
                        node("Mul", ["c", "k"], ["t"]),
                    ],
                    [value("t")],
                ),
                else_branch=branch("else", [node("Conv", ["x", "v"], ["t"])], [value("t")]),
            ),
            node("BatchNormalization", ["h", "s", "s", "m", "s"], ["n"]),
            node("Shape", ["n"], ["dims"]),
            node("Gather", ["dims", "zero"], ["batch"]),
            node("Concat", ["batch", "minus"], ["flat"], axis=0),
            node("Reshape", ["n", "flat"], ["f"]),
            node("Gemm", ["f", "g"], ["y"], transB=1, alpha=0.5),
        ],
        {"x": ["n", 2, 6], "sr": ([], INT64)},
        {"y": ["n", 5]},
        {
            "w": floats(4, 2, 3),
            "v": floats(4, 2, 3, seed=1),
            "s": np.abs(floats(4)) + 0.5,
            "m": floats(4),
            "zero": np.array([0]),
            "minus": np.array([-1]),
            "g": floats(5, 16),
        },
        opset=15,
    )


OPTIONS = CanonicalOptions(fixed={"sr": 16000}, shapes={"x": [1, 2, 6]}, opset_max=20)


def test_every_pass_has_its_place_and_every_place_its_pass() -> None:
    placed = [
        n for e in (*CANONICAL_ORDER, *OPTIMIZE_ORDER) for n in ([e] if isinstance(e, str) else e)
    ]
    assert set(placed) == set(pass_names())


def test_every_pass_is_documented() -> None:
    text = (REPOSITORY / "docs" / "passes.md").read_text()
    assert [name for name in pass_names() if f"`{name}`" not in text] == []


def test_the_canonical_form() -> None:
    proto = _voice()
    graph, notes = canonicalise(graph_of(proto), OPTIONS)
    small, more = optimize(graph)
    assert ops(small.proto) == {"Conv": 1, "Reshape": 1, "Gemm": 1}
    assert small.input_names == ["x"]
    assert small.opset == 17
    assert small.proto.ir_version == 8
    assert {n.name: n.text for n in notes}["fix_inputs"] == "sr = 16000"
    assert {n.name: n.text for n in more}["fold_affine"] == (
        "2 nodes folded into the layer before them"
    )
    x = floats(1, 2, 6)
    assert_both(proto, graph.proto, {"x": x}, {"sr": np.array(16000)})
    assert_both(proto, small.proto, {"x": x}, {"sr": np.array(16000)})


def assert_both(before: object, after: object, feeds: dict, fixed: dict) -> None:
    """Compare with a model that still has its fixed inputs."""
    twin = copy(after)
    for name, given in fixed.items():
        element = helper.np_dtype_to_tensor_dtype(given.dtype)
        for old in [i for i in twin.graph.initializer if i.name == name]:
            twin.graph.initializer.remove(old)
        twin.graph.input.append(value(name, list(given.shape), element))
    assert_same(before, twin, feeds | fixed)


def test_it_is_a_fixed_point() -> None:
    once, _ = canonicalise(graph_of(_voice()), OPTIONS)
    small, _ = optimize(once)
    twice, notes = canonicalise(small, CanonicalOptions(opset_max=20))
    again, more = optimize(twice)
    assert again.to_bytes() == small.to_bytes()
    assert notes == []
    assert more == []


def test_the_graph_that_is_given_is_not_changed() -> None:
    graph = graph_of(_voice())
    before = graph.to_bytes()
    optimize(canonicalise(graph, OPTIONS)[0])
    assert graph.to_bytes() == before


def test_the_same_graph_gives_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    graph_of(_voice()).save(source)
    script = (
        "import sys; from pathlib import Path; from edgekit.toolchain.graph import Graph\n"
        "from edgekit.toolchain.passes import CanonicalOptions, canonicalise, optimize\n"
        "options = CanonicalOptions(fixed={'sr': 16000}, shapes={'x': [1, 2, 6]}, opset_max=20)\n"
        "graph, _ = canonicalise(Graph.load(Path(sys.argv[1])), options)\n"
        "optimize(graph)[0].save(Path(sys.argv[2]))\n"
    )
    made = []
    for seed in ("1", "4711"):
        folder = tmp_path / seed
        folder.mkdir()
        subprocess.run(
            [sys.executable, "-c", script, source, folder / "out.onnx"],
            env=os.environ | {"PYTHONHASHSEED": seed, "TMPDIR": str(folder)},
            cwd=folder,
            check=True,
        )
        made.append((folder / "out.onnx").read_bytes())
    here, _ = optimize(canonicalise(Graph.load(source), OPTIONS)[0])
    assert made[0] == made[1] == here.to_bytes()


def test_an_opset_over_the_cap_is_refused() -> None:
    proto = model([node("Relu", ["x"], ["y"])], {"x": [2]}, ["y"], opset=21)
    with pytest.raises(BuildError) as caught:
        canonicalise(graph_of(proto), CanonicalOptions(opset_max=20))
    assert caught.value.message == "opset too new: the model has 21, the target loads 20"
    assert caught.value.hint == "export it again with opset 17"


def test_a_model_that_the_runtime_cannot_load_is_not_blamed_on_a_pass() -> None:
    proto = model([node("Relu", ["x"], ["y"])], {"x": [2]}, ["y"])
    proto.graph.node[0].op_type, proto.graph.node[0].domain = "Frobnicate", "com.example"
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(BuildError) as caught:
        canonicalise(graph_of(proto), CanonicalOptions())
    assert caught.value.message.startswith("onnxruntime cannot load the model")
    assert "pass" not in caught.value.message


def test_nodes_of_one_name_are_told_apart_when_a_model_is_loaded(tmp_path: Path) -> None:
    nodes = [node("Relu", ["x"], ["a"], name="n"), node("Neg", ["a"], ["y"], name="n")]
    path = tmp_path / "model.onnx"
    onnx.save(model(nodes, {"x": [2]}, ["y"]), path)
    graph, _ = canonicalise(Graph.load(path), CanonicalOptions())
    assert [n.name for n in graph.proto.graph.node] == ["n", "y"]


def test_a_failing_pass_is_named_with_those_before_it() -> None:
    proto = model(
        [node("Constant", [], ["c"], value_float=1.0), node("Add", ["x", "c"], ["y"])],
        {"x": [2]},
        ["y"],
    )
    with pytest.raises(BuildError) as caught:
        canonicalise(graph_of(proto), CanonicalOptions(shapes={"x": [3]}))
    assert caught.value.message.startswith("pass static_shapes failed: ")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ("proto.graph.node[0].op_type = 'Frobnicate'", "it is no longer valid ONNX"),
        ("proto.graph.output[0].name = proto.graph.node[0].output[0] = 'z'", "changed the names"),
        ("proto.graph.node[0].op_type = 'Not'", "onnxruntime cannot load"),
    ],
)
def test_a_pass_that_breaks_the_graph_is_found_out(
    harm: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "harmful.py").write_text(
        f"def apply(proto, options):\n    {harm}\n    return 'harmed'\n"
    )
    monkeypatch.setattr(passes, "__path__", [*passes.__path__, str(tmp_path)])
    monkeypatch.setattr(passes, "OPTIMIZE_ORDER", ("tidy", "harmful"))
    proto = model([node("Relu", ["x"], ["y"])], {"x": [2]}, ["y"])
    with pytest.raises(BuildError) as caught:
        optimize(graph_of(proto))
    assert caught.value.message.startswith("pass harmful broke the graph: ")
    assert message in caught.value.message
    assert caught.value.hint == "passes before it: tidy"
    sys.modules.pop("edgekit.toolchain.passes.harmful")


def test_a_graph_that_the_checker_does_not_take_but_the_runtime_does_goes_through() -> None:
    proto = model([node("Relu", ["x"], ["a"]), node("Neg", ["a"], ["y"])], {"x": [2]}, ["y"])
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    before = copy(proto)
    graph, _ = canonicalise(graph_of(proto), CanonicalOptions())
    assert [d.dim_value for d in graph.proto.graph.output[0].type.tensor_type.shape.dim] == [2]
    assert_same(before, graph.proto, {"x": floats(2)}, relative=0)


def test_notes_of_a_repeated_pass_add_up() -> None:
    nested = branch(
        "t",
        [
            node(
                "If",
                ["flag"],
                ["r"],
                then_branch=branch("a", [node("Neg", ["x"], ["q"])], [value("q")]),
                else_branch=branch("b", [node("Abs", ["x"], ["q"])], [value("q")]),
            )
        ],
        [value("r")],
    )
    proto = model(
        [
            node(
                "If",
                ["flag"],
                ["y"],
                then_branch=nested,
                else_branch=branch("e", [node("Abs", ["x"], ["r"])], [value("r")]),
            )
        ],
        {"x": [2], "flag": ([], BOOL)},
        {"y": [2]},
    )
    graph, notes = canonicalise(graph_of(proto), CanonicalOptions(fixed={"flag": True}))
    assert ops(graph.proto) == {"Neg": 1}
    found = {n.name: n for n in notes}["inline_if"]
    assert found == PassNote(
        "inline_if", "2 If nodes with a constant condition inlined", 1, found.nodes_after
    )
