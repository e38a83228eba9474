"""Outputs: where results go. One file each; the settings name the file.

A request over HTTP has its result in the response; that needs no output.

To add an output, add ``edgekit/agent/outputs/<name>.py`` with a function
``create(options) -> Output``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from edgekit.agent.plugins import load_plugin, plugin_names

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
    return plugin_names(__name__)


def create_output(name: str, options: Mapping[str, Any]) -> Output:
    """Make an output by its name.

    Args:
        name: ``file``, ``mqtt``, ``webhook``.
        options: The output's own options.

    Raises:
        ConfigError: No such output, or its options are wrong.
    """
    made: Output = load_plugin(__name__, "output", name).create(options)
    return made
