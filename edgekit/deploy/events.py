"""What the steps talk to: a board that answers requests, and somebody who is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


class Board(Protocol):
    """Who carries requests to a board: :class:`edgekit.deploy.ssh.Ssh`."""

    as_root: bool

    def call(
        self,
        request: Mapping[str, Any],
        *,
        payload: Iterable[bytes] = ...,
        on_event: Callable[[Mapping[str, Any]], None] = ...,
    ) -> dict[str, Any]:
        """Send one request and wait for what comes of it."""
        ...


@dataclass(frozen=True)
class StepEvent:
    """What a step does.

    Attributes:
        step: Its name.
        outcome: ``running``, ``again``, ``done``, ``unchanged`` or ``would``.
        detail: For people.
        seconds: How long it took, at its end.
        done: Bytes, where they are counted.
        total: Of that many.
    """

    step: str
    outcome: str
    detail: str = ""
    seconds: float | None = None
    done: int = 0
    total: int = 0
