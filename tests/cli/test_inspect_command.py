"""``edgekit inspect``: what is missing first, then what there is and its predicted cost."""

from __future__ import annotations

import json

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.cli.main import run
from edgekit.toolchain.graph import Graph


def save(path, nodes, *, opset=17, shape=(1, 8), extra=()):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones((8, 4), np.float32), "w")],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in extra)]
    Graph.of(helper.make_model(graph, opset_imports=opsets, ir_version=10)).save(path)
    return path


@pytest.fixture
def matmul(tmp_path):
    return save(tmp_path / "m.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])])


def test_a_sound_model(capsys, matmul):
    assert run(["inspect", str(matmul), "--target", "rpi5", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "edgekit.inspect/1"
    assert document["supported"] is True
    assert document["macs"] == 32
    assert document["parameters"] == 32
    assert [m["kind"] for m in document["predicted"]] == ["predicted"] * 3
    assert all(m["where"] == "rpi5" for m in document["predicted"])
    assert document["inputs"] == [{"name": "x", "dtype": "float", "shape": [1, 8]}]


def test_what_people_read_says_predicted_and_never_checked(capsys, matmul):
    assert run(["inspect", str(matmul), "--target", "rpi4"]) == 0
    text = capsys.readouterr().out
    assert "rpi4 has every operator" in text
    assert text.count("predicted, ") == 3
    assert "never checked on the board" in text
    assert text.index("never checked") < text.index("next: edgekit build")


def test_unsupported_operators_come_first(capsys, tmp_path):
    nodes = [
        helper.make_node("Frobnicate", ["x"], ["a"], domain="com.acme"),
        helper.make_node("Frobnicate", ["a"], ["b"], domain="com.acme"),
        helper.make_node("MatMul", ["b", "w"], ["y"]),
    ]
    path = save(tmp_path / "m.onnx", nodes, extra=["com.acme"])
    assert run(["inspect", str(path), "--target", "rpi5"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0] == "✗ rpi5 cannot run this model as it is:"
    assert lines[1].strip().startswith("com.acme.Frobnicate (2 nodes): ")


def test_an_operator_set_over_the_target_s(capsys, tmp_path):
    path = save(tmp_path / "m.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], opset=24)
    assert run(["inspect", str(path), "--target", "jetson-orin-nano", "--json"]) == 0
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem["subject"] == "opset"
    assert "24" in problem["reason"]
    assert "23" in problem["reason"]
    assert run(["inspect", str(path), "--target", "rpi5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["supported"] is True


def test_dimensions_are_given_by_name(capsys, tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    path = save(tmp_path / "m.onnx", nodes, shape=("batch", 8))
    command = ["inspect", str(path), "--target", "rpi5", "--json"]
    assert run([*command, "--dim", "batch=5"]) == 0
    assert json.loads(capsys.readouterr().out)["macs"] == 5 * 32
    assert run(command) == 0
    assert json.loads(capsys.readouterr().out)["assumed"] == ["batch"]
    assert run([*command, "--dim", "bach=5"]) == 2
    assert run([*command, "--dim", "batch=many"]) == 2


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x08\x12\x04test", b"\xff" * 400])
def test_what_is_not_onnx_is_a_build_error(capsys, tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert run(["inspect", str(path), "--target", "rpi5"]) == 5
    assert "m.onnx" in capsys.readouterr().err


def test_a_truncated_model_is_a_build_error(capsys, matmul):
    matmul.write_bytes(matmul.read_bytes()[:-40])
    assert run(["inspect", str(matmul), "--target", "rpi5"]) == 5
    assert "truncated" in capsys.readouterr().err


def test_a_node_without_its_inputs_is_a_build_error(capsys, tmp_path):
    path = save(tmp_path / "m.onnx", [helper.make_node("MatMul", [], ["y"])])
    assert run(["inspect", str(path), "--target", "rpi5"]) == 5
    assert "MatMul (unnamed) lacks an input" in capsys.readouterr().err


def test_a_missing_file_and_a_refused_target(capsys, tmp_path, matmul):
    assert run(["inspect", str(tmp_path / "none.onnx"), "--target", "rpi5"]) == 2
    assert "no such file" in capsys.readouterr().err
    assert run(["inspect", str(matmul), "--target", "armv7"]) == 3
    assert "no wheel for 32-bit Arm" in capsys.readouterr().err
