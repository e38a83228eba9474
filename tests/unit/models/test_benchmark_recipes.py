"""The recipes of the quantization benchmark: whole, disjoint, their networks what they say."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import onnx
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

ROOT = Path(__file__).parents[3]
MODELS = ROOT / "benchmarks" / "quant" / "models"
NAMES = sorted(path.stem for path in MODELS.glob("*.toml"))
AGREEMENTS = {"top1_agreement", "box_f1_agreement"}
TRAINED = {"cifar10-cnn": (790_000, 8), "fashion-cnn": (190_000, 13)}


def recipe(name: str, folder: Path = MODELS) -> Recipe:
    return load_recipe(folder / f"{name}.toml")


def load(loaded: Recipe, cache: Path) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    tools = Fetcher(Cache(cache), loaded.folder, ignore, offline=False)
    calibration = load_set(loaded.calibration, tools, "test")
    evaluation = load_set(loaded.evaluation, tools, "test")
    check_disjoint(calibration, evaluation, loaded.file)
    return calibration.samples, evaluation.samples


def test_the_four_are_there():
    assert {"cifar10-cnn", "efficientnet-lite2", "fashion-cnn", "nudenet-320n"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_whole_and_pinned(name):
    loaded = recipe(name)
    sources = [loaded.source, *loaded.packages, *loaded.task_files.values()]
    sources += [d.source for d in (*loaded.calibration, *loaded.evaluation) if d.source]
    for source in sources:
        assert source.sha256 or source.uri.startswith("torch:"), source.uri
    for data in (*loaded.calibration, *loaded.evaluation):
        assert data.reader in reader_names()
    create_task(loaded.task, loaded.task_options, {})


@pytest.mark.parametrize("name", NAMES)
def test_the_contract_is_the_benchmarks(name):
    limits = {limit.metric: limit for limit in recipe(name).contract_for("x86-64-vnni")}
    (agreement,) = AGREEMENTS & set(limits)
    assert limits[agreement].minimum == 0.97
    assert "size_mib" in limits
    assert "latency_p95_ms" in limits
    if name in TRAINED:
        assert (limits["top1_accuracy"].minimum, limits["top1_accuracy"].vs) == (-0.01, "fp32")


@pytest.mark.parametrize("name", sorted(TRAINED))
def test_the_committed_network_is_the_pinned_one(name):
    path = MODELS / f"{name}.onnx"
    assert sha256_file(path) == recipe(name).source.sha256
    assert path.stat().st_size < 4 << 20
    graph = onnx.load(path).graph
    parameters, convolutions = TRAINED[name]
    assert sum(onnx.numpy_helper.to_array(t).size for t in graph.initializer) > parameters
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["Conv"] == kinds["BatchNormalization"] == convolutions


@pytest.mark.network
@pytest.mark.parametrize(("name", "least"), [("cifar10-cnn", 0.8), ("fashion-cnn", 0.9)])
def test_a_trained_network_is_right_on_pictures_that_it_never_saw(name, least, shared_cache):
    loaded = recipe(name)
    calibration, evaluation = load(loaded, shared_cache)
    assert len(calibration) == 256
    assert len(evaluation) == 1000
    assert all(len({s.label for s in part}) == 10 for part in (calibration, evaluation))
    task = create_task(loaded.task, loaded.task_options, {})
    predict = partial(task.predict, runner(open_session(MODELS / f"{name}.onnx")))
    predictions = [predict(s.data) for s in evaluation]
    assert score("top1_accuracy", predictions, [s.label for s in evaluation]).value >= least


@pytest.mark.network
def test_efficientnet_lite2_is_evaluated_on_the_pictures_of_lite0(shared_cache):
    evaluations = [
        load(loaded, shared_cache)[1]
        for loaded in (
            recipe("efficientnet-lite2"),
            recipe("efficientnet-lite0", ROOT / "models"),
        )
    ]
    assert evaluations[0] == evaluations[1]


@pytest.mark.network
def test_nudenet_finds_the_faces_of_a_portrait(shared_cache):
    loaded = recipe("nudenet-320n")
    calibration, evaluation = load(loaded, shared_cache)
    assert len(calibration) == 130
    assert len(evaluation) == 197
    photographs = [{s.name.partition("@")[0] for s in part} for part in (calibration, evaluation)]
    assert photographs[0].isdisjoint(photographs[1])
    model = fetch(
        loaded.source,
        cache=Cache(shared_cache),
        folder=loaded.folder,
        on_event=ignore,
        offline=False,
    )
    task = create_task(loaded.task, loaded.task_options, {})
    picture = next(s for s in evaluation if s.name == "sample6.jpg@1.0")
    found = task.predict(runner(open_session(model)), picture.data)["boxes"]
    assert Counter(box["label"] for box in found)["FACE_FEMALE"] == 4
