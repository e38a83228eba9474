"""Inputs: where samples come from. One file each; the settings name the file.

To add an input, add ``edgekit/agent/inputs/<name>.py`` with a function
``create(options, clock) -> Input``.
"""

from __future__ import annotations

import importlib
import pkgutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from edgekit.wire.errors import ConfigError, did_you_mean

MAX_SAMPLE_BYTES = 64 << 20
_HELPERS = frozenset({"child", "latest", "mjpeg"})


def _ignore(_ok: bool) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True)
class Sample:
    """One sample on its way to a model.

    Attributes:
        data: What the model's task takes: a picture file, a WAV file, a text.
        name: Where it is from, for results and logs.
        done: Told once whether it was answered.
    """

    data: bytes
    name: str
    done: Callable[[bool], None] = _ignore


class Input(Protocol):
    """Where samples come from."""

    def samples(self, stop: threading.Event) -> Iterator[Sample]:
        """Yield samples as they come, until ``stop`` is set or there are no more."""
        ...


def input_names() -> list[str]:
    """Return the names of all inputs."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _HELPERS)


def create_input(name: str, options: Mapping[str, Any], clock: Callable[[], float]) -> Input:
    """Make an input by its name.

    Args:
        name: ``folder``, ``camera``, …
        options: The input's own options.
        clock: Seconds that only grow.

    Raises:
        ConfigError: No such input, or its options are wrong.
    """
    known = input_names()
    if name not in known:
        close = did_you_mean(name, known)
        raise ConfigError(
            f'no input named "{name}"',
            hint=f"did you mean {close}?" if close else f"inputs: {', '.join(known)}",
        )
    module = importlib.import_module(f"{__name__}.{name}")
    made: Input = module.create(options, clock)
    return made
