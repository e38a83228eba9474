"""A recipe from an .onnx file: whatever its tensors are called, it reads back as it was meant."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.toolchain.recipe import load_recipe
from edgekit.toolchain.scaffold import model_name, recipe_for_file, recipe_text
from edgekit.toolchain.scaffold_data import DataOptions
from edgekit.wire.canonical import sha256_file
from edgekit.wire.errors import BuildError, ConfigError, UsageError


def save(
    path: Path, inputs: dict[str, list[int | str]], outputs: dict[str, list[int | str]], dtype=1
):
    """Write a model of Identity nodes: each output copies an input."""
    import onnx
    from onnx import helper

    sources = list(inputs)
    nodes = [
        helper.make_node("Identity", [sources[i % len(sources)]], [name])
        for i, name in enumerate(outputs)
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, dtype, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, dtype, s) for n, s in outputs.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), str(path))
    return path


# Exporters name tensors as they like: "serving_default_x:0", "model/a.b", quotes, any script.
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
dims = st.one_of(st.integers(min_value=1, max_value=9999), names)
shapes = st.lists(dims, max_size=4)


@settings(max_examples=60, deadline=None)
@given(
    ports=st.dictionaries(names, shapes, min_size=2, max_size=4),
    file=st.text(
        st.characters(categories=["L", "N", "P", "Zs"], exclude_characters="/"), max_size=12
    ),
)
def test_any_names_survive_the_way_through_toml(ports, file):
    (first, *rest) = ports
    with tempfile.TemporaryDirectory() as scratch:
        project = Path(scratch)
        model = save(
            project / f"m {file}.onnx",
            {first: ports[first]},
            {name: ports[name] for name in rest},
        )
        (project / "models").mkdir()
        path = project / "models" / "m.toml"
        path.write_text(recipe_text(model, None, path.parent), encoding="utf-8")
        recipe = load_recipe(path)
        assert [t.name for t in recipe.inputs] == [first]
        assert [t.name for t in recipe.outputs] == rest
        assert recipe.inputs[0].shape == tuple(ports[first])
        assert [t.shape for t in recipe.outputs] == [tuple(ports[name]) for name in rest]
        assert recipe.task_options["inputs"] == [first]
        assert recipe.source.sha256 == sha256_file(model)
        assert (
            recipe.folder / recipe.source.uri.removeprefix("file:")
        ).resolve() == model.resolve()


@given(st.text())
def test_any_file_gives_a_plain_name(stem):
    name = model_name(Path(f"{stem.replace('/', '').replace(chr(0), '')}.onnx"))
    assert name.replace("-", "").isalnum()
    assert name.isascii()
    assert name == name.lower().strip("-")


@pytest.fixture
def arrays(tmp_path):
    folder = tmp_path / "samples"
    folder.mkdir()
    for index in range(32):
        np.savez(folder / f"{index}.npz", x=np.zeros(3, np.float32))
    return folder


def test_arrays_split_into_disjoint_halves(tmp_path, arrays):
    model = save(tmp_path / "My Model.v2.onnx", {"x": [3]}, {"y": [3]})
    recipe = recipe_for_file(model, arrays)
    assert (recipe.name, recipe.task) == ("my-model-v2", "tensors")
    assert recipe.contract_for("rpi5")[0].metric == "output_cosine"
    halves = [spec.options["take"] for spec in (*recipe.calibration, *recipe.evaluation)]
    assert halves == ["even", "odd"]
    assert recipe.calibration[0].options["include"] == ["**/*.npz"]


def test_too_few_samples_are_counted_before_they_are_halved(tmp_path, arrays):
    model = save(tmp_path / "m.onnx", {"x": [3]}, {"y": [3]})
    (arrays / "0.npz").unlink()
    assert recipe_for_file(model, arrays).calibration
    (arrays / "1.npz").unlink()
    with pytest.raises(ConfigError, match="30 samples are too few") as caught:
        recipe_for_file(model, arrays)
    assert caught.value.hint == "give at least 32, as varied as the field"
    assert recipe_text(model, arrays, tmp_path), "a recipe may be written before the samples are"


def test_pictures_make_a_classifier(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "cats").mkdir(parents=True)
    (folder / "cats" / "a.JPG").write_bytes(b"")
    for index in range(30):
        (folder / f"b{index}.png").write_bytes(b"")
    model = save(tmp_path / "m.onnx", {"in": ["N", 3, 96, 128]}, {"out": ["N", 7]})
    recipe = recipe_for_file(model, folder)
    assert recipe.task == "classify-image"
    assert recipe.task_options["size"] == [128, 96]
    # As they are spelled: a glob tells large letters from small ones.
    assert recipe.calibration[0].options["include"] == ["**/*.png", "**/*.JPG"]
    flat = save(tmp_path / "flat.onnx", {"in": [5]}, {"out": [5]})
    with pytest.raises(ConfigError, match="pictures need a classifier"):
        recipe_for_file(flat, folder)


def test_sounds_make_windows_of_the_inputs_length(tmp_path):
    folder = tmp_path / "sounds"
    folder.mkdir()
    for name in ("a.wav", "b.WAV", "notes.txt"):
        (folder / name).write_bytes(b"")
    model = save(tmp_path / "m.onnx", {"wave": ["N", 512]}, {"out": ["N", 7]})
    recipe = recipe_for_file(model, folder, DataOptions(sample_rate_hz=8000))
    assert (recipe.task, recipe.contract_for("rpi5")[0].metric) == ("tensors", "output_cosine")
    spec = recipe.calibration[0]
    assert (spec.reader, spec.options["rate_hz"], spec.options["shape"]) == (
        "sounds",
        8000,
        [1, 512],
    )
    assert spec.options["include"] == ["**/*.WAV", "**/*.wav"]
    with pytest.raises(UsageError, match="--tokenizer is for texts; the folder holds sounds"):
        recipe_for_file(model, folder, DataOptions(tokenizer=model))


@pytest.mark.parametrize(("rate_hz", "frame", "context"), [(16000, 512, 64), (8000, 256, 32)])
def test_speech_detectors_are_known_by_their_names(tmp_path, rate_hz, frame, context):
    folder = tmp_path / "sounds"
    folder.mkdir()
    for name in ("a.wav", "b.wav"):
        (folder / name).write_bytes(b"")
    inputs = {"input": ["?", "?"], "state": [2, "?", 128]}
    model = save(tmp_path / "m.onnx", inputs, {"output": ["?", 1], "stateN": ["?", "?", "?"]})
    recipe = recipe_for_file(model, folder, DataOptions(sample_rate_hz=rate_hz))
    assert (recipe.task, recipe.contract_for("rpi5")[0].metric) == (
        "detect-speech",
        "frame_agreement",
    )
    options = recipe.task_options
    assert (options["frame"], options["context"], options["state_shape"]) == (
        frame,
        context,
        [2, 1, 128],
    )
    bare = save(tmp_path / "m.onnx", {**inputs, "input": [1, 512]}, {"output": [1], "stateN": [1]})
    assert recipe_for_file(bare, folder).task_options["context"] == 0
    with pytest.raises(ConfigError, match="no sounds at 44100 Hz"):
        recipe_for_file(bare, folder, DataOptions(sample_rate_hz=44100))
    odd = save(tmp_path / "m.onnx", {**inputs, "input": [1, 600]}, {"output": [1], "stateN": [1]})
    with pytest.raises(ConfigError, match="takes 600 samples"):
        recipe_for_file(odd, folder)


def test_texts_need_the_models_tokenizer(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("\n".join(f"text {i}" for i in range(40)))
    ports = {"input_ids": ["b", "t"], "attention_mask": ["b", "t"]}
    model = save(tmp_path / "m.onnx", ports, {"out": ["b", 7], "out2": ["b", 7]}, dtype=7)
    with pytest.raises(ConfigError, match="need the model's tokenizer") as caught:
        recipe_for_file(model, folder)
    assert caught.value.where == str(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    recipe = recipe_for_file(model, folder)
    spec = recipe.evaluation[0]
    assert (recipe.task, spec.reader, spec.options["lines"]) == ("tensors", "text-lines", "odd")
    assert spec.extra["tokenizer"].sha256 == sha256_file(tmp_path / "tokenizer.json")
    assert spec.options["inputs"] == ["input_ids", "attention_mask"]
    flat = save(tmp_path / "m.onnx", {"input_ids": ["t"]}, {"out": ["t"]}, dtype=7)
    with pytest.raises(ConfigError, match="texts need the inputs"):
        recipe_for_file(flat, folder)


def test_links_are_no_samples(tmp_path, arrays):
    model = save(tmp_path / "m.onnx", {"x": [3]}, {"y": [3]})
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in arrays.iterdir():
        (linked / path.name).symlink_to(path)
    with pytest.raises(ConfigError, match="symbolic links are left out"):
        recipe_for_file(model, linked)


def test_a_file_name_that_is_not_unicode_is_refused(tmp_path):
    model = save(tmp_path / "m.onnx", {"x": [3]}, {"y": [3]})
    odd = model.rename(tmp_path / "m\udcff.onnx")  # the byte 0xff
    with pytest.raises(UsageError, match="not Unicode"):
        recipe_text(odd, None, tmp_path)


def test_what_no_recipe_can_be_made_of(tmp_path, arrays):
    model = save(tmp_path / "m.onnx", {"x": [3]}, {"y": [3]})
    with pytest.raises(UsageError, match="no such file"):
        recipe_for_file(tmp_path / "none.onnx", arrays)
    with pytest.raises(ConfigError, match="no such folder"):
        recipe_for_file(model, tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no samples"):
        recipe_for_file(model, tmp_path / "empty")
    (tmp_path / "half.onnx").write_bytes(model.read_bytes()[:20])
    with pytest.raises(BuildError, match="ONNX"):
        recipe_for_file(tmp_path / "half.onnx", arrays)
