"""One request on its way through the agent, and the errors that it can end with.

DeviceError: ``BusyError`` (the queue is full; says when to come again), ``DroppedError`` (a newer
request took its place), ``LateError`` (its deadline has passed), ``CancelledError`` (nobody waits
for it any more, or the agent stops), ``FailedError`` (the model or the agent failed; not the
caller's fault). UsageError: ``UnknownModelError``, ``BadRequestError`` (not what the model takes).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.runtime.tasks import Task
from edgekit.wire.errors import DeviceError, EdgekitError, UsageError
from edgekit.wire.manifest import Tensor

if TYPE_CHECKING:
    import numpy as np

    from edgekit.runtime.session import Run


class BusyError(DeviceError):
    """The queue is full.

    Args:
        message: What is full.
        retry_after_s: When there is likely to be room.
    """

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message, hint=f"try again in {retry_after_s:.2g} s")
        self.retry_after_s = retry_after_s


class DroppedError(DeviceError):
    """A newer request took its place in the queue."""


class LateError(DeviceError):
    """The request's deadline has passed."""


class CancelledError(DeviceError):
    """Nobody waits for the answer any more."""


class FailedError(DeviceError):
    """The model or the agent failed; the request may be good."""


class UnknownModelError(UsageError):
    """No model of that name is served."""


class BadRequestError(UsageError):
    """The request is not what the model takes."""


@dataclass(frozen=True)
class ModelInfo:
    """What a served model says of itself.

    Attributes:
        name: Under which it is served.
        version: The bundle's serial.
        title: For people.
        task: What it is for: ``classify-image``.
        inputs: Of the model; empty where tensors cannot be fed.
        outputs: Of the model.
        batchable: Several requests may share one call of the model.
    """

    name: str
    version: str
    title: str
    task: str
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    batchable: bool = False


@dataclass(frozen=True)
class Served:
    """A loaded model: what it says of itself, its task and its arithmetic."""

    info: ModelInfo
    task: Task
    run: Run


# What a job does with the model it reaches; the Run that it gets stops at the job's deadline.
Work = Callable[[Served, "Run"], Any]


class Job:
    """A piece of work for one model; it ends once, with a result or an error.

    Args:
        work: What to do.
        deadline: Clock time at which nobody wants it any more.
        on_done: Called once, by the thread that ends the job; it must not block or raise.
        sample: The raw input that the work is about, for the live page; None for tensors.

    Attributes:
        result: What the work returned.
        error: Why it did not.
        accepted: Clock time at which it came into the queue.
    """

    __slots__ = (
        "_lock",
        "_on_done",
        "accepted",
        "deadline",
        "done",
        "error",
        "result",
        "sample",
        "work",
    )

    def __init__(
        self,
        work: Work,
        deadline: float,
        on_done: Callable[[Job], None],
        sample: bytes | None = None,
    ) -> None:
        self.work = work
        self.deadline = deadline
        self.sample = sample
        self.accepted = 0.0
        self.done = False
        self.result: Any = None
        self.error: EdgekitError | None = None
        self._on_done = on_done
        self._lock = threading.Lock()

    def finish(
        self,
        result: Any = None,  # noqa: ANN401 - whatever the work returns
        error: EdgekitError | None = None,
        count: Callable[[], None] | None = None,
    ) -> bool:
        """End the job; the first call counts.

        Args:
            result: What the work returned.
            error: Why it did not.
            count: Called if this call ends the job, before anyone is told.

        Returns:
            True if this call ended it.
        """
        with self._lock:
            if self.done:
                return False
            self.done = True
        self.result, self.error = result, error
        if count is not None:
            count()
        self._on_done(self)
        return True

    def cancel(self) -> None:
        """Give up: nobody waits for the answer. A model that is running is not interrupted."""
        self.finish(error=CancelledError("nobody waits for the answer any more"))

    def expire(self) -> None:
        """End a job whose deadline has passed."""
        self.finish(error=late())

    def guard(self, run: Run, clock: Callable[[], float]) -> Run:
        """Wrap a model so that a job that has ended or is late does not call it again."""

        def guarded(feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
            if self.done:
                raise CancelledError("nobody waits for the answer any more")
            if clock() >= self.deadline:
                raise late()
            return run(feeds)

        return guarded


def late() -> LateError:
    """Return the error of a deadline that has passed."""
    return LateError(
        "not answered within its deadline", hint="allow more time, or send fewer at once"
    )
