"""``edgekit debug-quant``: what layers, outputs and samples lose, from the report or measured."""

from __future__ import annotations

import dataclasses
import re
import shutil
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.cli.main import run

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Project:
    """A project with the recipe ``net``, a cache, and what was built in it."""

    folder: Path

    @property
    def bundle(self) -> Path:
        """The bundle that was built."""
        return self.folder / "dist" / "net-rpi5.ekb"

    @property
    def recipe(self) -> Path:
        """Its recipe."""
        return self.folder / "models" / "net.toml"

    @property
    def place(self) -> tuple[object, ...]:
        """The options that name project and cache."""
        return ("--project", self.folder, "--cache-dir", self.folder / "cache")

    def line(self, *more: object) -> tuple[object, ...]:
        return ("debug-quant", self.bundle, *self.place, *more)


def save_net(path):
    random = np.random.default_rng(1)
    shapes = {"w1": (32, 3, 3, 3), "w2": (32, 32, 3, 3), "w3": (32, 32, 3, 3), "w4": (10, 32)}
    weights = {k: random.normal(size=s).astype(np.float32) * 0.1 for k, s in shapes.items()}
    nodes, last = [], "x"
    for i in (1, 2, 3):
        pads = [1, 1, 1, 1]
        nodes.append(helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], f"conv{i}", pads=pads))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"], f"relu{i}"))
        last = f"r{i}"
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "w4"], ["y"], "fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 24, 24])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))


def new_project(folder, *, least, more=""):
    """Build ``net`` under a contract; its agreement has to be at least so much."""
    made = Project(folder)
    (folder / "samples").mkdir(parents=True)
    save_net(folder / "net.onnx")
    for index in range(40):
        random = np.random.default_rng(index)
        x = random.normal(size=(1, 3, 24, 24)).astype(np.float32) * 0.3
        # One bright point a sample: what is coarse for the rest.
        x[0, index % 3, index % 24, (7 * index) % 24] = 60 + index % 7
        np.savez(folder / "samples" / f"{index:03d}.npz", x=x)
    data = ("--data", str(folder / "samples"), "--project", str(folder))
    assert run(["init", str(folder / "net.onnx"), *data, "--quiet"]) == 0
    text = made.recipe.read_text().replace("min = 0.98", f"min = {least:.9f}")
    made.recipe.write_text(text + more)
    line = ("build", "net", "--target", "rpi5", "-o", folder / "dist", *made.place, "--quiet")
    assert run([str(a) for a in line]) == 0
    return made


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A bundle whose every layer is int8."""
    return new_project(tmp_path_factory.mktemp("int8") / "p", least=0.9)


@pytest.fixture
def own_copy(built, tmp_path):
    """A copy of it that a test may change."""
    return dataclasses.replace(built, folder=Path(shutil.copytree(built.folder, tmp_path / "copy")))


@pytest.fixture
def mixed(built, edgekit, tmp_path):
    """A bundle of which a layer stays float32: the contract lies between two candidates."""
    folder = built.folder
    line = ("quantize", folder / "net.onnx", "--data", folder / "samples", "--target", "rpi5")
    ran = edgekit(*line, "-o", tmp_path / "no.onnx", "--min-agreement", "1", "--json")
    assert ran.code == 6, ran.out
    tried = [c for c in ran.document["candidates"] if c["precision"].startswith("int8 static")]
    values = [(c["kept_float"], c["measurements"][0]["value"]) for c in tried]
    whole = max(value for kept, value in values if not kept)
    better = [value for kept, value in values if kept and value > whole]
    assert better
    return new_project(tmp_path / "mixed", least=(whole + better[0]) / 2)


def test_json_from_the_report_of_the_build(built, edgekit):
    ran = edgekit(*built.line("--json"))
    assert ran.code == 0, ran.out + ran.err
    found = ran.document
    assert (found["schema"], found["source"]) == ("edgekit.debug-quant/1", "report")
    assert (found["model"], found["target"], found["output"]) == ("net", "rpi5", None)
    assert [row["number"] for row in found["layers"]] == [1, 2, 3, 4]
    assert [row["op"] for row in found["layers"]] == ["Conv", "Conv", "Conv", "Gemm"]
    assert all(
        0 < row["sqnr_db"] < 100 and row["int8"] and not row["why"] for row in found["layers"]
    )
    (output,) = found["outputs"]
    assert output["output"] == "y"
    assert 0 < output["sqnr_db"] < 100
    samples = found["samples"]
    assert (samples["set"], samples["metric"], samples["n"]) == ("golden", "output_cosine", 16)
    scores = [row["agreement"] for row in samples["rows"]]
    assert scores == sorted(scores)
    assert not any("preview" in row for row in samples["rows"])


def test_measured_again_on_all_evaluation_samples(built, edgekit):
    report = edgekit(*built.line("--json")).document
    ran = edgekit(*built.line("--rebuild", "--json"))
    assert ran.code == 0, ran.out + ran.err
    found = ran.document
    assert found["source"] == "recipe"
    assert "measured again with the recipe models/net.toml" in found["note"]
    assert "changed" not in found["note"]
    assert (found["samples"]["set"], found["samples"]["n"]) == ("evaluation", 20)
    for key in ("layers", "outputs", "candidate", "reason"):
        assert found[key] == report[key]


def test_without_the_report_the_recipe_is_taken(own_copy, edgekit):
    shutil.rmtree(own_copy.folder / "cache")
    ran = edgekit(*own_copy.line("--json"))
    assert ran.code == 0, ran.out + ran.err
    assert ran.document["source"] == "recipe"


def test_a_recipe_that_has_changed_is_said(own_copy, edgekit):
    text = own_copy.recipe.read_text()
    own_copy.recipe.write_text(text.replace('take = "odd"', 'take = "odd"\nmax_mib = 10'))
    ran = edgekit(*own_copy.line("--rebuild", "--json"))
    assert ran.code == 0, ran.out + ran.err
    assert "have changed since the bundle was built" in ran.document["note"]


def test_with_neither_there_is_a_next_step(own_copy, edgekit):
    shutil.rmtree(own_copy.folder / "cache")
    own_copy.recipe.unlink()
    ran = edgekit(*own_copy.line("--json"))
    assert ran.code == 3
    assert "the report of its build is not in this cache" in ran.document["message"]
    assert 'no model named "net"' in ran.document["message"]
    for way in ("--project", "--cache-dir", "build it again", "edgekit init"):
        assert way in ran.document["hint"]
    said = edgekit(*own_copy.line())
    assert (said.code, said.out) == (3, "")


def test_layers_that_stay_float_say_why(mixed, edgekit):
    for source in ((), ("--rebuild",)):
        found = edgekit(*mixed.line(*source, "--json")).document
        kept = [row for row in found["layers"] if not row["int8"]]
        assert kept
        assert len(kept) < len(found["layers"])
        assert all("costs most" in row["why"] for row in kept)
        assert all("output_cosine is" in row["why"] for row in kept)
        shipped = next(c for c in found["candidates"] if c["name"] == found["candidate"])
        assert {row["name"] for row in kept} == set(shipped["kept_float"])
    said = edgekit(*mixed.line())
    assert "fp32" in said.out
    assert re.search(r"that the plan leaves out; static int8\S*[^;]*: output_cosine is", said.out)
    assert edgekit(*mixed.line("--quiet")).out.split() == [row["name"] for row in kept]


def test_people_read_the_worst_layers_and_the_next_command(built, edgekit):
    ran = edgekit(*built.line())
    assert ran.code == 0
    assert "from the report of its build, in the cache" in ran.out
    assert "SQNR, dB" in ran.out
    assert "conv1" in ran.out
    assert "16 golden samples differ from fp32" in ran.out
    assert "…" not in ran.out
    last = ran.out.rstrip().splitlines()[-1]
    assert last == f"  next: edgekit debug-quant {built.bundle} -o layers.html"


def test_page_and_plots(mixed, edgekit, tmp_path):
    page, svg, png = (tmp_path / f"layers{kind}" for kind in (".html", ".svg", ".png"))
    assert edgekit(*mixed.line("-o", page, "--quiet")).out == f"{page}\n"
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text), "it works offline"
    for word in ("conv1", "Kept in float32", "costs most", "<svg", "Outputs", "Samples"):
        assert word in text
    ran = edgekit(*mixed.line("-o", svg))
    assert f"wrote {svg}" in ran.out
    assert ran.out.rstrip().splitlines()[-1].startswith("  next: edgekit debug-quant ")
    assert ET.parse(svg).getroot().tag.endswith("svg")  # noqa: S314 - made here
    first = svg.read_bytes()
    assert b"float32" in first
    assert edgekit(*mixed.line("-o", svg)).code == 0
    assert svg.read_bytes() == first
    assert edgekit(*mixed.line("-o", png)).code == 0
    assert png.read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.glob("layers*")) == [
        "layers.html", "layers.png", "layers.svg",
    ]  # fmt: skip


def test_places_and_kinds_that_will_not_do(built, edgekit, tmp_path):
    for out, code, says in (
        (tmp_path / "plot.pdf", 2, "-o writes .html, .svg, .png"),
        (tmp_path / "nowhere" / "plot.svg", 3, "no such folder"),
    ):
        ran = edgekit(*built.line("-o", out, "--json"))
        assert ran.code == code
        assert says in ran.document["message"]
        assert not out.exists()


def test_a_bundle_that_is_not_trusted(own_copy, edgekit):
    with own_copy.bundle.open("ab") as file:
        file.write(b"x")
    assert edgekit(*own_copy.line()).code == 7
    ran = edgekit("debug-quant", own_copy.folder / "no.ekb", "--json")
    assert (ran.code, ran.document["message"]) == (2, "no such bundle")


@pytest.mark.network
def test_fp32_ships_with_the_reason(digits, edgekit, shared_cache, tmp_path):
    line = ("build", "digits-cnn", "--target", "rpi5", "--project", digits, "-o", tmp_path)
    bundle = edgekit(*line, "--json").bundle
    ran = edgekit("debug-quant", bundle["path"], "--project", digits, "--json")
    assert ran.code == 0, ran.out
    assert ran.document["precision"] == bundle["precision"]
    if bundle["precision"] == "fp32":
        assert not any(row["int8"] for row in ran.document["layers"])
        assert all("fp32 is kept" in row["why"] for row in ran.document["layers"])
    page = tmp_path / "page.html"
    assert edgekit("debug-quant", bundle["path"], "--project", digits, "-o", page).code == 0
    again = edgekit("debug-quant", bundle["path"], "--project", digits, "--rebuild", "--json")
    assert again.code == 0, again.out
    assert again.document["samples"]["n"] > 100
