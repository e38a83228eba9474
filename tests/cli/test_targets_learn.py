"""``edgekit targets learn``: bundles, benchmarks made from known facts, and the diff."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.toolchain.facts import graph_facts
from edgekit.toolchain.graph import Graph
from edgekit.toolchain.learn import Observation, predict_ms, with_facts
from edgekit.toolchain.pack import write_bundle
from edgekit.toolchain.project import packaged_folder
from edgekit.toolchain.targets import load_target
from edgekit.wire.canonical import sha256_file

RPI5 = load_target("rpi5", [packaged_folder("targets")]).target
TRUTH = with_facts(RPI5, {"cpu.fp32_gflops": 60.0, "memory.bandwidth_mib_s": 8000.0})


def net(channels: int, side: int) -> bytes:
    """Two convolutions on a square, or for a side of 1 two large matrices."""
    random = np.random.default_rng(0)
    weights = random.normal(size=(channels, channels, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
            helper.make_node("Conv", ["a", "w2"], ["y"], pads=[1, 1, 1, 1]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, "side", side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, channels, "side", side])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(weights + 1, "w2")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString(deterministic=True))


@pytest.fixture(scope="module")
def measured(small_bundle, tmp_path_factory):
    """Bundles of five models, and benchmarks as a board of the facts TRUTH would make them."""
    folder = tmp_path_factory.mktemp("measured")
    shapes = ((64, 48), (128, 24), (32, 96), (512, 1), (640, 1))
    for index, (channels, side) in enumerate(shapes):
        model = net(channels, side)
        path = folder / f"m{index}.ekb"
        write_bundle(
            path,
            small_bundle.manifest,
            small_bundle.members | {"model.onnx": model},
            small_bundle.private_key,
        )
        shape = [1, channels, side, side]
        graph = Graph.of(onnx.load_model_from_string(model))
        facts = graph_facts(graph, {f"x[{i}]": size for i, size in enumerate(shape)})
        one = Observation(f"m{index}", "", facts, 4, 1.0)
        document = {
            "schema": "edgekit.bench/1",
            "model": f"m{index}",
            "bundle_sha256": sha256_file(path),
            "measured": {
                "kind": "measured",
                "host": "arm64",
                "board": None,
                "device": "lab-3",
                "target": "rpi5",
                "date": f"2026-11-2{index}",
            },
            "threads": 4,
            "inputs": {"x": {"dtype": "float32", "shape": shape, "varies": False}},
            "interrupted": False,
            "basis": {"windows": "plateau", "reached": True},
            "model_call": {"n": 100, "p50_ms": predict_ms(one, TRUTH)},
        }
        (folder / f"m{index}.json").write_text(json.dumps(document))
    return folder


def arguments(folder: Path, small_bundle, project: Path, *more: object) -> tuple[object, ...]:
    files = sorted(folder.glob("m*.json"))
    options = ("--bundles", folder, "--key", small_bundle.public_key, "--project", project)
    return ("targets", "learn", *files, *options, *more)


def test_the_facts_come_back_as_a_diff_and_nothing_is_written(
    measured, small_bundle, edgekit, tmp_path: Path
):
    ran = edgekit(*arguments(measured, small_bundle, tmp_path, "--json"))
    assert ran.code == 0, ran.out + ran.err
    document = ran.document
    after = {fact["key"]: fact["after"] for fact in document["facts"]}
    assert after["cpu.fp32_gflops"] == pytest.approx(60, rel=0.05)
    assert after["memory.bandwidth_mib_s"] == pytest.approx(8000, rel=0.05)
    assert after["cpu.int8_gops"] is None
    assert document["off_before"] > 1.5
    assert document["off_after"] < 1.02
    assert "+++ b/targets/rpi5.toml" in document["diff"]
    assert "# measured on device lab-3, 2026-11-24, 5 models; was 153.6" in document["diff"]
    assert not document["written"]
    assert list(tmp_path.iterdir()) == []


def test_people_read_what_changes_and_what_stays(measured, small_bundle, edgekit, tmp_path: Path):
    ran = edgekit(*arguments(measured, small_bundle, tmp_path))
    assert ran.code == 0
    assert "cpu.int8_gops" in ran.out
    assert "stays: these models do not tell it" in ran.out
    assert "--write" in ran.out.splitlines()[-1]


def test_with_write_the_project_has_a_target_that_overlays(
    measured, small_bundle, edgekit, tmp_path: Path
):
    ran = edgekit(*arguments(measured, small_bundle, tmp_path, "--write", "--quiet"))
    assert ran.code == 0, ran.err
    file = tmp_path / "targets" / "rpi5.toml"
    assert set(tomllib.loads(file.read_text())) == {"cpu", "memory"}
    learned = load_target("rpi5", [packaged_folder("targets"), file.parent]).target
    assert learned.cpu.fp32_gflops == pytest.approx(60, rel=0.05)
    again = edgekit(*arguments(measured, small_bundle, tmp_path, "--json"))
    assert again.document["off_before"] < 1.02


def test_another_target_too_few_and_foreign_bundles_are_refused(
    measured, small_bundle, edgekit, tmp_path: Path
):
    run = arguments(measured, small_bundle, tmp_path)
    other = edgekit(*run, "--target", "rpi4")
    assert (other.code, "measured on lab-3, a rpi5" in other.err) == (3, True)
    two = edgekit(*run[:4], *run[7:])
    assert (two.code, "too few" in two.err) == (3, True)
    gone = edgekit(*run, "--bundles", tmp_path)
    assert gone.code == 3
    assert "is not in" in gone.err
