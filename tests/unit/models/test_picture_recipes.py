"""The recipes for pictures: they parse, their data are disjoint, the committed network is right."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.runtime.session import open_session, runner
from edgekit.runtime.tasks import create_task
from edgekit.toolchain.cache import Cache
from edgekit.toolchain.events import ignore
from edgekit.toolchain.metrics import score
from edgekit.toolchain.readers import Sample, reader_names
from edgekit.toolchain.recipe import Recipe, load_recipe
from edgekit.toolchain.samples import Fetcher, check_disjoint, load_set
from edgekit.toolchain.sources import fetch
from edgekit.wire.canonical import sha256_file

MODELS = Path(__file__).parents[3] / "models"
NAMES = ("digits-cnn", "efficientnet-lite0", "yolo11n")


def recipe(name: str) -> Recipe:
    return load_recipe(MODELS / f"{name}.toml")


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_whole_and_pinned(name):
    loaded = recipe(name)
    assert loaded.contract
    assert loaded.calibration
    assert loaded.evaluation
    sources = [loaded.source, *loaded.packages, *loaded.task_files.values()]
    sources += [d.source for d in (*loaded.calibration, *loaded.evaluation) if d.source]
    for source in sources:
        assert source.sha256 or source.uri.startswith("torch:"), source.uri
    for data in (*loaded.calibration, *loaded.evaluation):
        assert data.reader in reader_names()


@pytest.mark.parametrize("name", NAMES)
def test_the_task_takes_the_recipes_options(name):
    loaded = recipe(name)
    create_task(loaded.task, loaded.task_options, {})


def test_the_committed_network_is_the_pinned_one():
    path = MODELS / "digits-cnn.onnx"
    assert sha256_file(path) == recipe("digits-cnn").source.sha256
    assert path.stat().st_size < 200_000


def load(name: str, cache: Path) -> tuple[Recipe, tuple[Sample, ...], tuple[Sample, ...]]:
    loaded = recipe(name)
    tools = Fetcher(Cache(cache), loaded.folder, ignore, offline=False)
    calibration = load_set(loaded.calibration, tools, "test")
    evaluation = load_set(loaded.evaluation, tools, "test")
    check_disjoint(calibration, evaluation, loaded.file)
    return loaded, calibration.samples, evaluation.samples


@pytest.mark.network
def test_digits_cnn_reads_digits(shared_cache):
    loaded, calibration, evaluation = load("digits-cnn", shared_cache)
    assert len(calibration) == 64
    assert len(evaluation) == 533
    rows = {s.name for s in (*calibration, *evaluation)}
    assert rows == {f"digit-{row:04}.npy" for row in range(1200, 1797)}  # none was trained on
    task = create_task(loaded.task, loaded.task_options, {})
    run = runner(open_session(MODELS / "digits-cnn.onnx"))
    predictions = [task.predict(run, s.data) for s in evaluation]
    result = score("top1_accuracy", predictions, [s.label for s in evaluation])
    assert result.value >= 0.97


@pytest.mark.network
def test_efficientnet_has_220_samples_of_which_20_are_labelled(shared_cache):
    _, calibration, evaluation = load("efficientnet-lite0", shared_cache)
    assert len(calibration) == 64
    assert len(evaluation) == 220
    labels = [s.label for s in evaluation if s.label is not None]
    assert len(labels) == 20
    assert all(isinstance(label, int) and 0 <= label < 1000 for label in labels)


@pytest.mark.network
def test_yolo11n_finds_what_is_on_its_own_test_picture(shared_cache):
    loaded, calibration, evaluation = load("yolo11n", shared_cache)
    assert len(calibration) == 64
    assert len(evaluation) == 165

    def fetched(ref) -> Path:
        return fetch(
            ref,
            cache=Cache(shared_cache),
            folder=loaded.folder,
            on_event=ignore,
            offline=False,
        )

    files = {name: fetched(ref).read_bytes() for name, ref in loaded.task_files.items()}
    task = create_task(loaded.task, loaded.task_options, files)
    run = runner(open_session(fetched(loaded.source)))
    picture = next(s for s in evaluation if s.name == "testimg.png@1.0")
    labels = [box["label"] for box in task.predict(run, picture.data)["boxes"]]
    assert sorted(labels) == ["dog", "person", "person"]
