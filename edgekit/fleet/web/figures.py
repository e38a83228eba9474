"""A model's figures side by side: contract, predicted, measured on the host, self-test, field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgekit.fleet.web.contracts import Promise
from edgekit.fleet.web.words import unit_of
from edgekit.wire.measurement import Kind, Measurement, Requirement

FIELD = "field, last hour"
SELF_TEST = "self-test on device"
_FIELD_METRICS = {"latency_p50_ms": "p50", "latency_p95_ms": "p95"}
_HOST = {
    Kind.MEASURED: "measured on host",
    Kind.SIMULATED: "simulated",
    Kind.PREDICTED: "predicted",
}
_MOST_VALUES = 300


@dataclass(frozen=True)
class Figure:
    """One source's figures of a metric.

    Attributes:
        source: Where they come from.
        values: One, or one a device.
        interval: 95 % confidence where it was measured, the error band where it is predicted.
        n: What it rests on.
    """

    source: str
    values: Sequence[float]
    interval: tuple[float, float] | None = None
    n: int | None = None


@dataclass(frozen=True)
class Comparison:
    """All figures of one metric, and what the contract asks of it.

    Attributes:
        metric: ``latency_p95_ms``.
        unit: Empty for a share.
        contract: The line of the contract; None where it asks nothing.
        figures: From the earliest to the latest.
        over: How many devices in the field miss the contract.
    """

    metric: str
    unit: str
    contract: Requirement | None
    figures: Sequence[Figure]
    over: int = 0


def compare(
    promise: Promise | None,
    self_tests: Mapping[str, Mapping[str, float]],
    field: Mapping[str, Mapping[str, float]],
) -> list[Comparison]:
    """Put the figures of a model side by side, those of its contract first.

    Args:
        promise: What the bundle says; None where the fleet does not have it.
        self_tests: By device, what its self-test measured.
        field: By device, ``p50`` and ``p95`` in milliseconds of the last hour.
    """
    contract = {line.metric: line for line in promise.contract} if promise else {}
    shipped: Mapping[str, Measurement] = (
        {measured.metric: measured for measured in promise.shipped} if promise else {}
    )
    tested = {metric for values in self_tests.values() for metric in values}
    fielded = set(_FIELD_METRICS) if field else set()
    rest = sorted({*shipped, *tested, *fielded} - set(contract))
    found = [
        _one(metric, contract.get(metric), shipped.get(metric), self_tests, field)
        for metric in (*contract, *rest)
    ]
    return [row for row in found if row.figures]


def _one(
    metric: str,
    line: Requirement | None,
    said: Measurement | None,
    self_tests: Mapping[str, Mapping[str, float]],
    field: Mapping[str, Mapping[str, float]],
) -> Comparison:
    figures = []
    if said is not None:
        figures.append(Figure(_HOST[said.kind], [said.value], said.interval, said.n))
    tested = [values[metric] for values in self_tests.values() if metric in values]
    if tested:
        figures.append(Figure(SELF_TEST, sorted(tested)[:_MOST_VALUES], n=len(tested)))
    key = _FIELD_METRICS.get(metric)
    seen = sorted(values[key] for values in field.values() if key in values) if key else []
    if seen:
        figures.append(Figure(FIELD, _spread(seen), n=len(seen)))
    over = sum(not _holds(line, value) for value in seen) if line is not None else 0
    return Comparison(metric, unit_of(metric), line, figures, over)


def _holds(line: Requirement, value: float) -> bool:
    if line.vs != "absolute":
        return True
    is_low = line.minimum is not None and value < line.minimum
    return not is_low and not (line.maximum is not None and value > line.maximum)


def _spread(values: Sequence[float]) -> Sequence[float]:
    """Return at most so many of sorted values, both ends among them."""
    if len(values) <= _MOST_VALUES:
        return values
    step = (len(values) - 1) / (_MOST_VALUES - 1)
    return [values[round(at * step)] for at in range(_MOST_VALUES)]
