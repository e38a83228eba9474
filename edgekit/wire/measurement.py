"""Measurements: numbers that carry their provenance, and the contract that reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from edgekit.wire.canonical import Json
from edgekit.wire.errors import ConfigError, TrustError
from edgekit.wire.strict import Fields


class Kind(StrEnum):
    """How a number came to be."""

    MEASURED = "measured"
    SIMULATED = "simulated"
    PREDICTED = "predicted"


@dataclass(frozen=True)
class Measurement:
    """One number with its provenance; the only thing a gate reads.

    Attributes:
        metric: Name with its unit: ``top1_agreement``, ``latency_p95_ms``, ``size_mib``.
        value: The number; ratios run 0..1.
        kind: Measured, simulated or predicted.
        where: What it was taken on: ``x86-64-vnni host``, ``rpi5``.
        n: Samples it rests on; None where counting makes no sense (a file's size).
        interval: Lower and upper bound: 95 % confidence if measured, the error band if predicted.
        data_sha256: Digest of the data it was taken from.
    """

    metric: str
    value: float
    kind: Kind
    where: str
    n: int | None = None
    interval: tuple[float, float] | None = None
    data_sha256: str | None = None

    def to_json(self) -> dict[str, Json]:
        """Return the JSON form; absent fields are left out."""
        document: dict[str, Json] = {
            "metric": self.metric,
            "value": self.value,
            "kind": self.kind.value,
            "where": self.where,
        }
        if self.n is not None:
            document["n"] = self.n
        if self.interval is not None:
            document["interval"] = list(self.interval)
        if self.data_sha256 is not None:
            document["data_sha256"] = self.data_sha256
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, object]) -> Measurement:
        """Read the JSON form.

        Raises:
            ConfigError: A field is missing or of the wrong type.
        """
        try:
            interval = document.get("interval")
            n = document.get("n")
            sha = document.get("data_sha256")
            return cls(
                metric=str(document["metric"]),
                value=float(document["value"]),  # type: ignore[arg-type]
                kind=Kind(str(document["kind"])),
                where=str(document["where"]),
                n=None if n is None else int(n),  # type: ignore[call-overload]
                interval=None if interval is None else (float(interval[0]), float(interval[1])),  # type: ignore[index]
                data_sha256=None if sha is None else str(sha),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ConfigError(f"not a measurement: {error}") from error


@dataclass(frozen=True)
class Requirement:
    """One line of an acceptance contract.

    Attributes:
        metric: The metric that is read.
        minimum: Lowest value that passes, if bounded below.
        maximum: Highest value that passes, if bounded above.
        vs: ``absolute`` compares the value; ``fp32`` compares its difference from fp32's.
        where: File and line of the requirement.
    """

    metric: str
    minimum: float | None = None
    maximum: float | None = None
    vs: Literal["absolute", "fp32"] = "absolute"
    where: str = ""

    def to_json(self) -> dict[str, Json]:
        """Return the JSON form that the manifest carries."""
        document: dict[str, Json] = {"metric": self.metric, "vs": self.vs}
        if self.minimum is not None:
            document["min"] = self.minimum
        if self.maximum is not None:
            document["max"] = self.maximum
        return document

    @classmethod
    def from_fields(cls, fields: Fields) -> Requirement:
        """Read the JSON form of a manifest that strangers wrote.

        Raises:
            TrustError: Not exactly that form.
        """
        requirement = cls(
            metric=fields.text("metric"),
            minimum=fields.number("min") if fields.has("min") else None,
            maximum=fields.number("max") if fields.has("max") else None,
            vs=fields.choice("vs", ("absolute", "fp32")),
        )
        if requirement.minimum is None and requirement.maximum is None:
            raise TrustError("a requirement needs a min or a max", where=fields.name)
        fields.close()
        return requirement


class Outcome(StrEnum):
    """What a contract says of one metric."""

    PASS = "pass"  # noqa: S105 - not a password
    FAIL = "fail"
    UNDECIDED = "undecided"
    ABSENT = "absent"


@dataclass(frozen=True)
class Verdict:
    """A requirement, what was read for it, and the outcome."""

    requirement: Requirement
    outcome: Outcome
    measurement: Measurement | None
    reference: Measurement | None

    @property
    def met(self) -> bool:
        """True unless the requirement failed or its metric is absent."""
        return self.outcome in (Outcome.PASS, Outcome.UNDECIDED)


def judge(
    contract: Iterable[Requirement],
    measurements: Iterable[Measurement],
    reference: Iterable[Measurement],
) -> tuple[Verdict, ...]:
    """Hold measurements against a contract.

    A measured value passes or fails by its value. A predicted value fails only when its whole band
    is beyond the limit and passes only when its whole band is within it; between the two the
    device decides. A metric that is required and absent fails.

    Args:
        contract: The requirements.
        measurements: Of the candidate.
        reference: Of fp32, for requirements with ``vs = "fp32"``.
    """
    values = {m.metric: m for m in measurements}
    references = {m.metric: m for m in reference}
    return tuple(
        _judge_one(requirement, values.get(requirement.metric), references.get(requirement.metric))
        for requirement in contract
    )


def _judge_one(
    requirement: Requirement, measurement: Measurement | None, reference: Measurement | None
) -> Verdict:
    if measurement is None or (requirement.vs == "fp32" and reference is None):
        return Verdict(requirement, Outcome.ABSENT, measurement, reference)
    offset = reference.value if requirement.vs == "fp32" and reference is not None else 0.0
    low = high = measurement.value
    if measurement.kind is Kind.PREDICTED and measurement.interval is not None:
        low, high = measurement.interval
    # A difference of two decimal fractions (0.95 - 0.97) may miss its limit by one rounding step.
    slack = 1e-9
    minimum = -float("inf") if requirement.minimum is None else requirement.minimum - slack
    maximum = float("inf") if requirement.maximum is None else requirement.maximum + slack
    inside = minimum <= low - offset and high - offset <= maximum
    outside = high - offset < minimum or low - offset > maximum
    outcome = Outcome.PASS if inside else Outcome.FAIL if outside else Outcome.UNDECIDED
    return Verdict(requirement, outcome, measurement, reference)
