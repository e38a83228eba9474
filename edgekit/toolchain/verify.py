"""What a graph is worth: predictions on the evaluation set, measurements, calibration lint."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.runtime.session import Run
from edgekit.runtime.tasks import Prediction, Task
from edgekit.toolchain import metrics
from edgekit.toolchain.samples import SampleSet
from edgekit.toolchain.statistics import mean_interval
from edgekit.wire.errors import ConfigError, EdgekitError
from edgekit.wire.measurement import Kind, Measurement

if TYPE_CHECKING:
    import numpy as np

# Golden samples are drawn from the calibration set, which therefore has at least as many.
MIN_CALIBRATION_SAMPLES = 16
# A claim in points of accuracy needs this many labelled samples.
MIN_LABELLED = 200
# Evaluation may leave the calibrated range by this share of it before lint calls it far.
RANGE_SLACK = 0.5
MAX_FAR_TENSORS = 0.25
MIB = 1 << 20
MEAN_SLACK = 1e-6  # rounding of a sum of float scores

Feeds = dict[str, "np.ndarray[Any, Any]"]


def record_feeds(
    task: Task, run: Run, sample_set: SampleSet, limit: int, on_done: Callable[[int], None]
) -> list[Feeds]:
    """Run a task over samples and keep what it fed to the model.

    Args:
        task: The recipe's task.
        run: The float32 model.
        sample_set: Calibration or evaluation samples.
        limit: Most feeds kept; taken evenly over all calls.
        on_done: Called with the number of samples done.
    """
    feeds: list[Feeds] = []

    def recording(fed: Mapping[str, Any]) -> dict[str, Any]:
        feeds.append(dict(fed))
        return run(fed)

    for index, sample in enumerate(sample_set.samples):
        _named(task.predict, recording, sample)
        on_done(index + 1)
    if len(feeds) > limit:
        feeds = [feeds[i * len(feeds) // limit] for i in range(limit)]
    return feeds


def predict_all(
    task: Task, run: Run, sample_set: SampleSet, on_done: Callable[[int], None]
) -> list[Prediction]:
    """Return the predictions on a set, in its order."""
    predictions = []
    for index, sample in enumerate(sample_set.samples):
        predictions.append(_named(task.predict, run, sample))
        on_done(index + 1)
    return predictions


def _named(predict: Callable[[Run, bytes], Prediction], run: Run, sample: Any) -> Prediction:  # noqa: ANN401
    try:
        return predict(run, sample.data)
    except EdgekitError as error:
        raise type(error)(
            error.message, hint=error.hint, where=error.where or sample.name
        ) from error


def accuracy_measurements(
    task: Task,
    metric: str | None,
    sample_set: SampleSet,
    reference: Sequence[Prediction],
    predictions: Sequence[Prediction],
    where: str,
) -> list[Measurement]:
    """Measure agreement with fp32 and, with labels, the recipe's metric.

    Args:
        task: Knows how predictions are compared.
        metric: Name of the ground-truth metric, or None.
        sample_set: The evaluation set.
        reference: fp32's predictions.
        predictions: The candidate's, in the same order.
        where: The machine they were made on.
    """
    agreement = task.agreement(reference, predictions)
    measured = [
        Measurement(
            metric=agreement.metric,
            value=agreement.value,
            kind=Kind.MEASURED,
            where=where,
            n=len(agreement.scores),
            interval=agreement.interval or _interval(agreement.value, agreement.scores),
            data_sha256=sample_set.sha256,
        )
    ]
    labelled = [i for i, s in enumerate(sample_set.samples) if s.label is not None]
    if metric is not None and labelled:
        score = metrics.score(
            metric,
            [predictions[i] for i in labelled],
            [sample_set.samples[i].label for i in labelled],
        )
        measured.append(
            Measurement(
                metric=metric,
                value=score.value,
                kind=Kind.MEASURED,
                where=where,
                n=len(labelled),
                interval=score.interval or _interval(score.value, score.scores),
                data_sha256=sample_set.sha256,
            )
        )
    return measured


def _interval(value: float, scores: Sequence[float] | None) -> tuple[float, float] | None:
    """Return the interval of a value that is the mean of its scores; others have none."""
    if not scores or abs(math.fsum(scores) / len(scores) - value) > MEAN_SLACK:
        return None
    return mean_interval(scores, seed=0)


def size_measurement(size_bytes: int) -> Measurement:
    """Return a model file's size in MiB."""
    return Measurement("size_mib", round(size_bytes / MIB, 4), Kind.MEASURED, "model file")


def lint_count(sample_set: SampleSet, where: str) -> None:
    """Refuse calibration data that is missing or too little.

    Raises:
        ConfigError: There is none, or too few samples.
    """
    n = len(sample_set.samples)
    if n == 0:
        raise ConfigError("there is no calibration data", where=where, hint="add [[calibration]]")
    if n < MIN_CALIBRATION_SAMPLES:
        raise ConfigError(
            f"{n} calibration samples are too few",
            hint=f"give at least {MIN_CALIBRATION_SAMPLES}, as varied as the field",
            where=where,
        )


def lint_feeds(feeds: Sequence[Feeds], where: str) -> None:
    """Refuse calibration feeds that cannot stand for anything.

    Raises:
        ConfigError: An input never changes.
    """
    import numpy as np

    for name in feeds[0]:
        values = [feed[name] for feed in feeds]
        first = values[0]
        if not np.issubdtype(first.dtype, np.floating) or first.size == 1:
            continue
        if all(v.shape == first.shape and np.array_equal(v, first) for v in values):
            raise ConfigError(
                f'input "{name}" is the same in all calibration samples',
                hint="are the files copies of one another, or is the pre-processing wrong?",
                where=where,
            )


def lint_ranges(
    calibrated: Mapping[str, tuple[float, float]],
    evaluated: Mapping[str, tuple[float, float]],
    where: str,
) -> None:
    """Refuse calibration whose ranges are far from the evaluation set's.

    Args:
        calibrated: Smallest and largest value a tensor, over the calibration set.
        evaluated: The same over some evaluation samples.
        where: The recipe.

    Raises:
        ConfigError: More than a quarter of the tensors leave their range by over half of it.
    """
    far = []
    for name, (low, high) in calibrated.items():
        seen = evaluated.get(name)
        if seen is None:
            continue
        slack = RANGE_SLACK * max(high - low, 1e-6)
        if seen[0] < low - slack or seen[1] > high + slack:
            far.append(name)
    if len(far) > MAX_FAR_TENSORS * len(calibrated):
        worst = far[0]
        low, high = calibrated[worst]
        raise ConfigError(
            f"{len(far)} of {len(calibrated)} tensors leave their calibrated range on the "
            f'evaluation set ("{worst}": {low:.3g}..{high:.3g} against '
            f"{evaluated[worst][0]:.3g}..{evaluated[worst][1]:.3g})",
            hint="take calibration data that looks like the evaluation data",
            where=where,
        )
