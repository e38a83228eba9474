"""``/metrics``: the fleet's totals for Prometheus (text format 0.0.4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from edgekit.fleet.store.rows import IngestRow, ModelRow, Summary

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Every metric with its type and what it means; the docs have the same list.
METRICS: Mapping[str, tuple[str, str]] = {
    "edgekit_fleet_devices": ("gauge", "devices by `state`: online, offline, never_seen"),
    "edgekit_fleet_versions": ("gauge", "devices by the `version` of edgekit that they run"),
    "edgekit_fleet_alerts_open": ("gauge", "open alerts by `severity` and `kind`"),
    "edgekit_fleet_ingest_up": ("gauge", "1 where ingest runs and stores what comes"),
    "edgekit_fleet_ingest_silent_seconds": ("gauge", "time since ingest said that it lives"),
    "edgekit_fleet_ingest_total": ("counter", "what ingest has counted since its start, by `what`"),
    "edgekit_fleet_ingest_refused_total": ("counter", "messages that ingest refused, by `reason`"),
    "edgekit_fleet_model_devices": ("gauge", "devices that serve a `model`"),
    "edgekit_fleet_model_requests_day": ("gauge", "requests of a `model` over the last 24 h"),
    "edgekit_fleet_model_errors_day": ("gauge", "those of them that failed"),
    "edgekit_fleet_model_latency_seconds": (
        "gauge", "latency of a `model` over the last 24 h by `quantile`, from merged histograms",
    ),
    "edgekit_fleet_http_answers_total": ("counter", "answers of this server by `status` class"),
}  # fmt: skip
_INGEST_SILENT_S = 30.0
_REFUSED = "refused_"


@dataclass
class Samples:
    """Collects values by metric, in the order of :data:`METRICS`."""

    lines: dict[str, list[str]] = field(default_factory=dict)

    def add(self, metric: str, value: float | None, **labels: str) -> None:
        """Add one value; None adds nothing."""
        if value is None:
            return
        inner = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        named = f"{metric}{{{inner}}}" if inner else metric
        self.lines.setdefault(metric, []).append(f"{named} {value:.10g}")

    def text(self) -> str:
        """Return all of them as Prometheus reads them."""
        found: list[str] = []
        for metric, (kind, meaning) in METRICS.items():
            if metric in self.lines:
                found += [f"# HELP {metric} {meaning}", f"# TYPE {metric} {kind}"]
                found += self.lines[metric]
        return "\n".join(found) + "\n"


def exposition(
    summary: Summary,
    alerts: Iterable[tuple[str, str]],
    ingest: IngestRow | None,
    models: Sequence[ModelRow],
    answers: Mapping[str, int],
    now_s: float,
) -> str:
    """Return the metrics as Prometheus reads them.

    Args:
        summary: The fleet in numbers.
        alerts: Severity and kind of each that is open.
        ingest: How ingest is.
        models: That any device serves.
        answers: Of this server, by class of their status.
        now_s: Unix time.
    """
    to = Samples()
    for state in ("online", "offline", "never_seen"):
        to.add("edgekit_fleet_devices", getattr(summary, state), state=state)
    for version, count in sorted(summary.versions.items()):
        to.add("edgekit_fleet_versions", count, version=version or "unknown")
    for (severity, kind), count in sorted(Counter(alerts).items()):
        to.add("edgekit_fleet_alerts_open", count, severity=severity, kind=kind)
    _add_ingest(to, ingest, now_s)
    for model in models:
        to.add("edgekit_fleet_model_devices", model.devices, model=model.name)
        to.add("edgekit_fleet_model_requests_day", model.requests, model=model.name)
        to.add("edgekit_fleet_model_errors_day", model.errors, model=model.name)
        for quantile, value_ms in (("0.5", model.p50_ms), ("0.95", model.p95_ms)):
            value_s = None if value_ms is None else value_ms / 1000
            to.add(
                "edgekit_fleet_model_latency_seconds", value_s, model=model.name, quantile=quantile
            )
    for status, count in sorted(answers.items()):
        to.add("edgekit_fleet_http_answers_total", count, status=status)
    return to.text()


def _add_ingest(to: Samples, ingest: IngestRow | None, now_s: float) -> None:
    if ingest is None:
        to.add("edgekit_fleet_ingest_up", 0)
        return
    silent_s = max(0.0, now_s - ingest.alive_s)
    is_up = ingest.status == "running" and silent_s < _INGEST_SILENT_S
    to.add("edgekit_fleet_ingest_up", int(is_up))
    to.add("edgekit_fleet_ingest_silent_seconds", silent_s)
    for what, count in sorted(ingest.counts.items()):
        if what.startswith(_REFUSED):
            reason = what.removeprefix(_REFUSED)
            to.add("edgekit_fleet_ingest_refused_total", count, reason=reason)
        else:
            to.add("edgekit_fleet_ingest_total", count, what=what)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
