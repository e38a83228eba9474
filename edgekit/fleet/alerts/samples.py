"""From a device's last sample to what alerts look at: pure, and nothing in it is believed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from edgekit.fleet.alerts.readings import DeviceFacts, ModelFacts, Window

# A sample that is older tells nothing of now.
FRESH_S = 180.0
_THROTTLED = ("throttled", "frequency_capped", "under_voltage", "soft_temp_limit")

Windows = Mapping[str, Mapping[float, Window]]


def with_sample(
    device: DeviceFacts,
    sample: Mapping[str, Any],
    age_s: float,
    windows: Windows,
    limit_ms: Callable[[str], float | None],
) -> DeviceFacts:
    """Add to a device what its last sample and its last minutes say.

    Args:
        device: What is known of it otherwise.
        sample: The values of its last sample; empty where there is none.
        age_s: Seconds since the server got it.
        windows: By model, what it did over the last minutes.
        limit_ms: Returns the contract's p95 limit of a bundle by the first digits of its digest.
    """
    models = _mapping(sample.get("models"))
    fresh = age_s <= FRESH_S
    found: dict[str, ModelFacts] = {}
    for name in sorted({*models, *windows}):
        values = _mapping(models.get(name))
        bundle = values.get("bundle")
        found[name] = ModelFacts(
            windows=windows.get(name, {}),
            limit_ms=limit_ms(bundle) if isinstance(bundle, str) else None,
            psi=psi_of(_mapping(values.get("drift"))) if fresh else None,
        )
    if not fresh:
        return replace(device, models=found)
    vitals = _mapping(sample.get("vitals"))
    flags = [vitals[name] for name in _THROTTLED if isinstance(vitals.get(name), bool)]
    return replace(
        device,
        temp_c=_number(vitals.get("temp_c")),
        throttled=any(flags) if flags else None,
        models=found,
    )


def psi_of(drift: Mapping[str, Any]) -> float | None:
    """Return the largest index that chance does not explain; 0 where it explains all.

    Args:
        drift: By value (``output.classes``): ``psi`` and ``level``, as a sample has them.
    """
    found: list[float] = []
    for judged in drift.values():
        psi = _number(_mapping(judged).get("psi"))
        if psi is not None:
            found.append(psi if _mapping(judged).get("level") in {"some", "much"} else 0.0)
    return max(found, default=None)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
