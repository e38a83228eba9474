"""A lane: one loaded model, its bounded queue and the threads that work it off."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgekit.agent.batching import Batcher
from edgekit.agent.jobs import (
    BusyError,
    CancelledError,
    DroppedError,
    FailedError,
    Job,
    Served,
    late,
)
from edgekit.agent.stats import Counters, Stats, follow, is_failure
from edgekit.runtime.tasks import Prediction
from edgekit.wire.errors import ConfigError, EdgekitError
from edgekit.wire.manifest import Tensor

log = logging.getLogger(__name__)

Policy = Literal["reject", "drop-oldest"]
# Whether the thread that submits a job may do it itself; see Lane.run_here.
Here = Literal["never", "quick", "always"]
# Model, latency in seconds from acceptance to answer, answered, and what was predicted (None for
# tensors). What the caller did wrong is no failure of the model and is not reported.
OnServed = Callable[[str, float, bool, "Prediction | None"], None]

MAX_KEPT_BYTES = 2 << 20
# Mean CPU time of a request up to which it is done where it arrives.
QUICK_S = 0.001
_MAX_QUEUE, _MAX_WORKERS, _MAX_BATCH, _MAX_WAIT_MS = 10_000, 64, 256, 1000


@dataclass(frozen=True)
class Limits:
    """How much a lane takes.

    Attributes:
        queue: Most requests that wait.
        policy: What happens to one more: it is rejected, or the oldest makes room.
        workers: Threads. The model's own threads come on top.
        max_batch: Rows that share one call of a model that allows it; 1 switches batching off.
        max_wait_ms: Longest wait for others to share a call.
        deadline_s: A request that nobody has answered by then ends.
    """

    queue: int = 64
    policy: Policy = "reject"
    workers: int = 1
    max_batch: int = 1
    max_wait_ms: float = 2.0
    deadline_s: float = 30.0

    def check(self) -> None:
        """Check the bounds.

        Raises:
            ConfigError: One does not hold.
        """
        for name, value, low, high in (
            ("queue", self.queue, 1, _MAX_QUEUE),
            ("workers", self.workers, 1, _MAX_WORKERS),
            ("max_batch", self.max_batch, 1, _MAX_BATCH),
            ("max_wait_ms", self.max_wait_ms, 0, _MAX_WAIT_MS),
            ("deadline_s", self.deadline_s, 0.001, 3600),
        ):
            if not low <= value <= high:
                raise ConfigError(f'"{name}" is {value:g}, expected {low:g} to {high:g}')
        if self.policy not in ("reject", "drop-oldest"):
            raise ConfigError(f'no policy "{self.policy}"', hint="reject or drop-oldest")


@dataclass(frozen=True)
class Last:
    """The last answer, for the live page.

    Attributes:
        prediction: What was answered.
        latency_s: From acceptance to answer.
        at: Clock time of the answer.
        sample: The input where it is a JPEG or PNG of at most 2 MiB.
    """

    prediction: Prediction
    latency_s: float
    at: float
    sample: bytes | None


class LaneClosedError(Exception):
    """The lane takes no more jobs: another one has its name now."""


class Lane:
    """One loaded model with its queue and its threads.

    Args:
        served: The model.
        limits: How much it takes.
        clock: Seconds that only grow.
        on_served: Told of every answer and every failure, by the worker's thread.
        counters: The name's counts.
    """

    def __init__(
        self,
        served: Served,
        limits: Limits,
        clock: Callable[[], float],
        on_served: OnServed,
        counters: Counters,
    ) -> None:
        limits.check()
        self.served = served
        self.limits = limits
        self.last: Last | None = None
        self._clock = clock
        self._on_served = on_served
        self._counters = counters
        self._queue: deque[Job] = deque()
        self._lock = threading.Lock()
        self._filled = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._idle = threading.Condition(self._lock)
        self._running = 0
        self._closed = False
        # CPU time of a request in the mean. Not the name's: a new model may hang where its
        # predecessor was quick.
        self._work_s: float | None = None
        # A model of fixed shapes takes one time, whatever it is fed.
        self._is_fixed = is_fixed(served.info.inputs)
        workers, self._run = limits.workers, served.run
        if served.info.batchable and limits.max_batch > 1:
            workers = max(workers, limits.max_batch)
            self._run = Batcher(
                served.run,
                max_batch=limits.max_batch,
                max_wait_s=limits.max_wait_ms / 1000,
                expected=self._pending,
            )
        self._threads = [
            threading.Thread(target=self._work, name=f"{served.info.name}-{i}", daemon=True)
            for i in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, job: Job, *, wait: bool = False) -> None:
        """Queue a job.

        Args:
            job: It ends by itself in any case but an error here.
            wait: Wait for room until the job's deadline instead of rejecting it.

        Raises:
            BusyError: The queue is full.
            LaneClosedError: The lane takes no more.
        """
        oldest = None
        with self._lock:
            if wait:
                self._room.wait_for(
                    lambda: self._closed or len(self._queue) < self.limits.queue,
                    max(0.0, job.deadline - self._clock()),
                )
            if self._closed:
                raise LaneClosedError
            if len(self._queue) >= self.limits.queue:
                self._forget_ended()
            if len(self._queue) >= self.limits.queue:
                if self.limits.policy == "reject":
                    busy = self._busy()
                    self._counters.ended(busy)
                    raise busy
                oldest = self._queue.popleft()
            job.accepted = self._clock()
            self._queue.append(job)
            self._filled.notify()
        if oldest is not None:
            self._end(oldest, DroppedError("a newer request took its place"))

    def run_here(self, job: Job, here: Here) -> bool:
        """Do a job in the caller's thread.

        The way to a worker and back takes longer than a small model; and on a busy machine the
        system may let a woken thread wait for longer than a large one takes.

        Args:
            job: What to do.
            here: ``quick``: only where a model of fixed shapes has answered within
                :data:`QUICK_S` on average; ``always``: the caller would wait anyway, and nothing
                else is waiting or running. Neither before the model has answered once.

        Returns:
            False where it must be queued; nothing has happened then.
        """
        # CPU time: by the wall's clock, a worker that waits for the interpreter's lock makes a
        # quick model look slow, which then stays with the worker.
        work_s = self._work_s
        if work_s is None:
            return False  # who has answered nobody yet may hang, and keep the caller's thread
        if here == "quick" and (work_s > QUICK_S or not self._is_fixed):
            return False
        with self._lock:
            if self._closed:
                return False
            # One quick call more does not matter; queued, it would draw all that come after it
            # into the queue, too, and a busy server would never leave it.
            if here == "always" and (self._queue or self._running >= self.limits.workers):
                return False
            self._running += 1
        job.accepted = self._clock()
        try:
            self._serve(job)
        finally:
            self._ran()
        return True

    def close(self) -> None:
        """Take no more jobs; what is queued is still worked off."""
        with self._lock:
            self._closed = True
            self._filled.notify_all()
            self._room.notify_all()

    def join(self, timeout_s: float) -> bool:
        """Wait for the work of a closed lane to end.

        Returns:
            True if it has.
        """
        end = self._clock() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, end - self._clock()))
        with self._lock:  # callers may work, too
            self._idle.wait_for(lambda: not self._running, max(0.0, end - self._clock()))
            return not self._running and not any(t.is_alive() for t in self._threads)

    def abandon(self) -> None:
        """End every queued job; for an agent that stops."""
        with self._lock:
            left = list(self._queue)
            self._queue.clear()
        for job in left:
            self._end(job, CancelledError("the agent stops"))

    def stats(self) -> Stats:
        """Return the counts as they are now."""
        with self._lock:
            queued, running = len(self._queue), self._running
        return self._counters.snapshot(queued, running)

    def _pending(self) -> int:
        return len(self._queue) + self._running

    def _busy(self) -> BusyError:
        each_s = self._counters.service_s or 0.1
        wait_s = (len(self._queue) + self._running) * each_s / self.limits.workers
        return BusyError(
            f"{self.served.info.name} has {len(self._queue)} requests waiting",
            retry_after_s=min(wait_s, self.limits.deadline_s),
        )

    def _forget_ended(self) -> None:
        for job in [job for job in self._queue if job.done]:
            self._queue.remove(job)
            self._count(job)

    def _next(self) -> Job | None:
        with self._lock:
            while not self._queue:
                if self._closed:
                    return None
                self._filled.wait()
            job = self._queue.popleft()
            self._running += 1
            self._room.notify()
            return job

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                self._serve(job)
            finally:
                self._ran()

    def _ran(self) -> None:
        with self._lock:
            self._running -= 1
            if self._closed:
                self._idle.notify_all()

    def _serve(self, job: Job) -> None:
        start, work_start_s = self._clock(), time.thread_time()
        if job.done:
            self._count(job)
            return
        if start >= job.deadline:
            self._end(job, late())
            return
        try:
            result = job.work(self.served, job.guard(self._run, self._clock))
        except EdgekitError as error:
            self._end(job, error)
        except Exception:  # whatever it is, the next request must be served
            log.exception("%s failed on a request", self.served.info.name)
            self._end(
                job, FailedError("the agent failed on this request", hint="see the agent's log")
            )
        else:
            self._answer(job, result, start, time.thread_time() - work_start_s)

    def _answer(self, job: Job, result: Any, start: float, work_s: float) -> None:  # noqa: ANN401
        now = self._clock()
        latency_s = now - job.accepted
        prediction: Prediction | None = None
        if job.sample is not None and isinstance(result, dict):
            prediction = result
            kept = job.sample if is_shown(job.sample) else None
            self.last = Last(result, latency_s, now, kept)
        counters, service_s = self._counters, now - start
        self._work_s = follow(self._work_s, work_s)
        if job.finish(result, count=lambda: counters.answered(latency_s, service_s)):
            self._tell(latency_s, True, prediction)
        else:
            self._count(job)

    def _end(self, job: Job, error: EdgekitError) -> None:
        if not job.finish(error=error, count=lambda: self._counters.ended(error)):
            self._count(job)
        elif is_failure(error):
            self._tell(self._clock() - job.accepted, False, None)

    def _count(self, job: Job) -> None:
        """Count a job that others have ended: its deadline or its caller."""
        if job.error is not None:
            self._counters.ended(job.error)

    def _tell(self, latency_s: float, ok: bool, prediction: Prediction | None) -> None:
        try:
            self._on_served(self.served.info.name, latency_s, ok, prediction)
        except Exception:  # telemetry must not end a worker
            log.exception("the listener of served requests failed")


def is_fixed(inputs: Sequence[Tensor]) -> bool:
    """Tell whether a model takes tensors, and of one shape only."""
    return bool(inputs) and all(isinstance(dim, int) for t in inputs for dim in t.shape)


def is_shown(sample: bytes) -> bool:
    """Tell whether the live page shows a sample: a JPEG or PNG that is not large."""
    return len(sample) <= MAX_KEPT_BYTES and sample.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n"))
