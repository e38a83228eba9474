"""The engine: loaded models by name. Everything that wants a prediction comes through here."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from edgekit.agent.batching import is_batchable
from edgekit.agent.jobs import Job, ModelInfo, Served, UnknownModelError, Work
from edgekit.agent.lane import (
    QUICK_S,
    Here,
    Lane,
    LaneClosedError,
    Last,
    Limits,
    OnServed,
    is_fixed,
)
from edgekit.agent.stats import Counters, Stats
from edgekit.runtime.pipeline import Pipeline, load_pipeline
from edgekit.runtime.tasks import Prediction
from edgekit.wire.errors import EdgekitError, did_you_mean
from edgekit.wire.manifest import Manifest

if TYPE_CHECKING:
    import numpy as np


_TRIALS = 5


def _nobody(_model: str, _latency_s: float, _ok: bool, _prediction: Prediction | None) -> None:
    """Listen to nothing."""


def info_of(manifest: Manifest, name: str | None = None) -> ModelInfo:
    """Return what a served model says of itself.

    Args:
        manifest: Of its bundle.
        name: Under which it is served; the manifest's by default.
    """
    return ModelInfo(
        name=name or manifest.model,
        version=str(manifest.serial),
        title=manifest.title,
        task=manifest.pipeline.task,
        inputs=manifest.inputs,
        outputs=manifest.outputs,
        batchable=is_batchable(manifest),
    )


class Engine:
    """Loaded models by name, each with a bounded queue and threads of its own.

    Args:
        on_served: Told of every answer and every failure of a model, by a worker's thread.
        clock: Seconds that only grow.
    """

    def __init__(
        self, on_served: OnServed = _nobody, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.clock = clock
        self._on_served = on_served
        self._lock = threading.Lock()
        self._lanes: dict[str, Lane] = {}
        self._counters: dict[str, Counters] = {}
        self._taps: dict[str, Callable[[bytes], None]] = {}

    def load(
        self,
        manifest: Manifest,
        read: Callable[[str], bytes],
        *,
        name: str | None = None,
        limits: Limits | None = None,
        threads: int | None = None,
        drain_s: float = 30.0,
    ) -> None:
        """Load a verified bundle and serve it; see :meth:`serve` where the name is taken.

        Args:
            manifest: Of the bundle.
            read: Returns a member's verified bytes.
            name: Under which it is served; the manifest's by default.
            limits: How much it takes.
            threads: Threads of the model; the manifest's by default, but not more than there are
                cores, and one for a model that is quick with it.
            drain_s: Longest wait for the requests of a model that it replaces.

        Raises:
            BuildError: onnxruntime does not load the model.
            ConfigError: The task, its options or a limit is wrong.
            MissingToolError: A package that the task needs is not installed.
        """
        pipeline = _loaded(manifest, read, threads)
        self.serve(info_of(manifest, name), pipeline, limits=limits, drain_s=drain_s)

    def serve(
        self,
        info: ModelInfo,
        pipeline: Pipeline,
        *,
        limits: Limits | None = None,
        drain_s: float = 30.0,
    ) -> bool:
        """Serve a loaded pipeline. Where its name is taken, it takes over without losing a request.

        New requests go to the new model from now on; those that the old one has accepted are
        answered by the old one.

        Args:
            info: What it says of itself.
            pipeline: Its task and model.
            limits: How much it takes; those of the model that it replaces by default.
            drain_s: Longest wait for the requests of a model that it replaces.

        Returns:
            False if the replaced model still works on a request after ``drain_s``; it ends later.

        Raises:
            ConfigError: A limit is out of bounds.
        """
        with self._lock:
            old = self._lanes.get(info.name)
            counters = self._counters.setdefault(info.name, Counters())
            chosen = limits or (old.limits if old else Limits())
            served = Served(info, pipeline.task, pipeline.run)
            lane = Lane(served, chosen, self.clock, self._on_served, counters)
            self._lanes[info.name] = lane
        if old is None:
            return True
        old.close()
        return old.join(drain_s)

    def remove(self, name: str, drain_s: float = 30.0) -> None:
        """Serve a model no longer; what it has accepted is answered.

        Raises:
            UnknownModelError: No model of that name.
        """
        lane = self._lane(name)
        with self._lock:
            del self._lanes[name]
        lane.close()
        lane.join(drain_s)

    def close(self, drain_s: float = 10.0) -> None:
        """Stop all models; what is still queued after ``drain_s`` seconds fails."""
        with self._lock:
            lanes, self._lanes = list(self._lanes.values()), {}
        for lane in lanes:
            lane.close()
        end = self.clock() + drain_s
        for lane in lanes:
            if not lane.join(max(0.0, end - self.clock())):
                lane.abandon()

    def names(self) -> list[str]:
        """Return the names of the models that are served."""
        return sorted(self._lanes)

    def info(self, name: str) -> ModelInfo:
        """Return what a model says of itself.

        Raises:
            UnknownModelError: No model of that name.
        """
        return self._lane(name).served.info

    def limits(self, name: str) -> Limits:
        """Return how much a model takes.

        Raises:
            UnknownModelError: No model of that name.
        """
        return self._lane(name).limits

    def stats(self, name: str) -> Stats:
        """Return a model's counts.

        Raises:
            UnknownModelError: No model of that name.
        """
        return self._lane(name).stats()

    def last(self, name: str) -> Last | None:
        """Return a model's last answer to a sample.

        Raises:
            UnknownModelError: No model of that name.
        """
        return self._lane(name).last

    def last_class(self, name: str) -> str | None:
        """Return the label of a model's last answer; None where it has none, or is not served."""
        lane = self._lanes.get(name)
        last = lane.last if lane is not None else None
        if last is None:
            return None
        best = next(iter(last.prediction.get("top") or last.prediction.get("boxes") or ()), None)
        if best is None:
            return None
        index = best.get("index")
        return str(best.get("label") or "") or (None if index is None else f"class {index}")

    def tap(self, name: str, tap: Callable[[bytes], None] | None) -> None:
        """Show the coming samples of a model to somebody, before they are worked on.

        Args:
            name: Of the model.
            tap: Gets each sample and returns at once; None ends it.
        """
        if tap is None:
            self._taps.pop(name, None)
        else:
            self._taps[name] = tap

    def submit(
        self,
        name: str,
        work: Work,
        on_done: Callable[[Job], None],
        *,
        deadline_s: float | None = None,
        sample: bytes | None = None,
        wait: bool = False,
        here: Here = "never",
    ) -> Job:
        """Queue a piece of work for a model.

        Args:
            name: Of the model.
            work: What to do with it, in one of its threads.
            on_done: Called once, by the thread that ends the job.
            deadline_s: Seconds from now; never more than the model's own.
            sample: The raw input, where there is one and the result is a prediction.
            wait: Wait for room in the queue until the deadline.
            here: Whether this thread may do the work itself where the model is idle: ``quick``
                where that takes no time to speak of, ``always`` where it would wait anyway. The
                job has ended then.

        Returns:
            The job; it can be cancelled.

        Raises:
            UnknownModelError: No model of that name.
            BusyError: The queue is full and the policy is to reject.
        """
        tap = self._taps.get(name)
        if tap is not None and sample is not None:
            tap(sample)
        while True:
            lane = self._lane(name)
            allowed_s = min(deadline_s or lane.limits.deadline_s, lane.limits.deadline_s)
            job = Job(work, self.clock() + allowed_s, on_done, sample)
            if here != "never" and lane.run_here(job, here):
                return job
            try:
                lane.put(job, wait=wait)
            except LaneClosedError:
                continue  # swapped in between; the name leads to the new lane by now
            return job

    def predict(
        self, name: str, data: bytes, *, deadline_s: float | None = None, wait: bool = False
    ) -> Prediction:
        """Predict one sample and wait for the answer.

        Raises:
            UnknownModelError: No model of that name.
            BusyError: The queue is full.
            LateError: No answer within the deadline.
            ConfigError: The sample is not what the task expects.
            EdgekitError: Whatever else the task raises.
        """
        prediction: Prediction = self._wait(name, predicting(data), deadline_s, data, wait)
        return prediction

    def infer(
        self,
        name: str,
        feeds: Mapping[str, np.ndarray[Any, Any]],
        *,
        deadline_s: float | None = None,
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Run a model on tensors and wait for its outputs.

        Raises:
            UnknownModelError: No model of that name.
            BusyError: The queue is full.
            LateError: No answer within the deadline.
            BuildError: The feeds do not fit the model.
        """
        outputs: dict[str, np.ndarray[Any, Any]] = self._wait(
            name, lambda _served, run: run(feeds), deadline_s, None, False
        )
        return outputs

    def _wait(
        self, name: str, work: Work, deadline_s: float | None, sample: bytes | None, wait: bool
    ) -> Any:  # noqa: ANN401 - what the work returns
        ended = threading.Event()
        job = self.submit(
            name,
            work,
            lambda _job: ended.set(),
            deadline_s=deadline_s,
            sample=sample,
            wait=wait,
            here="always",
        )
        if not ended.wait(max(0.0, job.deadline - self.clock())):
            job.expire()
            ended.wait()
        if job.error is not None:
            raise job.error
        return job.result

    def _lane(self, name: str) -> Lane:
        lane = self._lanes.get(name)
        if lane is None:
            names = self.names()
            close = did_you_mean(name, names)
            hint = f"served here: {', '.join(names) or 'none'}"
            hint = f"did you mean {close}? {hint}" if close else hint
            raise UnknownModelError(f'no model "{name[:80]}"', hint=hint)
        return lane


def _loaded(manifest: Manifest, read: Callable[[str], bytes], threads: int | None) -> Pipeline:
    if threads is not None:
        return load_pipeline(manifest, read, threads=threads)
    # More threads than cores wait for each other.
    chosen = min(manifest.session.threads, len(os.sched_getaffinity(0)))
    if chosen > 1 and is_fixed(manifest.inputs):
        # onnxruntime's threads spin between two requests: for a small model that doubles the CPU.
        alone = load_pipeline(manifest, read, threads=1)
        if _is_quick(alone, manifest):
            return alone
    return load_pipeline(manifest, read, threads=chosen)


def _is_quick(pipeline: Pipeline, manifest: Manifest) -> bool:
    import numpy as np

    try:
        feeds = {t.name: np.zeros([int(d) for d in t.shape], t.dtype) for t in manifest.inputs}
        times_s = []
        for _ in range(_TRIALS):
            start = time.thread_time()
            pipeline.run(feeds)
            times_s.append(time.thread_time() - start)
    except (EdgekitError, TypeError):
        return False  # zeros are no input for it
    return min(times_s) < QUICK_S


def predicting(data: bytes) -> Work:
    """Return the work of predicting one sample."""

    def work(served: Served, run: Any) -> Prediction:  # noqa: ANN401
        return served.task.predict(run, data)

    return work
