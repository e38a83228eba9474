"""Five-minute sums of what samples say: integers and maxima, so that merging is exact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import orjson

from edgekit.runtime.sketches import MAX_BUCKETS, RELATIVE_ERROR
from edgekit.wire.strict import MAX_INTEGER

WINDOW_S = 300
MAX_MODELS = 64  # of one sample; a stranger could name thousands
VITALS = (
    "temp_c", "cpu_share", "rss_bytes", "process_cpu_share", "memory_available_bytes",
    "disk_free_bytes", "cooling_share",
)  # fmt: skip
_PAIR = 2
# SQLite holds 64 bits; sums of a fleet stay far below.
_MOST = 2**62

Key = tuple[int, str, str]


@dataclass
class Sums:
    """Sums of one window, device and model.

    Attributes:
        samples: How many samples say something of it.
        requests: Answered or failed.
        errors: Failed.
        rejected: Turned away.
        sum_us: Of the latencies.
        buckets: Bucket to count; see :class:`edgekit.runtime.sketches.LatencyHistogram`.
        vitals: Name to count, sum and largest value.
    """

    samples: int = 0
    requests: int = 0
    errors: int = 0
    rejected: int = 0
    sum_us: int = 0
    buckets: dict[int, int] = field(default_factory=dict)
    vitals: dict[str, list[float]] = field(default_factory=dict)

    def add_model(self, said: Mapping[str, Any]) -> None:
        """Add what a sample says of a model; what is no count is left out."""
        self.samples += 1
        self.requests += _count(said.get("requests"))
        self.errors += _count(said.get("errors"))
        self.rejected += _count(said.get("rejected"))
        latency = said.get("latency_ms")
        if type(latency) is dict and latency.get("error") == RELATIVE_ERROR:
            pairs = latency.get("buckets")
            if type(pairs) is list and _are_buckets(pairs):
                self.sum_us = min(self.sum_us + _count(latency.get("sum_us")), _MOST)
                for bucket, count in pairs:
                    self.buckets[bucket] = self.buckets.get(bucket, 0) + count

    def add_vitals(self, said: Mapping[str, Any]) -> None:
        """Add what a sample says of the board."""
        self.samples += 1
        for name in VITALS:
            value = said.get(name)
            if type(value) is float or type(value) is int:
                # Whole numbers of a few thousand samples would outgrow 64 bits.
                real = float(value)
                held = self.vitals.get(name)
                if held is None:
                    self.vitals[name] = [1, real, real]
                else:
                    held[0] += 1
                    held[1] += real
                    held[2] = max(held[2], real)

    def latency_text(self) -> str:
        """Return the histogram as it is stored."""
        return orjson.dumps([self.buckets, self.sum_us], option=orjson.OPT_NON_STR_KEYS).decode()

    def vitals_text(self) -> str:
        """Return the vitals as they are stored."""
        return orjson.dumps(self.vitals).decode()

    def copy(self) -> Sums:
        """Return other sums of the same values."""
        vitals = {name: list(held) for name, held in self.vitals.items()}
        return Sums(
            self.samples,
            self.requests,
            self.errors,
            self.rejected,
            self.sum_us,
            dict(self.buckets),
            vitals,
        )


def read_sums(
    samples: int, requests: int, errors: int, rejected: int, latency: str, vitals: str
) -> Sums:
    """Read sums as they are stored."""
    buckets, sum_us = orjson.loads(latency)
    counts = {int(bucket): count for bucket, count in buckets.items()}
    return Sums(samples, requests, errors, rejected, sum_us, counts, orjson.loads(vitals))


def models_of(values: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the models that a sample tells of."""
    models = values.get("models")
    if type(models) is not dict:
        return []
    return [
        (name, said)
        for name, said in islice(models.items(), MAX_MODELS)
        if name and type(said) is dict
    ]


def vitals_of(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a sample tells of the board."""
    vitals = values.get("vitals")
    return vitals if type(vitals) is dict else {}


def number(value: object) -> float | None:
    """Return a number, or None where a stranger wrote something else."""
    return value if type(value) is float or type(value) is int else None


def _count(value: object) -> int:
    return value if type(value) is int and 0 <= value <= MAX_INTEGER >> 20 else 0


def _are_buckets(pairs: list[Any]) -> bool:
    if len(pairs) > MAX_BUCKETS:
        return False
    for pair in pairs:
        if type(pair) is not list or len(pair) != _PAIR:
            return False
        bucket, count = pair
        if type(bucket) is not int or type(count) is not int:
            return False
        if not 0 <= bucket < MAX_BUCKETS or not 0 <= count <= MAX_INTEGER >> 20:
            return False
    return True
