"""Tasks: what a model is for. One file a task; a recipe names the file.

A task turns the raw bytes of one sample (a JPEG, a WAV, a text, an .npy) into feeds, runs the
model as often as it needs, and turns outputs into a prediction made of plain JSON. Host and device
run this same code. A task imports what it needs beside numpy (Pillow, tokenizers, soundfile) inside
its own functions, so that a device without that package can still run the other tasks.

To add a task, add ``edgekit/runtime/tasks/<name>.py`` with a function
``create(options, files) -> Task``; dashes in the name become underscores.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from edgekit.runtime.session import Run
from edgekit.wire.errors import ConfigError, did_you_mean

Prediction: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Agreement:
    """How far two models say the same.

    Attributes:
        metric: Its name: ``top1_agreement``, ``box_f1_agreement``, …
        value: 0..1, 1 is the same.
        scores: One score a sample, 0..1; their order is the samples'.
        interval: 95 % interval of the value where the scores alone do not give it, 0..1.
    """

    metric: str
    value: float
    scores: tuple[float, ...]
    interval: tuple[float, float] | None = None


class Task(Protocol):
    """What a model is for."""

    def predict(self, run: Run, data: bytes) -> Prediction:
        """Run the model on one sample.

        Args:
            run: Feeds in, named outputs out.
            data: The sample as it stands in its file.

        Raises:
            ConfigError: The bytes are not what the task expects.
        """
        ...

    def agreement(self, reference: Sequence[Prediction], other: Sequence[Prediction]) -> Agreement:
        """Compare the predictions of two models on the same samples, in the same order."""
        ...


def task_names() -> list[str]:
    """Return the names of all tasks."""
    return sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__))


def create_task(name: str, options: Mapping[str, Any], files: Mapping[str, bytes]) -> Task:
    """Make a task by its name.

    Args:
        name: ``classify-image``, ``detect-objects``, …
        options: The task's own options, from the recipe's ``[task]`` table.
        files: Sidecar files by name: labels, character sets, tokenizers.

    Raises:
        ConfigError: No such task, or its options are wrong.
        MissingToolError: The task's own package is not installed.
    """
    known = task_names()
    if name not in known:
        close = did_you_mean(name, known)
        raise ConfigError(
            f'no task named "{name}"',
            hint=f"did you mean {close}?" if close else f"tasks: {', '.join(known)}",
        )
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    task: Task = module.create(options, files)
    return task
