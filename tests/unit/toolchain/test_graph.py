"""Weights that stand outside of an .onnx file: their size and place are looked at first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.toolchain.graph import Graph
from edgekit.wire.errors import BuildError


def external(location: str, *, length: int | None = 12) -> TensorProto:
    """Return three float32 values that stand in a file."""
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    if length is not None:
        tensor.external_data.add(key="length", value=str(length))
    return tensor


def save(folder: Path, tensor: TensorProto, *, place: str = "initializer") -> Path:
    """Write ``y = x + w`` with the weight as an initializer, a Constant or inside an If."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])
    constant = helper.make_node("Constant", [], ["w"], value=tensor)
    add = helper.make_node("Add", ["x", "w"], ["y"])
    nodes = [add] if place == "initializer" else [constant, add]
    if place == "branch":
        inner = helper.make_graph(
            [constant, helper.make_node("Add", ["x", "w"], ["b"])],
            "b",
            [],
            [helper.make_tensor_value_info("b", TensorProto.FLOAT, [3])],
        )
        yes = helper.make_node("Constant", [], ["c"], value_int=1)
        cast = helper.make_node("Cast", ["c"], ["flag"], to=TensorProto.BOOL)
        nodes = [
            yes,
            cast,
            helper.make_node("If", ["flag"], ["y"], then_branch=inner, else_branch=inner),
        ]
    weights = [tensor] if place == "initializer" else []
    graph = helper.make_graph(nodes, "g", [value], [out], weights)
    path = folder / "m.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def folder(tmp_path):
    """A folder with a file outside of it that must not be read."""
    (tmp_path / "secret.bin").write_bytes(b"0123456789ab")
    made = tmp_path / "model"
    made.mkdir()
    return made


@pytest.mark.parametrize("place", ["initializer", "constant", "branch"])
def test_weights_beside_the_model_are_taken_in(folder, place):
    (folder / "sub").mkdir()
    (folder / "sub" / "w.bin").write_bytes(np.arange(3, dtype=np.float32).tobytes())
    graph = Graph.load(save(folder, external("sub/w.bin"), place=place))
    onnx.checker.check_model(graph.proto)
    assert b"\x00\x00\x80\x3f" in graph.to_bytes()


@pytest.mark.parametrize("place", ["initializer", "constant", "branch"])
@pytest.mark.parametrize("location", ["../secret.bin", "sub/../../secret.bin", "/etc/hostname", ""])
def test_a_place_outside_of_the_models_folder_is_refused(folder, place, location):
    (folder / "sub").mkdir()
    with pytest.raises(BuildError, match="outside of the model's folder") as caught:
        Graph.load(save(folder, external(location), place=place))
    assert caught.value.where == str(folder / "m.onnx")


def test_a_link_out_of_the_folder_is_refused(folder):
    (folder / "w.bin").symlink_to("../secret.bin")
    with pytest.raises(BuildError, match="outside of the model's folder"):
        Graph.load(save(folder, external("w.bin")))
    (folder / "away").symlink_to("..")
    with pytest.raises(BuildError, match="outside of the model's folder"):
        Graph.load(save(folder, external("away/secret.bin")))


@pytest.mark.parametrize("place", ["initializer", "constant", "branch"])
def test_a_file_over_2_gb_is_refused_before_it_is_read(folder, place):
    with (folder / "w.bin").open("wb") as file:
        file.truncate(6 << 30)  # sparse: no disk is taken
    with pytest.raises(BuildError, match=r"over 2 GB: 6\.4 GB"):
        Graph.load(save(folder, external("w.bin"), place=place))


def test_a_file_that_is_cut_off_is_named(folder):
    (folder / "w.bin").write_bytes(bytes(8))
    with pytest.raises(BuildError, match=r'"w\.bin", is cut off: 8 bytes, of 12 at least'):
        Graph.load(save(folder, external("w.bin")))


def test_many_tensors_over_the_same_bytes_count_each(folder):
    with (folder / "w.bin").open("wb") as file:
        file.truncate(1 << 30)
    path = save(folder, external("w.bin"))
    model = onnx.load(str(path), load_external_data=False)
    for index in range(4):
        more = external("w.bin", length=1 << 30)
        more.name = f"w{index}"
        model.graph.initializer.append(more)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BuildError, match=r"over 2 GB: 4\.3 GB"):
        Graph.load(path)
