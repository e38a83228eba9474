"""Recipes: what they say, and what is refused with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.toolchain.recipe import load_recipe, read_recipe
from edgekit.wire.errors import ConfigError
from edgekit.wire.located import parse_toml

ROOT = Path(__file__).resolve().parents[3]
PACKAGED = sorted((ROOT / "models").glob("*.toml"))

LINES = """\
title = "A model"
serial = 3
license = "MIT"
[source]
uri = "file:m.onnx"
[[inputs]]
name = "x"
dtype = "float32"
shape = [1, "n"]
[task]
name = "tensors"
inputs = ["x"]
[[calibration]]
uri = "file:data"
limit = 8
[accept]
output_cosine = { min = 0.98 }
size_mib = { max = 5, on = { rpi5 = 7 } }
"""


def read(text: str = LINES, name: str = "m"):
    return read_recipe(parse_toml(text, f"models/{name}.toml"), Path(f"/p/models/{name}.toml"))


def test_what_it_says():
    recipe = read()
    assert (recipe.name, recipe.title, recipe.serial, recipe.license) == ("m", "A model", 3, "MIT")
    assert recipe.source.uri == "file:m.onnx"
    assert recipe.inputs[0].shape == (1, "n")
    assert recipe.task_options == {"inputs": ["x"]}
    assert (recipe.calibration[0].reader, recipe.calibration[0].limit) == ("files", 8)
    assert (recipe.metric, recipe.export_task, recipe.evaluation) == (None, None, ())
    assert recipe.folder == Path("/p/models")


def test_a_target_may_have_limits_of_its_own():
    limits = {r.metric: r for r in read().contract_for("rpi5")}
    assert (limits["size_mib"].maximum, limits["size_mib"].minimum) == (7, None)
    assert limits["output_cosine"].minimum == 0.98
    assert {r.metric: r.maximum for r in read().contract_for("rpi4")}["size_mib"] == 5
    assert limits["size_mib"].where == "models/m.toml:18"


@given(limit=st.floats(-1e9, 1e9), low=st.booleans(), vs=st.sampled_from(["absolute", "fp32"]))
def test_every_limit_is_read_as_written(limit, low, vs):
    word = "min" if low else "max"
    text = LINES.replace("{ min = 0.98 }", f'{{ {word} = {limit!r}, vs = "{vs}" }}')
    found = next(r for r in read(text).contract_for("rpi5") if r.metric == "output_cosine")
    assert (found.minimum if low else found.maximum) == limit
    assert (found.maximum if low else found.minimum) is None
    assert found.vs == vs


def test_values_carry_the_line_they_stand_on():
    recipe = read()
    assert recipe.value("license", "MIT").origin == "models/m.toml:3"
    assert recipe.value("source.uri", "").origin == "models/m.toml:5"
    assert recipe.value("evaluate.metric", None).origin == "default"


@pytest.mark.parametrize(
    ("change", "says", "line"),
    [
        (("serial = 3\n", ""), "serial", 0),
        (("serial = 3", "serial = 0"), "serial", 2),
        (("serial = 3", "serial = true"), "serial", 2),
        (('title = "A', 'titel = "A'), "tit", 0),
        (("limit = 8", "limit = -8"), "limit", 15),
        (('shape = [1, "n"]', "shape = [1, 2.5]"), "integers and names", 9),
        (('shape = [1, "n"]', "shape = [true]"), "integers and names", 9),
        (("{ min = 0.98 }", "{ min = 0.98, max = 1 }"), "either min or max", 17),
        (("{ min = 0.98 }", '{ min = 0.98, vs = "FP32" }'), '"vs" is "FP32"', 17),
        (("{ min = 0.98 }", "{ min = nan }"), "number", 17),
        (("rpi5 = 7", 'rpi5 = "seven"'), "number", 18),
        (("rpi5 = 7", "rpi5 = true"), "number", 18),
        (('uri = "file:m.onnx"', 'uri = "file:m.onnx"\nsha256 = "ABC"'), "64 lower-case", 6),
        (('uri = "file:m.onnx"', 'uri = "file:m.onnx"\nsha265 = "ABC"'), "sha265", 6),
        (("[accept]", "[acccept]"), "acccept", 0),
    ],
)
def test_what_is_refused(change, says, line):
    assert change[0] in LINES
    with pytest.raises(ConfigError) as refused:
        read(LINES.replace(*change, 1))
    assert says in str(refused.value)
    if line:
        assert refused.value.where == f"models/m.toml:{line}"
    else:
        assert (refused.value.where or "").startswith("models/m.toml")


def test_a_name_of_its_own_is_its_files():
    with pytest.raises(ConfigError, match=r"its file is m\.toml"):
        read('name = "other"\n' + LINES)


def test_a_recipe_needs_inputs():
    start, end = LINES.index("[[inputs]]"), LINES.index("[task]")
    with pytest.raises(ConfigError, match="at least one"):
        read(LINES[:start] + LINES[end:])


@pytest.mark.parametrize("path", PACKAGED, ids=lambda p: p.stem)
def test_a_packaged_recipe_is_pinned_licensed_and_has_a_contract(path):
    recipe = load_recipe(path)
    sources = [recipe.source, *recipe.packages, *recipe.task_files.values()]
    sources += [s.source for s in (*recipe.calibration, *recipe.evaluation) if s.source]
    for source in sources:
        assert source.sha256 or source.uri.startswith(("file:", "torch:")), source
    assert recipe.serial >= 1
    assert not recipe.license.startswith("LicenseRef-unknown")
    assert recipe.contract
    assert recipe.calibration
    assert recipe.evaluation


@given(st.text(max_size=200))
def test_any_text_is_a_recipe_or_a_config_error(text):
    with pytest.raises(ConfigError):
        read(text)
