"""What a bundle's self-test on a device came to: golden samples, latency, placement.

The device writes it into its reports, the fleet reads it. A result of a process that crashed or
hung has no numbers in it, and says how the process ended.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from edgekit.wire.canonical import Json, canonical_json
from edgekit.wire.errors import TrustError
from edgekit.wire.measurement import Measurement, Outcome
from edgekit.wire.results import SCHEMA as RESULTS_SCHEMA
from edgekit.wire.results import parse_results
from edgekit.wire.strict import MAX_INTEGER, Fields

SCHEMA = "edgekit.selftest/1"
MAX_REASON = 300
MAX_DETAIL = 1000
OUTCOMES: tuple[str, ...] = tuple(outcome.value for outcome in Outcome)


@dataclass(frozen=True)
class GoldenCheck:
    """How the golden samples compare.

    Attributes:
        samples: Golden samples that were run.
        outputs: Outputs that were compared, over all samples.
        within: Those that lie within the bundle's tolerance.
        exact: Those that are equal bit for bit.
        max_abs: Largest difference, as a share of the output's largest magnitude (at least 1).
        cosine_min: Lowest cosine of one output.
    """

    samples: int
    outputs: int
    within: int
    exact: int
    max_abs: float
    cosine_min: float


@dataclass(frozen=True)
class Judged:
    """One line of the contract that this device could measure.

    Attributes:
        metric: ``latency_p95_ms``.
        minimum: Of the contract.
        maximum: Of the contract.
        outcome: ``pass``, ``fail`` or ``absent``.
    """

    metric: str
    minimum: float | None
    maximum: float | None
    outcome: str


@dataclass(frozen=True)
class Placed:
    """Where the nodes of one operator run.

    Attributes:
        op: Operator type, as the manifest names it.
        precision: ``int8`` or ``fp32``.
        provider: Execution provider.
        expected: Nodes by the manifest.
        found: Nodes as the runtime says; None where it joins nodes and cannot tell.
    """

    op: str
    precision: str
    provider: str
    expected: int
    found: int | None


@dataclass(frozen=True)
class SelfTestResult:
    """A self-test.

    Attributes:
        sha256: Of the bundle.
        passed: It may go on trial.
        reason: Why not; empty where it passed.
        duration_s: Wall time.
        host: Kind of CPU that ran it: ``arm64``.
        onnxruntime: Version; empty where the process did not get so far.
        golden: None where the process did not get so far.
        measurements: Measured on this device: ``latency_p50_ms``, ``latency_p95_ms``.
        judged: The contract's lines about them.
        placement: One row an operator of the manifest; empty where the runtime tells nothing.
        providers: Nodes by execution provider, as the runtime says.
        exit_code: Of the process; None where a signal ended it.
        signal: Name of the signal that ended it, if one did.
        detail: The last words of a process that said nothing else.
    """

    sha256: str
    passed: bool
    reason: str
    duration_s: float
    host: str
    onnxruntime: str = ""
    golden: GoldenCheck | None = None
    measurements: tuple[Measurement, ...] = ()
    judged: tuple[Judged, ...] = ()
    placement: tuple[Placed, ...] = ()
    providers: Mapping[str, int] | None = None
    exit_code: int | None = None
    signal: str | None = None
    detail: str = ""

    def to_json(self) -> dict[str, Json]:
        """Return the JSON form; absent values are left out."""
        document: dict[str, Json] = {
            "schema": SCHEMA,
            "sha256": self.sha256,
            "passed": self.passed,
            "reason": self.reason,
            "duration_s": self.duration_s,
            "host": self.host,
            "onnxruntime": self.onnxruntime,
            "measurements": [measurement.to_json() for measurement in self.measurements],
            "judged": [_without_none(vars(row)) for row in self.judged],
            "placement": [_without_none(vars(row)) for row in self.placement],
            "detail": self.detail,
        }
        if self.golden is not None:
            document["golden"] = dict(vars(self.golden))
        if self.providers is not None:
            document["providers"] = dict(self.providers)
        if self.exit_code is not None:
            document["exit_code"] = self.exit_code
        if self.signal is not None:
            document["signal"] = self.signal
        return document


def parse_self_test(document: Mapping[str, Json], where: str = "self-test") -> SelfTestResult:
    """Read the JSON form.

    Raises:
        TrustError: Not exactly what :meth:`SelfTestResult.to_json` returns.
    """
    fields = Fields(dict(document), where)
    if fields.text("schema") != SCHEMA:
        raise TrustError(f"not a document of {SCHEMA}", where=where)
    result = SelfTestResult(
        sha256=fields.sha256("sha256"),
        passed=fields.boolean("passed"),
        reason=fields.text("reason", most=MAX_REASON),
        duration_s=fields.number("duration_s", 0.0),
        host=fields.text("host"),
        onnxruntime=fields.text("onnxruntime"),
        golden=_golden(fields.object("golden")) if fields.has("golden") else None,
        measurements=_measurements(fields.array("measurements"), where),
        judged=tuple(_judged(item) for item in fields.objects("judged")),
        placement=tuple(_placed(item) for item in fields.objects("placement")),
        providers=_providers(fields.object("providers")) if fields.has("providers") else None,
        exit_code=fields.integer("exit_code", 0, 255) if fields.has("exit_code") else None,
        signal=fields.text("signal") if fields.has("signal") else None,
        detail=fields.text("detail", most=MAX_DETAIL),
    )
    fields.close()
    if result.passed and (result.reason or result.golden is None):
        raise TrustError("passed, but for a reason or without golden samples", where=where)
    return result


def _measurements(items: list[Json], where: str) -> tuple[Measurement, ...]:
    # One strict reader of measurements: that of a bundle's own.
    document = {"schema": RESULTS_SCHEMA, "shipped": items, "fp32": []}
    return parse_results(canonical_json(document), where).shipped


def _golden(fields: Fields) -> GoldenCheck:
    golden = GoldenCheck(
        samples=fields.integer("samples"),
        outputs=fields.integer("outputs"),
        within=fields.integer("within"),
        exact=fields.integer("exact"),
        # The largest float says that nothing fits.
        max_abs=fields.number("max_abs", 0.0, sys.float_info.max),
        cosine_min=fields.number("cosine_min", -1.1, 1.1),
    )
    fields.close()
    return golden


def _judged(fields: Fields) -> Judged:
    row = Judged(
        metric=fields.text("metric"),
        minimum=fields.number("minimum") if fields.has("minimum") else None,
        maximum=fields.number("maximum") if fields.has("maximum") else None,
        outcome=fields.choice("outcome", OUTCOMES),
    )
    fields.close()
    return row


def _placed(fields: Fields) -> Placed:
    row = Placed(
        op=fields.text("op"),
        precision=fields.text("precision"),
        provider=fields.text("provider"),
        expected=fields.integer("expected"),
        found=fields.integer("found") if fields.has("found") else None,
    )
    fields.close()
    return row


def _providers(fields: Fields) -> dict[str, int]:
    return {name: fields.integer(name, 0, MAX_INTEGER) for name in fields.names()}


def _without_none(values: Mapping[str, Json]) -> dict[str, Json]:
    return {name: value for name, value in values.items() if value is not None}
