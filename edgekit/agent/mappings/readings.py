"""Readings: the last samples of telemetry as plain values, with totals that only grow.

A sample counts within its period alone; other systems ask for totals and for the value now.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from edgekit.runtime.sketches import LatencyHistogram
from edgekit.wire.canonical import Json

Scalar = float | int | bool | str

# Of the vitals, those that somebody may want on a dashboard.
VITALS = (
    "cpu_share",
    "temp_c",
    "clock_mhz",
    "memory_available_bytes",
    "disk_free_bytes",
    "rss_bytes",
    "uptime_s",
    "under_voltage",
    "throttled",
)
MODEL_VALUES = ("requests", "errors", "p95_ms", "last_class")
MAX_MODELS = 64
MAX_CLASS = 200
# A percentile of fewer periods jumps, one of more is old.
_KEPT_PERIODS = 60


@dataclass
class _Model:
    requests: int = 0
    errors: int = 0
    recent: list[LatencyHistogram] = field(default_factory=list)


class Readings:
    """Takes samples in, gives values out; from any thread.

    Args:
        last_class: Returns the label of a model's last answer; None where it has none.
    """

    def __init__(self, last_class: Callable[[str], str | None]) -> None:
        self._last_class = last_class
        self._lock = threading.Lock()
        self._vitals: dict[str, Scalar] = {}
        self._models: dict[str, _Model] = {}

    def take(self, sample: Mapping[str, Json]) -> None:
        """Take a sample in.

        Args:
            sample: As :meth:`edgekit.agent.telemetry.Collector.sample` returns it.
        """
        vitals, models = sample.get("vitals"), sample.get("models", {})
        with self._lock:
            if isinstance(vitals, dict):
                self._vitals = {
                    name: value if isinstance(value, bool) else float(value)
                    for name in VITALS
                    if isinstance(value := vitals.get(name), int | float)
                }
            if isinstance(models, dict):
                for name in [name for name in self._models if name not in models]:
                    del self._models[name]
                for name in sorted(models)[:MAX_MODELS]:
                    _add(self._models.setdefault(name, _Model()), models[name])

    @property
    def models(self) -> frozenset[str]:
        """The models of the last sample."""
        with self._lock:
            return frozenset(self._models)

    def values(self) -> dict[str, dict[str, Scalar]]:
        """Return what is known now: ``{"": vitals, MODEL: values of the model, …}``.

        What is not known is absent.
        """
        with self._lock:
            found: dict[str, dict[str, Scalar]] = {"": dict(self._vitals)}
            for name, model in self._models.items():
                found[name] = {"requests": model.requests, "errors": model.errors}
                merged = LatencyHistogram()
                for part in model.recent:
                    merged = merged.merged(part)
                p95_ms = merged.percentile_ms(0.95)
                if p95_ms is not None:
                    found[name]["p95_ms"] = round(p95_ms, 3)
        for name, values in found.items():
            label = self._last_class(name) if name else None
            if label is not None:
                values["last_class"] = label[:MAX_CLASS]
        return found


def _add(model: _Model, said: Json) -> None:
    if not isinstance(said, dict):
        return
    requests, errors, latency = said.get("requests"), said.get("errors"), said.get("latency_ms")
    model.requests += requests if isinstance(requests, int) else 0
    model.errors += errors if isinstance(errors, int) else 0
    if isinstance(latency, dict):
        model.recent.append(LatencyHistogram.from_json(latency))
        del model.recent[:-_KEPT_PERIODS]
