"""Pipelines of several models, as data.

    {"steps": [{"model": "ppocr-v4-det"}, {"model": "ppocr-v4-rec", "each": "crop"}]}

The first step gets the input. A later one says what it gets:

``"each": "crop"``
    every box or quad that the step before has found, cut out of the picture; its prediction stands
    as ``result`` in that box. Where all results are texts, their lines are joined as ``text``.
``"take": "text"``
    that field of the prediction before, as UTF-8.

A pipeline is served under a name of its own. Its steps go through the queues of their models, so a
model that is swapped is swapped in its pipelines, too.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from edgekit.agent.engine import Engine, predicting
from edgekit.agent.jobs import Job, ModelInfo
from edgekit.agent.lane import Limits
from edgekit.runtime.pipeline import Pipeline
from edgekit.runtime.tasks import Agreement, Prediction
from edgekit.wire.errors import ConfigError, EdgekitError, TrustError
from edgekit.wire.strict import Fields

if TYPE_CHECKING:
    import numpy as np

    from edgekit.runtime.session import Run

TASK = "pipeline"
MAX_STEPS = 8
# Crops of one picture that wait in a model's queue at a time; the others' requests go between.
_IN_FLIGHT = 8
_LOOK_S = 0.5


@dataclass(frozen=True)
class Step:
    """One model of a pipeline.

    Attributes:
        model: The name that it is served under.
        each: ``crop``: it looks at everything that the step before has found.
        take: Field of the prediction before that it gets.
    """

    model: str
    each: str | None = None
    take: str | None = None


def parse_steps(document: Mapping[str, Any], where: str = "pipeline") -> tuple[Step, ...]:
    """Read a pipeline.

    Args:
        document: ``{"steps": [...]}``.
        where: Its name in messages.

    Raises:
        ConfigError: An unknown field or value, or steps that do not follow from each other.
    """
    try:
        fields = Fields(dict(document), where)
        steps = [_step(item) for item in fields.objects("steps", most=MAX_STEPS)]
        fields.close()
    except TrustError as error:
        raise ConfigError(
            error.message,
            hint='{"steps": [{"model": "A"}, {"model": "B", "each": "crop"}]}',
            where=error.where,
        ) from error
    if not steps:
        raise ConfigError("a pipeline has one step or more", where=where)
    for index, step in enumerate(steps):
        says = (step.each is not None) + (step.take is not None)
        if index == 0 and says:
            raise ConfigError("the first step gets the input itself", where=f"{where} steps[0]")
        if index > 0 and says != 1:
            raise ConfigError(
                'a later step says what it gets: "each" or "take"',
                hint='"each": "crop", or "take": "text"',
                where=f"{where} steps[{index}]",
            )
    return tuple(steps)


def _step(fields: Fields) -> Step:
    step = Step(
        model=fields.text("model", most=100),
        each=fields.choice("each", ("crop",)) if fields.has("each") else None,
        take=fields.text("take", most=100) if fields.has("take") else None,
    )
    fields.close()
    return step


class Chain:
    """The task of a pipeline; its model is the engine.

    Args:
        engine: Serves the steps' models.
        steps: From :func:`parse_steps`.
    """

    def __init__(self, engine: Engine, steps: Sequence[Step]) -> None:
        self._engine = engine
        self._steps = tuple(steps)

    def predict(self, run: Run, data: bytes) -> Prediction:
        """Run one sample through the steps.

        Args:
            run: Not used but for its deadline: called between the steps, it stops a late request.
            data: The input of the first step.

        Raises:
            ConfigError: The input, or what a step has found, is not what a step takes.
            DeviceError: A model's queue is full, or the deadline has passed.
        """
        prediction: Prediction = {}
        picture = data
        for index, step in enumerate(self._steps):
            if index:
                run({})
            if step.each is not None:
                prediction = self._each(step, picture, prediction)
                continue
            if step.take is not None:
                data = _taken(prediction, step)
            prediction = self._engine.predict(step.model, data, wait=True)
        return prediction

    def agreement(self, reference: Sequence[Prediction], other: Sequence[Prediction]) -> Agreement:
        """Compare whole predictions: 1 where they are equal."""
        scores = tuple(float(a == b) for a, b in zip(reference, other, strict=True))
        return Agreement("pipeline_agreement", sum(scores) / max(1, len(scores)), scores)

    def _each(self, step: Step, picture: bytes, found: Prediction) -> Prediction:
        from edgekit.agent import crops
        from edgekit.runtime import pictures

        boxes = found.get("boxes")
        if not isinstance(boxes, list):
            raise ConfigError(f"the step before {step.model} finds no boxes to crop")
        results: list[Prediction] = []
        if boxes:
            pixels = pictures.decode(picture)
            # One after the other is cut out as there is room for it: crops may be large.
            results = self._predict_all(step.model, (crops.crop_of(pixels, box) for box in boxes))
        joined = dict(found)
        joined["boxes"] = [
            {**box, "result": result} for box, result in zip(boxes, results, strict=True)
        ]
        if all(isinstance(result.get("text"), str) for result in results):
            joined["text"] = "\n".join(result["text"] for result in results)
        return joined

    def _predict_all(self, model: str, samples: Iterable[bytes]) -> list[Prediction]:
        """Predict all samples, some at a time, so that a model that batches can."""
        gathered = _Gathered()
        pending: dict[int, Job] = {}
        try:
            count = 0
            for index, sample in enumerate(samples):
                self._await_room(gathered, pending)
                if gathered.error is not None:
                    break
                for ended in [i for i, job in pending.items() if job.done]:
                    del pending[ended]
                work, done = predicting(sample), partial(gathered.take, index)
                pending[index] = self._engine.submit(model, work, done, wait=True)
                count = index + 1
            else:
                for _ in range(_IN_FLIGHT):
                    self._await_room(gathered, pending)
        finally:
            for job in pending.values():
                job.cancel()
        if gathered.error is not None:
            raise gathered.error
        return [gathered.results[index] for index in range(count)]

    def _await_room(self, gathered: _Gathered, pending: Mapping[int, Job]) -> None:
        """Wait for one that ends; a model that hangs ends none, so their deadlines do."""
        while not gathered.room.acquire(timeout=_LOOK_S):
            for job in tuple(pending.values()):
                if self._engine.clock() >= job.deadline:
                    job.expire()


class _Gathered:
    """Answers as they come in; the samples that they belong to are not kept."""

    def __init__(self) -> None:
        self.results: dict[int, Prediction] = {}
        self.error: EdgekitError | None = None
        self.room = threading.Semaphore(_IN_FLIGHT)

    def take(self, index: int, job: Job) -> None:
        if job.error is None:
            self.results[index] = job.result
        else:
            self.error = self.error or job.error
        self.room.release()


def serve_chain(
    engine: Engine,
    name: str,
    document: Mapping[str, Any],
    *,
    limits: Limits | None = None,
    where: str = "pipeline",
) -> None:
    """Serve a pipeline under a name.

    Args:
        engine: Serves the models of its steps already.
        name: Of the pipeline.
        document: ``{"steps": [...]}``.
        limits: Of the pipeline's own queue.
        where: The document's name in messages.

    Raises:
        ConfigError: The document is wrong, or a step is a pipeline itself.
        UnknownModelError: A step's model is not served.
    """
    steps = parse_steps(document, where)
    infos = [engine.info(step.model) for step in steps]
    if name in {step.model for step in steps} or any(info.task == TASK for info in infos):
        raise ConfigError("a pipeline's steps are models, not pipelines", where=where)
    info = ModelInfo(
        name=name,
        version=".".join(info.version for info in infos),
        title=" → ".join(info.title for info in infos),
        task=TASK,
    )
    engine.serve(info, Pipeline(Chain(engine, steps), _no_model), limits=limits)


def _no_model(feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:  # noqa: ARG001
    """Stand where a pipeline's own model would be."""
    return {}


def _taken(prediction: Prediction, step: Step) -> bytes:
    value = prediction.get(str(step.take))
    if not isinstance(value, str):
        raise ConfigError(f'the step before {step.model} gives no text in "{step.take}"')
    return value.encode("utf-8", "replace")
