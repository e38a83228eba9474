from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest

from edgekit.agent import engine as engine_module
from edgekit.agent.engine import Engine, predicting
from edgekit.agent.jobs import (
    BusyError,
    CancelledError,
    DroppedError,
    FailedError,
    Job,
    LateError,
    UnknownModelError,
)
from edgekit.agent.lane import LaneClosedError, Limits
from edgekit.runtime.pipeline import Pipeline
from edgekit.wire.bundle import open_bundle
from edgekit.wire.errors import ConfigError
from edgekit.wire.manifest import SessionOptions, Tensor
from edgekit.wire.signing import load_public_key

from .conftest import DOUBLE, doubling


def wait_for(condition: Any, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def submit(engine: Engine, data: bytes, **more: Any) -> tuple[Job, threading.Event]:
    ended = threading.Event()
    job = engine.submit("echo", predicting(data), lambda _job: ended.set(), **more)
    return job, ended


def test_a_prediction_is_counted_and_told(engine, echo, served) -> None:
    echo()
    assert engine.predict("echo", b"hello") == {"text": "hello", "version": "1"}
    wait_for(lambda: served)
    (name, latency_s, ok, prediction), stats = served[0], engine.stats("echo")
    assert (name, ok, prediction) == ("echo", True, {"text": "hello", "version": "1"})
    assert 0 < latency_s < 5
    assert (stats.served, stats.failed, sum(stats.latency_counts)) == (1, 0, 1)
    assert stats.service_s == pytest.approx(stats.latency_sum_s, rel=0.9)


def test_a_bundle_is_loaded_and_run_on_tensors(engine, small_bundle) -> None:
    key = load_public_key(small_bundle.public_key)
    with open_bundle(small_bundle.path, [key]) as bundle:
        engine.load(bundle.manifest, bundle.read)
    info = engine.info("small-conv")
    assert (info.task, info.version, info.batchable) == ("tensors", "1", False)
    x = np.random.default_rng(1).normal(size=(1, 3, 16, 16)).astype(np.float32)
    assert engine.infer("small-conv", {"x": x})["y"].shape == (1, 8, 16, 16)


def test_a_quick_model_has_one_thread_and_what_is_said_counts(
    engine, small_bundle, monkeypatch
) -> None:
    asked: list[int | None] = []
    real = engine_module.load_pipeline

    def noting(manifest: Any, read: Any, *, threads: int | None = None) -> Pipeline:
        asked.append(threads)
        return real(manifest, read, threads=threads)

    monkeypatch.setattr(engine_module, "load_pipeline", noting)
    session = SessionOptions("all", 4)
    manifest = dataclasses.replace(small_bundle.manifest, session=session)
    engine.load(manifest, small_bundle.members.__getitem__)
    assert asked == [1]
    engine.load(manifest, small_bundle.members.__getitem__, threads=3)
    assert asked == [1, 3]
    free = (Tensor("x", "float32", (1, 3, "h", "w")),)
    manifest = dataclasses.replace(manifest, inputs=free)
    engine.load(manifest, small_bundle.members.__getitem__)
    assert asked[-1] == min(4, len(os.sched_getaffinity(0)))


def test_what_the_caller_did_wrong_is_no_failure_of_the_model(engine, echo, served) -> None:
    echo()
    with pytest.raises(ConfigError, match="that is bad"):
        engine.predict("echo", b"bad")
    wait_for(lambda: engine.stats("echo").refused == 1)
    assert served == []


def test_a_bug_is_a_failure_and_the_next_request_is_served(engine, echo, served, caplog) -> None:
    echo()
    with pytest.raises(FailedError, match="failed on this request"):
        engine.predict("echo", b"bug")
    assert engine.predict("echo", b"next")["text"] == "next"
    wait_for(lambda: len(served) == 2)
    assert [told[2] for told in served] == [False, True]
    assert "ZeroDivisionError" in caplog.text


def test_an_unknown_model_names_those_there_are(engine, echo) -> None:
    echo()
    with pytest.raises(UnknownModelError) as caught:
        engine.predict("ecko", b"")
    assert caught.value.hint == "did you mean echo? served here: echo"


def test_a_full_queue_rejects_and_says_when(engine, echo) -> None:
    task = echo(queue=2)
    engine.predict("echo", b"first")  # a service time to reckon with
    task.entered.acquire()
    task.gate.clear()
    waiting = [submit(engine, b"0")[1]]
    task.entered.acquire()  # that one is being worked on
    waiting += [submit(engine, b"x")[1] for _ in range(2)]
    with pytest.raises(BusyError) as caught:
        submit(engine, b"one too many")
    service_s = engine.stats("echo").service_s
    assert caught.value.retry_after_s == pytest.approx(3 * service_s)
    task.gate.set()
    assert all(ended.wait(5) for ended in waiting)
    assert engine.stats("echo").rejected == 1


def test_a_camera_gets_the_newest_answered(engine, echo) -> None:
    task = echo(queue=2, policy="drop-oldest")
    task.gate.clear()
    submit(engine, b"0")
    task.entered.acquire()
    jobs = [submit(engine, str(i).encode()) for i in range(1, 6)]
    task.gate.set()
    assert all(ended.wait(5) for _, ended in jobs)
    assert [job.result["text"] for job, _ in jobs[-2:]] == ["4", "5"]
    assert all(isinstance(job.error, DroppedError) for job, _ in jobs[:-2])
    assert engine.stats("echo").dropped == 3


def test_who_may_wait_gets_room(engine, echo) -> None:
    task = echo(queue=1)
    task.gate.clear()
    submit(engine, b"0")
    task.entered.acquire()
    submit(engine, b"1")
    threading.Timer(0.1, task.gate.set).start()
    assert engine.predict("echo", b"2", wait=True)["text"] == "2"


def test_a_late_request_ends_and_is_not_begun(engine, echo) -> None:
    task = echo()
    task.gate.clear()
    submit(engine, b"0")
    task.entered.acquire()
    with pytest.raises(LateError):
        engine.predict("echo", b"late", deadline_s=0.05)
    task.gate.set()
    wait_for(lambda: engine.stats("echo").expired == 1)
    wait_for(lambda: engine.stats("echo").queued == 0)
    assert not task.entered.acquire(blocking=False)


def test_a_deadline_holds_between_two_calls_of_the_model(engine, echo) -> None:
    task = echo()
    task.gate.clear()
    threading.Timer(0.15, task.gate.set).start()
    with pytest.raises(LateError):
        engine.predict("echo", b"slow", deadline_s=0.05)
    wait_for(lambda: engine.stats("echo").expired == 1)
    assert engine.stats("echo").served == 0


def test_a_cancelled_request_is_not_worked_on_and_makes_room(engine, echo) -> None:
    task = echo(queue=1)
    task.gate.clear()
    submit(engine, b"0")
    task.entered.acquire()
    gone, _ = submit(engine, b"gone")
    gone.cancel()
    _, ended = submit(engine, b"comes")
    task.gate.set()
    assert ended.wait(5)
    assert isinstance(gone.error, CancelledError)
    assert engine.stats("echo").cancelled == 1


def test_a_swap_under_load_loses_no_request(engine, echo) -> None:
    echo("1")
    answers: list[str] = []
    problems: list[Exception] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                answers.append(engine.predict("echo", b"x")["version"])
            except Exception as error:  # noqa: BLE001 - any of them fails the test
                problems.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for version in range(2, 12):
        time.sleep(0.02)
        echo(str(version))
    stop.set()
    for thread in threads:
        thread.join(10)
    assert problems == []
    assert [int(v) for v in dict.fromkeys(sorted(answers, key=int))][-1] == 11
    assert engine.stats("echo").served == len(answers)
    assert engine.info("echo").version == "11"


def test_a_closed_lane_takes_nothing_and_says_so(echo, engine) -> None:
    echo("1")
    lane = engine._lane("echo")
    echo("2")
    job = Job(predicting(b"x"), engine.clock() + 5, lambda _job: None)
    with pytest.raises(LaneClosedError):
        lane.put(job)
    assert not lane.run_here(job, "always")
    assert not job.done


def test_what_the_old_model_has_accepted_it_answers(engine, echo) -> None:
    old = echo("1")
    old.gate.clear()
    jobs = [submit(engine, b"x") for _ in range(3)]
    threading.Timer(0.1, old.gate.set).start()
    echo("2")
    assert [job.result["version"] for job, _ in jobs] == ["1", "1", "1"]
    assert engine.predict("echo", b"x")["version"] == "2"


def test_threads_end_with_their_model(echo, engine) -> None:
    before = threading.active_count()
    for version in range(5):
        echo(str(version))
    engine.remove("echo")
    assert threading.active_count() == before
    assert engine.names() == []


def test_a_quick_model_of_fixed_shapes_is_run_where_it_is_asked(engine, digits) -> None:
    info, pipeline = digits
    engine.serve(info, pipeline)
    x = np.zeros((1, 1, 8, 8), np.float32)
    for _ in range(100):
        engine.infer("digits", {"image": x})
    threads: list[int] = []

    def work(_served: Any, run: Any) -> Any:
        threads.append(threading.get_ident())
        return run({"image": x})

    job = engine.submit("digits", work, lambda _job: None, here="quick")
    assert job.done
    assert threads == [threading.get_ident()]
    assert engine.stats("digits").served == 101


def test_a_quick_model_stays_out_of_the_queue_though_a_worker_is_busy(engine, digits) -> None:
    info, pipeline = digits
    engine.serve(info, pipeline)
    x = np.zeros((1, 1, 8, 8), np.float32)
    for _ in range(100):
        engine.infer("digits", {"image": x})
    gate = threading.Event()
    engine.submit("digits", lambda _served, _run: gate.wait(10), lambda _job: None)
    while engine.stats("digits").running < 1:
        time.sleep(0.01)
    job = engine.submit(
        "digits", lambda _served, run: run({"image": x}), lambda _job: None, here="quick"
    )
    gate.set()
    assert job.done


def test_who_waits_anyway_works_where_the_model_is_idle(engine, echo) -> None:
    task = echo()
    threads: list[int] = []
    predict = task.predict

    def noting(run: Any, data: bytes) -> Any:
        threads.append(threading.get_ident())
        return predict(run, data)

    engine.predict("echo", b"the first goes to a worker")
    task.predict = noting
    engine.predict("echo", b"x")
    assert threads == [threading.get_ident()]
    task.gate.clear()
    _, ended = submit(engine, b"0")
    while len(threads) < 2:
        time.sleep(0.01)
    threading.Timer(0.1, task.gate.set).start()
    engine.predict("echo", b"not beside another")
    assert ended.wait(5)
    assert threading.get_ident() not in threads[1:]


def test_a_model_of_free_shapes_is_not_run_there(engine) -> None:
    engine.serve(DOUBLE, Pipeline(None, doubling))  # type: ignore[arg-type]
    x = np.ones((1, 2), np.float32)
    for _ in range(50):
        engine.infer("double", {"x": x})
    ended, threads = threading.Event(), []

    def work(_served: Any, run: Any) -> None:
        threads.append(threading.get_ident())

    engine.submit("double", work, lambda _job: ended.set(), here="quick")
    assert ended.wait(5)
    assert threads != [threading.get_ident()]


def test_a_listener_that_fails_ends_no_worker(caplog) -> None:
    def failing(*_told: Any) -> None:
        raise ValueError("telemetry is broken")

    engine = Engine(on_served=failing)
    engine.serve(DOUBLE, Pipeline(None, doubling))  # type: ignore[arg-type]
    for _ in range(3):
        engine.infer("double", {"x": np.ones((1, 2), np.float32)})
    engine.close()
    assert caplog.text.count("telemetry is broken") >= 2


@pytest.mark.parametrize(
    "wrong",
    [{"queue": 0}, {"workers": 0}, {"max_batch": 1000}, {"deadline_s": 0}, {"policy": "random"}],
)
def test_limits_out_of_bounds_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Limits(**wrong).check()


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("edgekit.agent", ("numpy", "onnxruntime", "uvicorn", "starlette", "paho")),
        ("edgekit.agent.engine", ("numpy", "onnxruntime", "uvicorn", "PIL")),
        ("edgekit.agent.flows", ("numpy", "onnxruntime", "uvicorn", "paho")),
        (
            "edgekit.agent.serve.server",
            ("numpy", "onnxruntime", "starlette", "PIL", "paho", "httptools"),
        ),
    ],
)
def test_nothing_heavy_is_imported_early(module: str, absent: tuple[str, ...]) -> None:
    script = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & set(absent)


def test_a_new_model_must_be_quick_itself_before_it_runs_where_it_is_asked(engine, digits) -> None:
    info, pipeline = digits
    engine.serve(info, pipeline)
    x = np.zeros((1, 1, 8, 8), np.float32)
    for _ in range(5):
        engine.infer("digits", {"image": x})
    # What it hangs in may be the server's only thread.
    engine.serve(info, pipeline)
    threads: list[int] = []
    ended = threading.Event()

    def work(_served: Any, _run: Any) -> None:
        threads.append(threading.get_ident())

    engine.submit("digits", work, lambda _job: ended.set(), here="quick")
    assert ended.wait(10)
    assert threads != [threading.get_ident()]


def test_a_model_that_hangs_from_the_start_keeps_no_callers_thread(engine, echo) -> None:
    task = echo(deadline_s=0.3)
    task.gate.clear()
    caught: list[BaseException] = []

    def call() -> None:
        try:
            engine.predict("echo", b"x")
        except LateError as error:
            caught.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(10)
    alive = thread.is_alive()
    task.gate.set()
    assert not alive
    assert len(caught) == 1
