"""One sample a period: how the board is, what each model did, what the outbox holds.

A :class:`Meter` counts what one model does between two samples; :class:`Collector` puts a sample
together. Counts and histograms are of the period alone, so samples add up: a fleet sums requests
and merges histograms over any time and any devices, and what a lost sample takes along is its own
period. Inputs and outputs leave the device as sketches, never as values.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from edgekit.agent.outbox import OutboxStats
from edgekit.runtime.sketches import (
    ClassMix,
    LatencyHistogram,
    Reference,
    ValueSketch,
    class_counts,
    drift,
)
from edgekit.wire.canonical import Json

MAX_CLASSES_SENT = 16
MAX_SKETCHES = 32
# A confidence is within 0..1 whatever the model: its bins need no calibration.
CONFIDENCE = Reference(tuple(i / 10 for i in range(1, 10)), (0,) * 10)


@dataclass(frozen=True)
class ModelReference:
    """What a model saw and answered at calibration; kept in its bundle.

    Attributes:
        values: Name of a value (``input.brightness``, ``output.boxes``) to its distribution.
        classes: Label to count.
    """

    values: Mapping[str, Reference] = field(default_factory=dict)
    classes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelStats:
    """What one model did in one period.

    Attributes:
        requests: Answered or failed.
        errors: Of these, failed.
        latency: Of those answered.
        classes: Their answers.
        confidence: Of the answers.
        values: Name to sketch, in the bins of the reference.
    """

    requests: int
    errors: int
    latency: LatencyHistogram
    classes: ClassMix
    confidence: ValueSketch
    values: Mapping[str, ValueSketch]

    def to_json(self, reference: ModelReference) -> dict[str, Json]:
        """Return what a sample says of the model, but for its queue.

        Args:
            reference: Of the bundle.
        """
        values: dict[str, Json] = {"requests": self.requests, "errors": self.errors}
        if self.latency.count:
            values["latency_ms"] = self.latency.to_json()
        outputs: dict[str, Json] = {}
        if self.classes.counts or self.classes.other:
            outputs["classes"] = self.classes.top(MAX_CLASSES_SENT).to_json()
        if sum(self.confidence.counts):
            outputs["confidence"] = self.confidence.to_json()
        if outputs:
            values["outputs"] = outputs
        if drifts := self._drifts(reference):
            values["drift"] = drifts
        return values

    def _drifts(self, reference: ModelReference) -> dict[str, Json]:
        drifts: dict[str, Json] = {}
        for name, sketch in self.values.items():
            judged = drift(reference.values[name].counts, sketch.counts)
            if judged:
                drifts[name] = {**judged, "sketch": sketch.to_json()}
        if reference.classes and (judged := drift(*class_counts(reference.classes, self.classes))):
            drifts["output.classes"] = judged
        return drifts


class Meter:
    """Counts what one model does; from any thread.

    Args:
        reference: Of its bundle.
    """

    def __init__(self, reference: ModelReference | None = None) -> None:
        self.reference = reference or ModelReference()
        self._lock = threading.Lock()
        self._clear()

    def answered(self, latency_ms: float) -> None:
        """Count a request that was answered."""
        with self._lock:
            self._requests += 1
            self._latency.add(latency_ms)

    def failed(self) -> None:
        """Count a request that failed."""
        with self._lock:
            self._requests += 1
            self._errors += 1

    def saw_class(self, label: str, confidence: float | None = None) -> None:
        """Count one answer.

        Args:
            label: The class.
            confidence: 0..1.
        """
        with self._lock:
            self._classes.add(label)
            if confidence is not None:
                self._confidence.add(confidence)

    def saw_value(self, name: str, value: float) -> None:
        """Count one value of an input or output, if the reference knows one of that name.

        Args:
            name: ``input.brightness``.
            value: The value.
        """
        with self._lock:
            if name in self._values:
                self._values[name].add(value)

    def take(self) -> ModelStats:
        """Return what happened since the last call, and begin anew."""
        with self._lock:
            stats = ModelStats(
                self._requests,
                self._errors,
                self._latency,
                self._classes,
                self._confidence,
                self._values,
            )
            self._clear()
            return stats

    def _clear(self) -> None:
        self._requests = self._errors = 0
        self._latency = LatencyHistogram()
        self._classes = ClassMix()
        self._confidence = ValueSketch(CONFIDENCE.edges)
        names = sorted(self.reference.values)[:MAX_SKETCHES]
        self._values = {name: ValueSketch(self.reference.values[name].edges) for name in names}


@dataclass(frozen=True)
class Queue:
    """A model's queue.

    Attributes:
        waiting: Requests in it now.
        turned_away: Requests that found it full, since the agent started.
    """

    waiting: int
    turned_away: int


@dataclass(frozen=True)
class Served:
    """A model that is served.

    Attributes:
        bundle_sha256: Of its bundle.
        meter: What counts it.
        queue: As it is now; None where there is none.
    """

    bundle_sha256: str
    meter: Meter
    queue: Queue | None = None


class Collector:
    """Puts samples together.

    Args:
        vitals: Measures the board; see :func:`edgekit.agent.vitals.reader`.
        models: Returns the models that are served now, by name.
        outbox: Tells how the outbox stands.
        monotonic_s: A clock in seconds that never jumps.
    """

    def __init__(
        self,
        vitals: Callable[[], Mapping[str, Json]],
        models: Callable[[], Mapping[str, Served]],
        outbox: Callable[[], OutboxStats],
        monotonic_s: Callable[[], float],
    ) -> None:
        self._vitals = vitals
        self._models = models
        self._outbox = outbox
        self._monotonic_s = monotonic_s
        self._since_s = monotonic_s()
        self._turned_away: dict[str, int] = {}

    def sample(self) -> dict[str, Json]:
        """Return the values of one sample; the period ends now, and the next one begins."""
        now_s = self._monotonic_s()
        period_s, self._since_s = now_s - self._since_s, now_s
        models: dict[str, Json] = {}
        for name, served in self._models().items():
            stats = served.meter.take().to_json(served.meter.reference)
            models[name] = {
                "bundle": served.bundle_sha256[:12],
                **stats,
                **self._queue(name, served),
            }
        held = self._outbox()
        outbox: dict[str, Json] = {"messages": held.messages, "bytes": held.size_bytes}
        if held.drops:
            outbox["drops"] = dict(held.drops)
        if held.problem:
            outbox["problem"] = held.problem
        values: dict[str, Json] = {
            "period_s": round(period_s, 3),
            "vitals": dict(self._vitals()),
            "outbox": outbox,
        }
        return values | ({"models": models} if models else {})

    def _queue(self, name: str, served: Served) -> dict[str, Json]:
        queue = served.queue
        if queue is None:
            return {}
        before = self._turned_away.get(name, 0)
        self._turned_away[name] = queue.turned_away
        return {"rejected": queue.turned_away - before, "queue": queue.waiting}
