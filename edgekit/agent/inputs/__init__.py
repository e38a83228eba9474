"""Inputs: where samples come from. One file each; the settings name the file.

To add an input, add ``edgekit/agent/inputs/<name>.py`` with a function
``create(options, clock) -> Input``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from edgekit.agent.plugins import load_plugin, plugin_names

MAX_SAMPLE_BYTES = 64 << 20
_HELPERS = frozenset({"child", "latest", "live", "mjpeg"})


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
    return plugin_names(__name__, _HELPERS)


def create_input(name: str, options: Mapping[str, Any], clock: Callable[[], float]) -> Input:
    """Make an input by its name.

    Args:
        name: ``folder``, ``camera``, …
        options: The input's own options.
        clock: Seconds that only grow.

    Raises:
        ConfigError: No such input, or its options are wrong.
    """
    made: Input = load_plugin(__name__, "input", name, _HELPERS).create(options, clock)
    return made
