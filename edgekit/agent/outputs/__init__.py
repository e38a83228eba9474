"""Outputs: where results go. One file each; the settings name the file.

A request over HTTP has its result in the response; that needs no output.

To add an output, add ``edgekit/agent/outputs/<name>.py`` with a function
``create(options) -> Output``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any, Protocol

from edgekit.wire.errors import ConfigError, did_you_mean

# Plain JSON: model, name (of the sample), time_s; prediction and latency_ms, or error and hint.
Result = dict[str, Any]


class Output(Protocol):
    """Where results go."""

    def send(self, result: Result) -> None:
        """Take one result. It never raises for what happens outside: that is counted and logged."""
        ...

    def close(self) -> None:
        """Send what is waiting, for a few seconds at most, and end."""
        ...


def output_names() -> list[str]:
    """Return the names of all outputs."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__))


def create_output(name: str, options: Mapping[str, Any]) -> Output:
    """Make an output by its name.

    Args:
        name: ``file``, ``mqtt``, ``webhook``.
        options: The output's own options.

    Raises:
        ConfigError: No such output, or its options are wrong.
    """
    known = output_names()
    if name not in known:
        close = did_you_mean(name, known)
        raise ConfigError(
            f'no output named "{name}"',
            hint=f"did you mean {close}?" if close else f"outputs: {', '.join(known)}",
        )
    module = importlib.import_module(f"{__name__}.{name}")
    made: Output = module.create(options)
    return made
