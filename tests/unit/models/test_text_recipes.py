"""The recipes for text in pictures: pinned, disjoint, and their models read what is rendered."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.runtime.session import open_session, runner
from edgekit.runtime.tasks import create_task
from edgekit.toolchain.cache import Cache
from edgekit.toolchain.events import ignore
from edgekit.toolchain.graph import Graph
from edgekit.toolchain.metrics import metric_names, score
from edgekit.toolchain.recipe import Recipe, load_recipe
from edgekit.toolchain.samples import Fetcher, check_disjoint, load_set
from edgekit.toolchain.sources import fetch
from edgekit.wire.canonical import sha256_file

MODELS = Path(__file__).parents[3] / "models"
NAMES = ("ppocr-v4-rec", "ppocr-v4-det")


def recipe(name: str) -> Recipe:
    return load_recipe(MODELS / f"{name}.toml")


def files(loaded: Recipe) -> dict[str, bytes]:
    return {
        name: (MODELS / source.uri.removeprefix("file:")).read_bytes()
        for name, source in loaded.task_files.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_whole_and_pinned(name):
    loaded = recipe(name)
    assert loaded.metric in metric_names()
    assert loaded.metric in loaded.contract
    data = (*loaded.calibration, *loaded.evaluation)
    sources = [loaded.source, *loaded.task_files.values()]
    sources += [d.source for d in data if d.source]
    sources += [extra for d in data for extra in d.extra.values()]
    assert all(len(source.sha256) == 64 for source in sources)
    assert all(source.uri.startswith(("pypi:", "file:")) for source in sources)
    create_task(loaded.task, loaded.task_options, files(loaded))


def test_the_character_file_is_the_pinned_one():
    pinned = recipe("ppocr-v4-rec").task_files["characters"]
    assert sha256_file(MODELS / pinned.uri.removeprefix("file:")) == pinned.sha256


def fetched(loaded: Recipe, cache: Path) -> Path:
    return fetch(loaded.source, cache=Cache(cache), folder=MODELS, on_event=ignore, offline=False)


@pytest.mark.network
def test_the_characters_are_those_in_the_models_own_metadata(shared_cache):
    loaded = recipe("ppocr-v4-rec")
    proto = Graph.load(fetched(loaded, shared_cache)).proto
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    assert files(loaded)["characters"].decode() == metadata["character"]


@pytest.mark.network
@pytest.mark.parametrize(("name", "labelled"), [("ppocr-v4-rec", 240), ("ppocr-v4-det", 60)])
def test_the_sets_are_disjoint_and_the_model_does_what_it_should(name, labelled, shared_cache):
    loaded = recipe(name)
    tools = Fetcher(Cache(shared_cache), MODELS, ignore, offline=False)
    calibration = load_set(loaded.calibration, tools, "test")
    evaluation = load_set(loaded.evaluation, tools, "test")
    check_disjoint(calibration, evaluation, loaded.file)
    assert len(calibration.samples) >= 16
    known = [s for s in evaluation.samples if s.label is not None]
    assert len(known) == labelled
    task = create_task(loaded.task, loaded.task_options, files(loaded))
    run = runner(open_session(fetched(loaded, shared_cache)))
    few = known[::6]
    assert loaded.metric is not None
    predictions = [task.predict(run, s.data) for s in few]
    assert score(loaded.metric, predictions, [s.label for s in few]).value >= 0.9
