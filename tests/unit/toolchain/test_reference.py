"""The drift reference: silent on what calibration saw, loud on what it did not."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.agent.telemetry import Meter, ModelReference
from edgekit.runtime.reference import Calibrated, observe_answer, observe_call, parse_reference
from edgekit.runtime.session import Run, open_session, runner
from edgekit.runtime.sketches import PSI_MUCH, psi
from edgekit.runtime.tasks import Task, create_task
from edgekit.toolchain.api import find_recipe
from edgekit.toolchain.cache import Cache
from edgekit.toolchain.events import ignore
from edgekit.toolchain.readers import Sample
from edgekit.toolchain.reference import binned, bins_for, class_mix, make_calibrated
from edgekit.toolchain.samples import Fetcher, load_set

ROOT = Path(__file__).resolve().parents[3]
finite = st.floats(-1e30, 1e30, allow_nan=False)


@pytest.fixture(scope="module")
def digits(shared_cache: Path) -> tuple[Task, Run, tuple[Sample, ...], tuple[Sample, ...]]:
    """The task, the model, its calibration samples and other ones of the same kind."""
    recipe = find_recipe("digits-cnn", ROOT)
    fetcher = Fetcher(Cache(shared_cache), recipe.folder, ignore, False)
    calibration = load_set(recipe.calibration, fetcher, "test")
    evaluation = load_set(recipe.evaluation, fetcher, "test")
    task = create_task(recipe.task, recipe.task_options, {})
    run = runner(open_session(ROOT / "models" / "digits-cnn.onnx"))
    return task, run, calibration.samples, evaluation.samples


def drifts(reference: Calibrated, task: Task, run: Run, samples: Sequence[bytes]) -> dict:
    """Serve samples as a device does, and return what its telemetry says of drift."""
    meter = Meter(ModelReference(reference.values, reference.classes))

    def watched(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = run(feeds)
        for name, value in observe_call(reference, feeds, outputs):
            meter.saw_value(name, value)
        return outputs

    for data in samples:
        seen = observe_answer(reference, task.predict(watched, data))
        for name, value in seen.values:
            meter.saw_value(name, value)
        for label, confidence in seen.classes:
            meter.saw_class(label, confidence)
    return meter.take().to_json(meter.reference)["drift"]


def changed(samples: Sequence[Sample], change: Callable[[np.ndarray], np.ndarray]) -> list[bytes]:
    out = []
    for sample in samples:
        pixels = np.load(io.BytesIO(sample.data)).astype(np.float64)
        buffer = io.BytesIO()
        np.save(buffer, np.clip(change(pixels), 0, 255).astype(np.uint8))
        out.append(buffer.getvalue())
    return out


@pytest.mark.network
class TestDigits:
    def test_nothing_has_drifted_on_the_calibration_samples(self, digits) -> None:
        task, run, calibration, _ = digits
        reference = make_calibrated(task, run, calibration)
        found = drifts(reference, task, run, [s.data for s in calibration])
        assert set(found) == {
            *("input.image.mean", "input.image.std", "input.image.step"),
            *("output.logits.mean", "output.logits.std", "output.confidence", "output.classes"),
        }
        assert all(row["psi"] == 0.0 for row in found.values())

    def test_other_digits_of_the_same_kind_raise_no_alarm(self, digits) -> None:
        task, run, calibration, evaluation = digits
        reference = make_calibrated(task, run, calibration)
        found = drifts(reference, task, run, [s.data for s in evaluation])
        assert {name: row for name, row in found.items() if row["level"] == "much"} == {}

    @pytest.mark.parametrize(
        ("change", "shown_by"),
        [
            (lambda x: x + 60, "input.image.mean"),
            (lambda x: x * 0.5, "input.image.mean"),
            (lambda x: x + np.random.default_rng(0).normal(0, 60, x.shape), "input.image.step"),
            (lambda x: (x + np.roll(x, 1, -1) + np.roll(x, 1, -2)) / 3, "input.image.step"),
            (lambda x: 255 - x, "output.confidence"),
        ],
        ids=["brighter", "darker", "noise", "blur", "inverted"],
    )
    def test_a_change_shows(self, digits, change, shown_by: str) -> None:
        task, run, calibration, evaluation = digits
        reference = make_calibrated(task, run, calibration)
        row = drifts(reference, task, run, changed(evaluation, change))[shown_by]
        assert row["psi"] > PSI_MUCH
        assert row["level"] == "much"

    def test_another_data_set_shows_in_what_goes_in_and_what_comes_out(self, digits) -> None:
        task, run, calibration, _ = digits
        reference = make_calibrated(task, run, calibration)
        random = np.random.default_rng(1)
        photos = [random.integers(0, 256, (8, 8)).cumsum(0) // 8 for _ in range(200)]
        data = []
        for pixels in photos:
            buffer = io.BytesIO()
            np.save(buffer, pixels.astype(np.uint8))
            data.append(buffer.getvalue())
        found = drifts(reference, task, run, data)
        for name in ("input.image.std", "output.confidence", "output.classes"):
            assert found[name]["psi"] > PSI_MUCH, name
            assert found[name]["level"] == "much", name

    def test_a_class_that_is_asked_for_alone_shows(self, digits) -> None:
        task, run, calibration, evaluation = digits
        reference = make_calibrated(task, run, calibration)
        sevens = [s.data for s in evaluation if s.label == 7]
        assert len(sevens) > 20
        found = drifts(reference, task, run, sevens)
        assert found["output.classes"]["level"] == "much"

    def test_the_same_samples_give_the_same_bytes_of_few_digits(self, digits) -> None:
        task, run, calibration, _ = digits
        first = make_calibrated(task, run, calibration).to_bytes()
        assert make_calibrated(task, run, calibration).to_bytes() == first
        assert len(first) < 2000
        edges = [e for r in parse_reference(first).values.values() for e in r.edges]
        assert edges
        assert all(float(f"{edge:.5g}") == edge for edge in edges)


def tensors(values: Sequence[np.ndarray]) -> list[Sample]:
    samples = []
    for index, value in enumerate(values):
        buffer = io.BytesIO()
        np.save(buffer, value)
        samples.append(Sample(str(index), buffer.getvalue(), ".npy"))
    return samples


TASK = create_task("tensors", {"inputs": ["x"]}, {})


def test_features_of_a_table_are_kept_one_by_one_and_constants_left_out() -> None:
    random = np.random.default_rng(0)
    rows = [np.array([[random.normal(), 5.0, random.uniform()]], np.float32) for _ in range(40)]

    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"y": feeds["x"][:, :1], "same": np.ones((1, 4), np.float32)}

    reference = make_calibrated(TASK, run, tensors(rows))
    assert set(reference.values) == {"input.x[0]", "input.x[2]", "output.y[0]"}
    assert reference.samples == 40


def test_a_mean_that_only_rounding_moves_is_left_out() -> None:
    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        powers = np.exp(feeds["x"])
        return {"probabilities": powers / powers.sum()}

    random = np.random.default_rng(0)
    samples = tensors([random.normal(size=(1, 200)).astype(np.float32) for _ in range(64)])
    reference = make_calibrated(TASK, run, samples)
    assert reference.tensors[1].numbers == ("std",)


def test_texts_and_flags_are_no_numbers_and_many_tensors_are_bounded() -> None:
    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        flags = {"flag": feeds["x"] > 0, "text": feeds["x"].astype(str)}
        return flags | {f"y{i}": feeds["x"] * i for i in range(1, 30)}

    random = np.random.default_rng(0)
    samples = tensors([random.normal(size=(1, 50)).astype(np.float32) for _ in range(30)])
    reference = make_calibrated(TASK, run, samples)
    assert [tensor.name for tensor in reference.tensors] == ["x", "y1", "y2", "y3", "y4", "y5"]


def test_shapes_that_change_are_compared_by_their_spread() -> None:
    random = np.random.default_rng(0)
    samples = tensors([random.normal(size=(1, 2 + i % 3)).astype(np.float32) for i in range(30)])
    reference = make_calibrated(TASK, lambda feeds: {"y": feeds["x"]}, samples)
    assert reference.tensors[0].numbers == ("mean", "std", "step")


@given(st.lists(finite, min_size=1, max_size=300))
def test_bins_hold_every_value_and_none_is_empty(values: list[float]) -> None:
    reference = binned(values)
    assert sum(reference.counts) == len(values)
    assert list(reference.edges) == sorted(set(reference.edges))
    assert len(reference.counts) == len(reference.edges) + 1
    if reference.edges:
        assert min(reference.counts) > 0
        assert psi(reference.counts, reference.counts) == 0
    else:
        close = max(values) - min(values) <= 1e-4 * max(map(abs, values))
        assert close or len(values) < 3


def test_bins_are_about_even_and_as_many_as_the_values_are_worth() -> None:
    random = np.random.default_rng(0)
    even = binned(random.normal(size=1000).tolist())
    assert len(even.counts) == 10
    assert max(even.counts) - min(even.counts) <= 2
    assert [bins_for(n) for n in (16, 64, 100, 1000)] == [3, 4, 6, 10]


def test_a_mix_of_classes_that_the_samples_cannot_tell_is_left_out() -> None:
    assert class_mix({"a": 30, "b": 20, "c": 1}) == {"a": 30, "b": 20, "c": 1}
    assert class_mix({str(i): 1 for i in range(64)}) == {}
    assert class_mix({}) == {}
