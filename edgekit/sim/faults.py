"""The faults that simulated devices can have, and who gets which."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from enum import StrEnum

from edgekit.wire.errors import UsageError, did_you_mean


class Fault(StrEnum):
    """One thing that is wrong with a device."""

    OFFLINE = "offline"
    SLOW = "slow"
    HOT = "hot"
    BAD_MODEL = "bad-model"
    CLOCK_SKEW = "clock-skew"
    FLOOD = "flood"
    DUPLICATE = "duplicate"
    REORDER = "reorder"
    MALFORMED = "malformed"


# Every fault with what it does; the reference is made from it.
FAULTS: Mapping[Fault, str] = {
    Fault.OFFLINE: "loses its connection for 10 minutes after every 2; keeps what it measures",
    Fault.SLOW: "answers in four times the time, fetches bundles at a quarter of the speed",
    Fault.HOT: "25 °C hotter and throttled; not fit for a self-test every other minute",
    Fault.BAD_MODEL: "a quarter of its requests fail, its classes drift; new bundles fail, too",
    Fault.CLOCK_SKEW: "its clock is wrong by up to a month, either way",
    Fault.FLOOD: "sends twenty times as many samples",
    Fault.DUPLICATE: "sends every batch twice",
    Fault.REORDER: "sends every other batch after the one that follows it",
    Fault.MALFORMED: "sends, beside its batches, what is none",
}


def parse_fault(text: str) -> tuple[Fault, float]:
    """Read ``NAME=SHARE``.

    Args:
        text: ``hot=0.05``: 5 % of the devices are hot.

    Raises:
        UsageError: No fault has the name, or the share is not within 0..1.
    """
    name, equals, share = text.partition("=")
    names = [fault.value for fault in Fault]
    if name not in names:
        raise UsageError(
            f"no fault is named {name[:40]!r}",
            hint=f"did you mean {near}?"
            if (near := did_you_mean(name, names))
            else f"one of {', '.join(names)}",
        )
    try:
        number = float(share) if equals else math.nan
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise UsageError(f"{text[:60]!r} is no share of 0..1", hint=f"--fault {name}=0.05")
    return Fault(name), number


def assign(
    devices: int, shares: Mapping[Fault, float], generator: random.Random
) -> list[frozenset[Fault]]:
    """Give each fault to its share of the devices, rounded, at least one where it is above 0.

    Args:
        devices: How many there are.
        shares: Fault to share, 0..1.
        generator: Decides which devices.
    """
    given: list[set[Fault]] = [set() for _ in range(devices)]
    for fault in sorted(shares):
        share = shares[fault]
        count = min(devices, max(1, round(share * devices))) if share else 0
        for index in generator.sample(range(devices), count):
            given[index].add(fault)
    return [frozenset(faults) for faults in given]
