from __future__ import annotations

import dataclasses
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from edgekit.agent.batching import Batcher, is_batchable
from edgekit.agent.lane import Limits
from edgekit.runtime.pipeline import Pipeline
from edgekit.wire.errors import BuildError
from edgekit.wire.manifest import Tensor

from .conftest import DOUBLE, doubling


class Counting:
    """Doubles, and notes how many rows each call had; a NaN makes a call fail."""

    def __init__(self, pause_s: float = 0.0) -> None:
        self.rows: list[int] = []
        self.pause_s = pause_s

    def __call__(self, feeds: Any) -> dict[str, Any]:
        self.rows.append(feeds["x"].shape[0])
        time.sleep(self.pause_s)
        if np.isnan(feeds["x"]).any():
            raise BuildError("NaN")
        return doubling(feeds)


def together(count: int, batcher: Batcher, feeds: list[dict[str, Any]]) -> list[Any]:
    barrier = threading.Barrier(count)

    def call(feed: dict[str, Any]) -> Any:
        barrier.wait()
        try:
            return batcher(feed)["y"]
        except BuildError as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(call, feeds))


def test_calls_at_the_same_time_share_one(engine) -> None:
    run = Counting()
    batcher = Batcher(run, max_batch=4, max_wait_s=5, expected=lambda: 4)
    feeds = [{"x": np.full((1, 2), float(i), np.float32)} for i in range(4)]
    answers = together(4, batcher, feeds)
    assert run.rows == [4]
    assert [float(a[0, 0]) for a in answers] == [0, 2, 4, 6]


def test_one_alone_does_not_wait() -> None:
    run = Counting()
    batcher = Batcher(run, max_batch=4, max_wait_s=60, expected=lambda: 1)
    assert batcher({"x": np.ones((1, 2), np.float32)})["y"].tolist() == [[2, 2]]
    assert run.rows == [1]


def test_nobody_waits_longer_than_said() -> None:
    run = Counting()
    batcher = Batcher(run, max_batch=4, max_wait_s=0.05, expected=lambda: 4)
    assert len(together(2, batcher, [{"x": np.ones((1, 2), np.float32)}] * 2)) == 2
    assert sum(run.rows) == 2


def test_other_shapes_do_not_meet() -> None:
    run = Counting()
    batcher = Batcher(run, max_batch=4, max_wait_s=0.05, expected=lambda: 2)
    feeds = [{"x": np.ones((1, 2), np.float32)}, {"x": np.ones((1, 3), np.float32)}]
    assert [a.shape for a in together(2, batcher, feeds)] == [(1, 2), (1, 3)]


def test_nobody_fails_for_what_another_has_sent() -> None:
    run = Counting()
    batcher = Batcher(run, max_batch=3, max_wait_s=5, expected=lambda: 3)
    feeds = [{"x": np.full((1, 2), v, np.float32)} for v in (1.0, np.nan, 3.0)]
    one, bad, three = together(3, batcher, feeds)
    assert isinstance(bad, BuildError)
    assert (one.tolist(), three.tolist()) == ([[2, 2]], [[6, 6]])
    assert sorted(run.rows) == [1, 1, 1, 3]


def test_a_model_that_mixes_rows_is_called_alone() -> None:
    def mixing(feeds: Any) -> dict[str, Any]:
        return {"y": feeds["x"].sum(axis=0, keepdims=True)}

    batcher = Batcher(mixing, max_batch=2, max_wait_s=5, expected=lambda: 2)
    feeds = [{"x": np.full((1, 2), v, np.float32)} for v in (1.0, 5.0)]
    assert [a.tolist() for a in together(2, batcher, feeds)] == [[[1, 1]], [[5, 5]]]


def test_a_lane_batches_what_comes_together(engine) -> None:
    run = Counting(0.002)
    pipeline = Pipeline(None, run)  # type: ignore[arg-type]
    engine.serve(DOUBLE, pipeline, limits=Limits(max_batch=8, max_wait_ms=200, queue=100))

    def ask(value: int) -> float:
        return float(engine.infer("double", {"x": np.full((1, 2), value, np.float32)})["y"][0, 0])

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(200))) == [2.0 * v for v in range(200)]
    assert sum(run.rows) == 200
    assert max(run.rows) > 1


@pytest.mark.parametrize(
    ("first", "kind", "expected"),
    [("n", "static-int8", True), (1, "static-int8", False), ("n", "dynamic", False)],
)
def test_only_free_first_dimensions_are_batched(small_bundle, first, kind, expected) -> None:
    manifest = dataclasses.replace(
        small_bundle.manifest,
        inputs=(Tensor("x", "float32", (first, 2)),),
        outputs=(Tensor("y", "float32", (first, 2)),),
        golden=dataclasses.replace(small_bundle.manifest.golden, graph_kind=kind),
    )
    assert is_batchable(manifest) is expected
