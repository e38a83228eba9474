"""Puts simulated devices together."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Mapping, Sequence

from edgekit.sim.device import Plan, SimDevice
from edgekit.sim.faults import Fault, assign

_BOOT_BYTES = 8


def make_devices(
    names: Sequence[str],
    plan: Plan,
    faults: Mapping[Fault, float],
    seed: int,
    boot_id: Callable[[str], str] | None = None,
) -> list[SimDevice]:
    """Make devices; all but their boot ids follows from the seed.

    Args:
        names: Of the devices.
        plan: What they have in common.
        faults: Fault to the share of devices that have it.
        seed: Of all randomness.
        boot_id: Makes a device's; random by default, so that a fleet never takes the messages of
            one run for those of another.
    """
    generator = random.Random(seed)  # noqa: S311 - a simulation
    given = assign(len(names), faults, generator)
    return [
        SimDevice(
            name,
            plan,
            wrong,
            random.Random(f"{seed}/{name}"),  # noqa: S311
            boot_id(name) if boot_id else secrets.token_hex(_BOOT_BYTES),
        )
        for name, wrong in zip(names, given, strict=True)
    ]
