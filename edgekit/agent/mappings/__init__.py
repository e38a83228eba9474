"""Mappings: the device's telemetry in words that other systems know. None is on by itself.

A mapping that the settings do not name is not imported. Each shows what :class:`Readings` has last
heard; none takes anything from the outbox, so what the fleet stores is the same with and without.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Publication:
    """Something to publish.

    Attributes:
        topic: Where.
        payload: What.
        qos: Quality of service.
        retain: Whether the broker keeps it.
    """

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
