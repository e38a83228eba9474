"""``edgekit run``: a prediction at once, by the code that the device runs."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgekit.toolchain.cache import Cache
from edgekit.toolchain.events import ignore
from edgekit.toolchain.recipe import load_recipe
from edgekit.toolchain.samples import Fetcher, load_set

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bundle(downloads, fresh, tmp_path_factory):
    """digits-cnn for rpi5 and some labelled digits as files."""
    folder = tmp_path_factory.mktemp("run")
    cache = tmp_path_factory.getbasetemp() / "run-cache"

    shutil.copytree(downloads, cache)
    ran = fresh("build", "digits-cnn", "--target", "rpi5", "--cache-dir", cache, cwd=folder)
    assert ran.code == 0, ran.err
    recipe = load_recipe(ROOT / "models" / "digits-cnn.toml")
    fetcher = Fetcher(Cache(cache), recipe.folder, ignore, offline=True)
    samples = load_set(recipe.evaluation, fetcher, "test").samples[:30]
    digits = []
    for index, sample in enumerate(samples):
        path = folder / f"{index}{sample.suffix}"
        path.write_bytes(sample.data)
        digits.append((path, str(sample.label)))
    return folder / "dist" / "digits-cnn-rpi5.ekb", digits


@pytest.mark.network
def test_it_reads_digits(bundle, edgekit):
    path, digits = bundle
    ran = edgekit("run", path, *(file for file, _ in digits), "--json")
    assert (ran.code, ran.document["schema"]) == (0, "edgekit.run/1")
    assert (ran.document["model"], ran.document["task"]) == ("digits-cnn", "classify-image")
    results = ran.document["results"]
    assert [r["input"] for r in results] == [str(file) for file, _ in digits]
    right = [
        str(r["prediction"]["top"][0]["label"]) == label
        for r, (_, label) in zip(results, digits, strict=True)
    ]
    assert sum(right) >= 27
    assert all(len(r["prediction"]["top"]) == 3 for r in results)


@pytest.mark.network
def test_the_pictures_of_the_examples_are_what_they_are_called(bundle, edgekit):
    path, _ = bundle
    names = {"four": "4", "seven": "7", "zero": "0"}
    pictures = [ROOT / "examples" / "digits" / f"{name}.png" for name in names]
    results = edgekit("run", path, *pictures, "--json").document["results"]
    assert [r["prediction"]["top"][0]["label"] for r in results] == list(names.values())


@pytest.mark.network
def test_people_see_scores_and_labels(bundle, edgekit):
    path, digits = bundle
    file, label = digits[0]
    ran = edgekit("run", path, file)
    lines = ran.out.splitlines()
    assert lines[0] == str(file)
    score, shown = lines[1].split()
    assert 0 <= float(score) <= 1
    assert shown == label
    quiet = edgekit("run", path, file, "--quiet")
    assert (quiet.err, len(quiet.out.splitlines())) == ("", 1)


@pytest.mark.network
@pytest.mark.parametrize(
    ("make", "code", "says"),
    [
        (lambda d: d / "none.png", 2, "cannot be read: No such file"),
        (lambda d: d, 2, "cannot be read"),
        (lambda d: _junk(d, b"\x89PNG\r\n\x1a\n"), 3, ""),
        (lambda d: _junk(d, b""), 3, ""),
    ],
    ids=["missing", "folder", "truncated", "empty"],
)
def test_inputs_that_are_none(bundle, edgekit, tmp_path, make, code, says):
    path, _ = bundle
    ran = edgekit("run", path, make(tmp_path), "--json")
    assert ran.code == code, ran.out + ran.err
    assert says in ran.document["message"]
    assert ran.document["hint"]
    assert str(tmp_path) in ran.document["where"]
    assert "--text" not in ran.document["hint"], "no text goes into this model"


def _junk(folder: Path, data: bytes) -> Path:
    (folder / "junk.png").write_bytes(data)
    return folder / "junk.png"


@pytest.mark.network
def test_boxes_are_drawn_only_where_there_are_any(bundle, edgekit, tmp_path):
    path, digits = bundle
    drawn = tmp_path / "out.png"
    ran = edgekit("run", path, digits[0][0], "-o", drawn, "--json")
    assert (ran.code, drawn.exists()) == (2, False)
    assert "-o draws boxes" in ran.document["message"]
    both = edgekit("run", path, digits[0][0], digits[1][0], "-o", drawn, "--json")
    assert (both.code, both.document["message"]) == (2, "-o takes one input")


def test_a_bundle_that_is_none_or_not_ours(small_bundle, edgekit, tmp_path):
    array = io.BytesIO()
    np.save(array, np.zeros((1, 3, 16, 16), np.float32))
    sample = tmp_path / "x.npy"
    sample.write_bytes(array.getvalue())
    key = ("--key", small_bundle.public_key)
    ran = edgekit("run", small_bundle.path, sample, *key, "--json")
    assert ran.code == 0, ran.out
    assert ran.document["results"][0]["prediction"]["outputs"]["y"]["shape"] == [1, 8, 16, 16]
    shown = edgekit("run", small_bundle.path, sample, *key).out.splitlines()
    assert re.fullmatch(r"  y \[1, 8, 16, 16\]: (\S+ ){8}…   \(--json has 1024\)", shown[1])

    changed = tmp_path / "changed.ekb"
    data = bytearray(small_bundle.path.read_bytes())
    data[len(data) // 3] ^= 1
    changed.write_bytes(data)
    assert edgekit("run", changed, sample, *key).code == 7
    assert edgekit("run", sample, sample, *key).code == 7
    assert edgekit("run", tmp_path / "none.ekb", sample, *key).code in (2, 3, 7)
