"""Metrics against ground truth. One file a metric; a recipe names the file.

To add a metric, add ``edgekit/toolchain/metrics/<name>.py`` with a function
``score(predictions, labels) -> Score``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.runtime.tasks import Prediction
from edgekit.wire.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Score:
    """A metric's value.

    Attributes:
        value: 0..1.
        scores: One score a sample whose mean is the value, or None where the metric is not a mean.
        interval: 95 % interval of the value where the scores do not give it, 0..1.
    """

    value: float
    scores: tuple[float, ...] | None = None
    interval: tuple[float, float] | None = None


def metric_names() -> list[str]:
    """Return the names of all metrics."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__))


def score(name: str, predictions: Sequence[Prediction], labels: Sequence[Any]) -> Score:
    """Score predictions by a metric's name.

    Raises:
        ConfigError: No such metric, or the labels do not fit it.
    """
    known = metric_names()
    if name not in known:
        close = did_you_mean(name, known)
        raise ConfigError(
            f'no metric named "{name}"',
            hint=f"did you mean {close}?" if close else f"metrics: {', '.join(known)}",
        )
    module = importlib.import_module(f"{__name__}.{name}")
    result: Score = module.score(predictions, labels)
    return result
