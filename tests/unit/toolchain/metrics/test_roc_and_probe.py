"""Area under the ROC curve; accuracy of a linear probe."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.toolchain.metrics import score
from edgekit.toolchain.metrics.probe_accuracy import RIDGE
from edgekit.wire.errors import ConfigError


def scores(values):
    return [{"score": v} for v in values]


def test_area_is_the_share_of_ordered_pairs():
    found = score("roc_auc", scores([0.9, 0.4, 0.5, 0.1]), [1, 1, 0, 0])
    assert found.value == 0.75
    assert score("roc_auc", scores([0.5, 0.5]), [1, 0]).value == 0.5


def test_frames_are_averaged():
    predictions = [{"frames": [1.0, 0.0]}, {"frames": [0.4]}]
    assert score("roc_auc", predictions, [1, 0]).value == 1.0
    assert score("roc_auc", predictions, [0, 1]).value == 0.0


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=40))
def test_the_interval_holds_the_area(pairs):
    labels = [int(label) for _, label in pairs]
    if len(set(labels)) == 1:
        return
    found = score("roc_auc", scores([float(v) for v, _ in pairs]), labels)
    assert 0 <= found.value <= 1
    if min(sum(labels), len(labels) - sum(labels)) < 10:
        assert found.interval is None
        return
    low, high = found.interval
    assert 0 <= low <= found.value <= high <= 1


def test_the_interval_covers_what_other_draws_give():
    random = np.random.RandomState(3)
    draws = [
        score("roc_auc", scores([*random.normal(1, 1, 60), *random.normal(0, 1, 140)]), labels)
        for labels in [[1] * 60 + [0] * 140] * 200
    ]
    # Two normal distributions, one deviation apart: the area is Phi(1 / sqrt(2)).
    covered = np.mean([d.interval[0] <= 0.760250 <= d.interval[1] for d in draws])
    assert 0.90 <= covered <= 0.99


@pytest.mark.parametrize(
    ("predictions", "labels", "words"),
    [
        (scores([0.1, 0.2]), [1, 1], "both labels"),
        (scores([0.1, 0.2]), [1, 2], "0 and 1"),
        ([{"text": "a"}, {"text": "b"}], [0, 1], "frames or a score"),
    ],
)
def test_unfit_samples_are_refused(predictions, labels, words):
    with pytest.raises(ConfigError, match=words):
        score("roc_auc", predictions, labels)


def embeddings(rows):
    return [{"embedding": list(row)} for row in rows]


def test_the_probe_is_a_refit_without_each_sample():
    random = np.random.RandomState(4)
    rows = random.normal(size=(24, 3))
    labels = [int(v) for v in rows[:, 0] + 0.8 * random.normal(size=24) > 0]
    found = score("probe_accuracy", embeddings(rows), labels)
    inputs = np.hstack([rows, np.ones((24, 1))])
    penalty = np.diag([RIDGE, RIDGE, RIDGE, 1e-9])
    truth = np.where(np.array(labels) == 1, 1.0, -1.0)
    expected = []
    for index in range(24):
        kept = np.arange(24) != index
        weights = np.linalg.solve(
            inputs[kept].T @ inputs[kept] + penalty, inputs[kept].T @ truth[kept]
        )
        expected.append(float((inputs[index] @ weights > 0) == (truth[index] > 0)))
    assert list(found.scores) == expected
    assert found.value == pytest.approx(np.mean(expected))


def test_embeddings_without_the_truth_read_as_chance():
    random = np.random.RandomState(5)
    labels = [int(v) for v in random.uniform(size=400) > 0.5]
    blind = score("probe_accuracy", embeddings(random.normal(size=(400, 20))), labels)
    assert 0.4 < blind.value < 0.6
    seeing = score("probe_accuracy", embeddings([[2.0 * v - 1, 0.3] for v in labels]), labels)
    assert seeing.value == 1.0


@pytest.mark.parametrize(
    ("predictions", "labels", "words"),
    [
        (embeddings(np.eye(4)), [0, 1, 0, 1], "10 labelled"),
        (embeddings(np.eye(12)), [1] * 12, "both"),
        (embeddings(np.eye(12)), ["a", "b"] * 6, "0 and 1"),
        ([{"top": []}] * 12, [0, 1] * 6, "embeddings"),
    ],
)
def test_unfit_embeddings_are_refused(predictions, labels, words):
    with pytest.raises(ConfigError, match=words):
        score("probe_accuracy", predictions, labels)
