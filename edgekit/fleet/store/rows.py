"""What the store's read API returns. Times are Unix seconds of the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

Row = TypeVar("Row")


@dataclass(frozen=True)
class Page(Generic[Row]):
    """Some rows of many.

    Attributes:
        rows: These.
        total: How many there are in all.
    """

    rows: Sequence[Row]
    total: int


@dataclass(frozen=True)
class DeviceRow:
    """A device in a list.

    Attributes:
        name: Of the device.
        labels: Of the device.
        online: By the broker; None where it was never seen.
        last_seen_s: When anything came from it.
        target: It says so itself.
        version: Of its edgekit.
        models: Model to the first 12 digits of the bundle that serves.
        temp_c: The hottest zone, at the last sample.
        cpu_share: 0..1, at the last sample.
        p95_ms: By model, of the last sample.
        alerts: How many are open.
        phase: Where the last order stands.
    """

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    online: bool | None = None
    last_seen_s: float | None = None
    target: str = ""
    version: str = ""
    models: Mapping[str, str] = field(default_factory=dict)
    temp_c: float | None = None
    cpu_share: float | None = None
    p95_ms: Mapping[str, float] = field(default_factory=dict)
    alerts: int = 0
    phase: str = ""


@dataclass(frozen=True)
class Gaps:
    """Numbers of one process of a device.

    Attributes:
        boot_id: Of the process.
        have: Messages that are stored.
        issued: Numbers that it has given out, as far as is known.
        dropped: Of them, those that it says will not come.
        ranges: First and last of each run that is stored; of very many, the upper ones.
        received_s: When the last one came.
    """

    boot_id: str
    have: int
    issued: int
    dropped: int
    ranges: Sequence[tuple[int, int]]
    received_s: float

    @property
    def missing(self) -> int:
        """Those that nobody accounts for; some may still be on their way."""
        return max(0, self.issued - self.have - self.dropped)


@dataclass(frozen=True)
class DeviceDetail:
    """Everything about one device.

    Attributes:
        row: As in the list.
        facts: Of its hello.
        hello: The whole one.
        vitals: Of the last sample.
        sample: The whole last sample.
        sample_s: When that came.
        reported: What it runs and what became of the last order.
        state: What the broker knows.
        reason: Why the last order stands where it does.
        gaps: By process, the latest first.
    """

    row: DeviceRow
    facts: Mapping[str, str]
    hello: Mapping[str, Any]
    vitals: Mapping[str, Any]
    sample: Mapping[str, Any]
    sample_s: float | None
    reported: Mapping[str, Any]
    state: Mapping[str, Any]
    reason: str
    gaps: Sequence[Gaps]


@dataclass(frozen=True)
class Summary:
    """The fleet in numbers; ``groups`` are by label, value and whether they are online."""

    total: int
    online: int
    offline: int
    never_seen: int
    open_alerts: int
    versions: Mapping[str, int]
    targets: Mapping[str, int]
    groups: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class LatencyPoint:
    """Latencies of one window, in milliseconds."""

    t: float
    p50: float | None
    p95: float | None
    p99: float | None
    n: int


@dataclass(frozen=True)
class EventRow:
    """Something that happened on a device."""

    id: int
    device: str
    received_s: float
    time_s: float
    name: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class ModelRow:
    """A model that devices serve.

    Attributes:
        name: Of the model.
        devices: How many serve it.
        bundles: First 12 digits of a bundle to how many serve that one.
        requests: Of the last day.
        errors: Likewise.
        p50_ms: Likewise.
        p95_ms: Likewise.
    """

    name: str
    devices: int
    bundles: Mapping[str, int]
    requests: int
    errors: int
    p50_ms: float | None
    p95_ms: float | None


@dataclass(frozen=True)
class ModelDetail:
    """A model over the fleet.

    Attributes:
        row: As in the list.
        measurements: By device, what the self-test measured there.
        drift: By device, what the last sample says.
    """

    row: ModelRow
    measurements: Mapping[str, Mapping[str, float]]
    drift: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class IngestRow:
    """How ingest is.

    Attributes:
        alive_s: When it said so.
        status: ``running``, ``waiting`` or ``stopped``.
        detail: Why it waits.
        counts: What it has counted since it was started.
    """

    alive_s: float
    status: str
    detail: str
    counts: Mapping[str, int]


@dataclass(frozen=True)
class AuditRow:
    """What somebody did."""

    id: int
    at_s: float
    user: str
    action: str
    subject: str
    detail: str
