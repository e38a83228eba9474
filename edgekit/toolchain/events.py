"""What long work says of itself. Library code never prints: the CLI draws these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """One step of progress.

    Attributes:
        subject: The model, or the file being fetched.
        stage: ``fetch``, ``export``, ``calibrate``, …
        done: Units done; equal to ``total`` when the stage has ended.
        total: Units in all, or None where that is not known.
        unit: ``bytes``, ``images``, ``candidates``.
        detail: For people, when the stage has ended: ``94 → 61 nodes``.
        seconds: Wall time of the ended stage.
        cached: True where the stage was taken from the cache.
    """

    subject: str
    stage: str
    done: int = 0
    total: int | None = None
    unit: str = ""
    detail: str = ""
    seconds: float | None = None
    cached: bool = False


OnEvent = Callable[[Event], None]


def ignore(_event: Event) -> None:
    """Listen to nothing."""
