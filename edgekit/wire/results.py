"""``measurements.json`` of a bundle: what the shipped model and fp32 came to under the contract.

Only what the plan determines stands here; the timings of the machine that built it are in the
report beside the bundle.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgekit.wire.canonical import canonical_json
from edgekit.wire.errors import TrustError
from edgekit.wire.measurement import Kind, Measurement, Requirement, Verdict, judge
from edgekit.wire.strict import Fields, parse_object, require_canonical

SCHEMA = "edgekit.measurements/1"
MAX_RESULTS_BYTES = 1 << 20
KINDS: tuple[str, ...] = tuple(kind.value for kind in Kind)


@dataclass(frozen=True)
class Results:
    """The measurements that a bundle carries.

    Attributes:
        shipped: Of the model in the bundle.
        fp32: Of the float32 model that it came from.
    """

    shipped: tuple[Measurement, ...]
    fp32: tuple[Measurement, ...]

    def to_bytes(self) -> bytes:
        """Return the canonical JSON form."""
        return canonical_json(
            {
                "schema": SCHEMA,
                "shipped": [measurement.to_json() for measurement in self.shipped],
                "fp32": [measurement.to_json() for measurement in self.fp32],
            }
        )

    def judge(self, contract: Iterable[Requirement]) -> tuple[Verdict, ...]:
        """Hold the shipped model against a contract."""
        return judge(contract, self.shipped, self.fp32)


def parse_results(data: bytes, where: str = "measurements.json") -> Results:
    """Read ``measurements.json``.

    Raises:
        TrustError: Not exactly what :meth:`Results.to_bytes` writes.
    """
    document = parse_object(data, where, most_bytes=MAX_RESULTS_BYTES)
    require_canonical(data, document, where)
    fields = Fields(document, where)
    if fields.text("schema") != SCHEMA:
        raise TrustError(f"not a document of schema {SCHEMA}", where=where)
    results = Results(
        shipped=tuple(_measurement(item) for item in fields.objects("shipped")),
        fp32=tuple(_measurement(item) for item in fields.objects("fp32")),
    )
    fields.close()
    return results


def _measurement(fields: Fields) -> Measurement:
    measurement = Measurement(
        metric=fields.text("metric"),
        value=fields.number("value"),
        kind=Kind(fields.choice("kind", KINDS)),
        where=fields.text("where"),
        n=fields.integer("n") if fields.has("n") else None,
        interval=_interval(fields) if fields.has("interval") else None,
        data_sha256=fields.sha256("data_sha256") if fields.has("data_sha256") else None,
    )
    fields.close()
    return measurement


def _interval(fields: Fields) -> tuple[float, float]:
    try:
        low, high = (Fields({"bound": bound}, fields.name) for bound in fields.array("interval"))
    except ValueError as error:
        raise fields.refuse("interval", "must be two numbers") from error
    return low.number("bound"), high.number("bound")
