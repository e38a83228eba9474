"""The mappings that the settings choose, put together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from edgekit import __version__
from edgekit.agent.config import Config
from edgekit.agent.mappings import Publication
from edgekit.agent.mappings.readings import Readings
from edgekit.agent.session import Address
from edgekit.agent.session import Protocol as MqttVersion
from edgekit.wire.canonical import Json
from edgekit.wire.errors import MissingToolError

log = logging.getLogger(__name__)


class Clocks(Protocol):
    """Where time comes from."""

    @property
    def unix_s(self) -> Callable[[], float]:
        """Unix time in seconds."""
        ...

    @property
    def monotonic_s(self) -> Callable[[], float]:
        """Seconds that never jump."""
        ...


class Mappings:
    """Home Assistant and Sparkplug B, as far as the settings name them.

    Args:
        config: The settings.
        address: The broker, and who the device is.
        last_class: Returns the label of a model's last answer; None where it has none.
        expected: Returns the models that the device has, whether they serve now or not.
        protocol: Returns the version of MQTT that the link speaks; None while it is down.
        clocks: Where time comes from.
    """

    def __init__(
        self,
        config: Config,
        address: Address,
        last_class: Callable[[str], str | None],
        expected: Callable[[], Collection[str]],
        protocol: Callable[[], MqttVersion | None],
        clocks: Clocks,
    ) -> None:
        self._readings = Readings(last_class)
        self._home_assistant = self._sparkplug = None
        if config.home_assistant is not None:
            from edgekit.agent.mappings.home_assistant import HomeAssistant

            self._home_assistant = HomeAssistant(
                config.home_assistant,
                (config.fleet, config.device),
                (__version__, config.target),
                self._readings,
                expected=expected,
                folder=config.state_dir,
                monotonic_s=clocks.monotonic_s,
            )
        if config.sparkplug is not None:
            from edgekit.agent.mappings.sparkplug import NodeLink

            self._sparkplug = NodeLink(
                address,
                config.sparkplug,
                self._readings,
                protocol=protocol,
                folder=config.state_dir,
                unix_s=clocks.unix_s,
                monotonic_s=clocks.monotonic_s,
            )

    def take(self, sample: Mapping[str, Json]) -> None:
        """Take a sample of telemetry in."""
        self._readings.take(sample)

    def publications(self, fresh: bool) -> list[Publication]:
        """Return what the link is to publish beside its own; see :class:`Link`."""
        return self._home_assistant.publications(fresh=fresh) if self._home_assistant else []

    def start(self) -> None:
        """Start what has a connection of its own; a package that it lacks stops nothing else."""
        try:
            if self._sparkplug is not None:
                self._sparkplug.start()
        except MissingToolError as error:
            log.error("%s; %s", error, error.hint)  # noqa: TRY400 - it says all
            self._sparkplug = None

    def stop(self) -> None:
        """Say goodbye."""
        if self._sparkplug is not None:
            self._sparkplug.stop()
