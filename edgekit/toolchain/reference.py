"""The drift reference of a bundle: what the shipped model saw and answered at calibration.

Bins are chosen for the number of samples: so many that each shows a change, so few that chance
alone stays below what counts as a change. Edges lie between two values that were seen and are
written with as few digits as that takes, so a last bit that rounds otherwise moves no value to
another bin.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from edgekit.runtime.reference import (
    FEW,
    MAX_TENSORS,
    MAX_VALUES,
    Calibrated,
    Side,
    Watched,
    answer_numbers,
    answered_classes,
    check,
    each,
    is_number,
    spread,
)
from edgekit.runtime.session import Run
from edgekit.runtime.sketches import (
    MAX_CLASSES,
    PSI_MUCH,
    Reference,
    ValueSketch,
    psi_noise,
)
from edgekit.runtime.tasks import Task
from edgekit.toolchain.readers import Sample
from edgekit.toolchain.samples import evenly
from edgekit.wire.strict import MAX_TEXT

if TYPE_CHECKING:
    from edgekit.runtime.session import Array

MAX_SAMPLES = 256
# Calls of a model whose task calls it often (a frame of sound each) are thinned to this many.
MAX_CALLS = 4096
MIN_BINS, MAX_BINS = 3, 10
# Share of answers of classes that calibration did not show, above which its mix says nothing.
MAX_UNSEEN = 0.1
# A number that moves by less than this share is rounding: the mean of probabilities that add to 1.
MIN_RANGE = 1e-4
_ENDLESS = 10**9
_DIGITS = 17
Recorded = dict[tuple[Side, str], list[dict[str, float]]]


def make_calibrated(task: Task, run: Run, samples: Sequence[Sample]) -> Calibrated:
    """Run the shipped model over its calibration samples and keep how its numbers are distributed.

    Args:
        task: The recipe's task.
        run: The shipped model.
        samples: Of the calibration set; at most 256 are run, taken evenly.

    Raises:
        ConfigError: A sample is not what the task expects.
        TrustError: Never, unless a device would refuse the result.
    """
    chosen = evenly(samples, MAX_SAMPLES)
    sizes: dict[tuple[Side, str], set[int]] = {}
    recorded: Recorded = {}
    answers: list[dict[str, float]] = []
    classes: Counter[str] = Counter()

    def recording(feeds: Mapping[str, Array]) -> dict[str, Array]:
        outputs = run(feeds)
        both: list[tuple[Side, Mapping[str, Array]]] = [("input", feeds), ("output", outputs)]
        for side, held in both:
            for name, array in held.items():
                if is_number(array) and name.isprintable() and len(name) < MAX_TEXT // 2:
                    sizes.setdefault((side, name), set()).add(array.size)
                    recorded.setdefault((side, name), []).append(each(array) | spread(array))
        return outputs

    for sample in chosen:
        prediction = task.predict(recording, sample.data)
        answers.append(answer_numbers(prediction))
        classes.update(label for label, _ in answered_classes(prediction))
    numbers = _by_number(answers, lambda name: name)
    tensors: list[Watched] = []
    for (side, name), rows in sorted(recorded.items(), key=lambda item: item[0][0]):
        tensor, found = _watched(side, name, sizes[side, name], rows)
        if found and len(tensors) < MAX_TENSORS and len(numbers) + len(found) <= MAX_VALUES:
            tensors.append(tensor)
            numbers |= found
    return check(Calibrated(len(chosen), tuple(tensors), numbers, class_mix(classes)))


def _watched(
    side: Side, name: str, sizes: set[int], rows: Sequence[dict[str, float]]
) -> tuple[Watched, dict[str, Reference]]:
    """Choose the numbers of a tensor; one that is the same in all calls tells nothing."""
    if len(sizes) == 1 and max(sizes) <= FEW:
        wanted = [str(place) for place in range(max(sizes))]
    else:
        wanted = ["mean", "std", "step"] if side == "input" else ["mean", "std"]
    probe = Watched(side, name, ())
    thinned = evenly(rows, MAX_CALLS)
    found = _by_number(
        [{n: row[n] for n in wanted if n in row} for row in thinned], probe.value_name
    )
    return Watched(side, name, tuple(n for n in wanted if probe.value_name(n) in found)), found


def _by_number(
    rows: Sequence[Mapping[str, float]], named: Callable[[str], str]
) -> dict[str, Reference]:
    names = dict.fromkeys(name for row in rows for name in row)
    made = {named(n): binned([row[n] for row in rows if n in row]) for n in names}
    return {name: reference for name, reference in made.items() if reference.edges}


def class_mix(classes: Mapping[str, int]) -> dict[str, int]:
    """Return how often each class was the answer; nothing where the samples cannot tell.

    The share of answers whose class calibration did not show is about that of the classes which
    it showed once (Good, "The population frequencies of species", Biometrika 40, 1953). Where it
    is large, a class that is new in the field means nothing.
    """
    total, once = sum(classes.values()), sum(n == 1 for n in classes.values())
    if not total or once > MAX_UNSEEN * total or len(classes) > MAX_CLASSES:
        return {}
    return {label: n for label, n in sorted(classes.items()) if label.isprintable()}


def bins_for(n: int) -> int:
    """Return how many bins so many values are worth.

    The most for which chance alone, however many values a device sees, stays below half of what
    counts as much drift; at least 3, at most 10.
    """
    fits = [b for b in range(MIN_BINS, MAX_BINS + 1) if psi_noise(b, n, _ENDLESS) <= PSI_MUCH / 2]
    return max(fits, default=MIN_BINS)


def binned(values: Sequence[float]) -> Reference:
    """Cut values into bins of about equal count; without edges where all are the same but rounding.

    Args:
        values: One a call or sample; what is not finite is left out.
    """
    ordered = sorted(value for value in values if math.isfinite(value))
    distinct = sorted(set(ordered))
    edges: set[float] = set()
    bins = bins_for(len(ordered))
    if ordered and ordered[-1] - ordered[0] <= MIN_RANGE * max(-ordered[0], ordered[-1]):
        bins = 1
    for i in range(1, bins):
        if not ordered:
            break
        low = ordered[max(0, len(ordered) * i // bins - 1)]
        above = [value for value in distinct if value > low][:1]
        edges.update(_between(low, high) for high in above)
    sketch = ValueSketch(tuple(sorted(edges)))
    for value in ordered:
        sketch.add(value)
    return Reference(sketch.edges, tuple(sketch.counts))


def _between(low: float, high: float) -> float:
    """Return the shortest decimal number near the middle of two: from low to below high."""
    middle = low / 2 + high / 2
    for digits in range(2, _DIGITS):
        edge = float(f"{middle:.{digits}g}")
        if low <= edge < high:
            return edge
    return low
