"""``edgekit init``: from an .onnx file to a recipe that builds."""

from __future__ import annotations

import pytest

from edgekit.toolchain.recipe import load_recipe


def test_a_new_project_builds_with_the_command_that_it_names(own, edgekit, tmp_path, fresh):
    project = tmp_path / "new"
    ran = edgekit("init", own.model, "--data", own.data, "--project", project, "--json")
    assert (ran.code, ran.document["schema"]) == (0, "edgekit.init/1")
    assert ran.document["recipe"] == str(project / "models" / "own.toml")
    following = ran.document["next"].split()
    assert following == ["edgekit", "build", "own", "--target", "rpi5"]
    built = fresh(*following[1:], "--json", cwd=project)
    assert built.code == 0, built.out + built.err
    assert (project / built.bundle["path"]).is_file()
    recipe = load_recipe(project / "models" / "own.toml")
    (given,) = recipe.inputs
    assert (given.name, given.dtype, given.shape) == ("x", "float32", (1, 2, 8, 8))
    assert recipe.source.sha256


def test_without_samples_it_says_what_to_add(own, edgekit, tmp_path):
    ran = edgekit("init", own.model, "--project", tmp_path / "new", "--name", "mine_2")
    assert ran.code == 0
    assert "add [[calibration]] and [[evaluation]]" in ran.out
    assert "edgekit build mine_2 --target rpi5" in ran.out


def test_a_recipe_is_replaced_only_when_told(own, edgekit, tmp_path):
    line = ("init", own.model, "--project", tmp_path)
    assert edgekit(*line, "--quiet").out.strip() == str(tmp_path / "models" / "own.toml")
    recipe = tmp_path / "models" / "own.toml"
    recipe.write_text("# mine\n")
    ran = edgekit(*line, "--json")
    assert (ran.code, recipe.read_text()) == (3, "# mine\n")
    assert "--force" in ran.document["hint"]
    assert edgekit(*line, "--force").code == 0
    assert recipe.read_text() != "# mine\n"


@pytest.mark.parametrize("name", ["../out", "a/b", "", ".hidden", "My model", "nul\0"])
def test_a_name_is_no_path(own, edgekit, tmp_path, tree, name):
    project = tmp_path / "deep" / "project"
    project.mkdir(parents=True)
    before = tree(tmp_path)
    ran = edgekit("init", own.model, "--project", project, "--name", name, "--json")
    assert (ran.code, tree(tmp_path)) == (2, before)
    assert "name" in ran.document["message"]


def test_no_model(own, edgekit, tmp_path):
    ran = edgekit("init", own.folder / "none.onnx", "--json")
    assert (ran.code, ran.document["message"]) == (2, "no such file")
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"junk")
    ran = edgekit("init", junk, "--project", tmp_path, "--json")
    assert ran.code == 5
    assert not (tmp_path / "models").exists()
