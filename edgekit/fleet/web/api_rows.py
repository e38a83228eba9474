"""The shapes of REST, as OpenAPI describes them; the same fields as those of the store's rows."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from pydantic import Field

from edgekit.fleet.alerts.rows import AlertRow
from edgekit.fleet.alerts.rules import Silence
from edgekit.fleet.client import to_plain
from edgekit.fleet.web.order_rows import OrderRow

Shape = TypeVar("Shape")


def plain(shape: type[Shape], row: Any) -> Shape:  # noqa: ANN401 - a row of the store
    """Return a row of the store in a shape of REST: its fields of the same names."""
    names = [item.name for item in dataclasses.fields(shape)]  # type: ignore[arg-type]
    return shape(**{name: to_plain(getattr(row, name)) for name in names})


@dataclass
class ApiError:
    """What went wrong, and the next thing to do."""

    message: str
    hint: str | None


@dataclass
class Device:
    """A device in a list; `online` is null where it was never seen."""

    name: str
    labels: dict[str, str]
    online: bool | None
    last_seen_s: float | None
    target: str
    version: str
    models: dict[str, str]
    temp_c: float | None
    cpu_share: float | None
    p95_ms: dict[str, float]
    alerts: int
    phase: str


@dataclass
class DevicePage:
    """Some devices of many."""

    rows: list[Device]
    total: int


@dataclass
class FleetSummary:
    """The fleet in numbers."""

    total: int
    online: int
    offline: int
    never_seen: int
    open_alerts: int
    versions: dict[str, int]
    targets: dict[str, int]
    groups: dict[str, dict[str, int]]


@dataclass
class Latency:
    """Latencies of five minutes that begin at `t`, in ms."""

    t: float
    p50: float | None
    p95: float | None
    p99: float | None
    n: int


@dataclass
class Event:
    """Something that happened on a device; `time_s` is by the device's clock."""

    id: int
    device: str
    received_s: float
    time_s: float
    name: str
    values: dict[str, Any]


@dataclass
class Model:
    """A model and its last day."""

    name: str
    devices: int
    bundles: dict[str, int]
    requests: int
    errors: int
    p50_ms: float | None
    p95_ms: float | None


@dataclass
class ModelDetails:
    """A model over the fleet, with self-tests and drift by device."""

    row: dict[str, Any]
    measurements: dict[str, dict[str, float]]
    drift: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Alert(AlertRow):
    """An alert; `closed_s` is null while it is open."""


@dataclass(frozen=True)
class Order(OrderRow):
    """An order to some devices, counted by phase."""


@dataclass
class Ingest:
    """How ingest is, and what it has counted since it was started."""

    alive_s: float
    status: str
    detail: str
    counts: dict[str, int]


@dataclass
class AuditEntry:
    """What somebody did."""

    id: int
    at_s: float
    user: str
    action: str
    subject: str
    detail: str


@dataclass
class QueryAsked:
    """One SELECT in DuckDB's dialect."""

    sql: Annotated[str, Field(max_length=20_000)]
    rows: Annotated[int, Field(ge=1, le=100_000)] = 1000
    timeout_s: Annotated[float, Field(gt=0, le=60, allow_inf_nan=False)] = 30.0


@dataclass
class QueryAnswer:
    """What a query came to; `truncated` where there were more rows than asked for."""

    columns: list[str]
    rows: list[list[Any]]
    truncated: bool


@dataclass
class SilenceAsked:
    """Which alerts nobody is told of: by rule and device, with `*` and `?`."""

    reason: Annotated[str, Field(min_length=1, max_length=300)]
    hours: Annotated[float, Field(gt=0, le=24 * 366, allow_inf_nan=False)]
    rule: Annotated[str, Field(max_length=100)] = "*"
    device: Annotated[str, Field(max_length=100)] = "*"
    labels: dict[str, str] = field(default_factory=dict)

    def made(self, now_s: float) -> Silence:
        """Return the silence as it is kept."""
        until_s = now_s + self.hours * 3600
        return Silence(self.rule, self.device, self.labels, until_s, self.reason)


@dataclass
class SilenceMade:
    """The number of a silence."""

    number: int
