"""The fleet's settings, ``fleet.toml``: read strictly, written once with the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from edgekit.fleet.home import FleetHome, write_private
from edgekit.wire.errors import ConfigError, TrustError
from edgekit.wire.located import Table, load_toml
from edgekit.wire.topics import check_name

BrokerKind = Literal["auto", "mosquitto", "amqtt"]

# Every key with what it means; the reference is made from it.
KEYS: Mapping[str, str] = {
    "name": "the fleet's name, as it stands in topics: `fleet` by default",
    "http.host": "address of the dashboard and of bundles, `127.0.0.1` by default",
    "http.port": "port, 8600 by default",
    "http.url": "how devices reach it, where that is not `http://host:port`",
    "broker.kind": "`auto` (mosquitto where it is installed), `mosquitto` or `amqtt`",
    "broker.host": "address of the broker, `127.0.0.1` by default",
    "broker.port": "port, 1883 by default",
    "retention.days": "days that raw telemetry is kept, 30 by default",
    "retention.gib": "GiB that raw telemetry may take, 20 by default",
}


@dataclass(frozen=True)
class Settings:
    """All settings of a fleet; see :data:`KEYS`."""

    name: str = "fleet"
    http_host: str = "127.0.0.1"
    http_port: int = 8600
    http_url: str = ""
    broker_kind: BrokerKind = "auto"
    broker_host: str = "127.0.0.1"
    broker_port: int = 1883
    retention_days: float = 30.0
    retention_bytes: int = 20 << 30

    @property
    def base_url(self) -> str:
        """Where devices fetch bundles, without a slash at the end."""
        return self.http_url.rstrip("/") or f"http://{self.http_host}:{self.http_port}"


def load_settings(home: FleetHome) -> Settings:
    """Read the settings.

    Raises:
        ConfigError: The file is malformed, or names an unknown key.
    """
    return read_settings(load_toml(home.settings_file))


def read_settings(table: Table) -> Settings:
    """Read the settings from a parsed file.

    Raises:
        ConfigError: As of :func:`load_settings`.
    """
    http, broker, retention = (table.table(name) for name in ("http", "broker", "retention"))
    plain = Settings()
    settings = Settings(
        name=_name(table),
        http_host=http.get("host", str, plain.http_host),
        http_port=_port(http, plain.http_port),
        http_url=_url(http),
        broker_kind=_kind(broker),
        broker_host=broker.get("host", str, plain.broker_host),
        broker_port=_port(broker, plain.broker_port),
        retention_days=_positive(retention, "days", plain.retention_days),
        retention_bytes=int(_positive(retention, "gib", plain.retention_bytes / 2**30) * 2**30),
    )
    for own in (http, broker, retention, table):
        own.close()
    return settings


def write_settings(home: FleetHome, settings: Settings) -> None:
    """Write the settings of a new fleet.

    Raises:
        ConfigError: The file cannot be written.
    """
    lines = [
        f'name = "{settings.name}"',
        "",
        "[http]",
        f'host = "{settings.http_host}"',
        f"port = {settings.http_port}",
        "",
        "[broker]",
        f'host = "{settings.broker_host}"',
        f"port = {settings.broker_port}",
        "",
        "[retention]",
        f"days = {settings.retention_days:g}",
        f"gib = {settings.retention_bytes / 2**30:g}",
    ]
    write_private(home.settings_file, ("\n".join(lines) + "\n").encode())


def _name(table: Table) -> str:
    name = table.get("name", str, Settings.name)
    try:
        return check_name(name, "fleet")
    except TrustError as error:
        raise ConfigError(error.message, hint=error.hint, where=table.where("name")) from error


def _port(table: Table, default: int) -> int:
    port = table.get("port", int, default)
    if not 1 <= port <= 65535:  # noqa: PLR2004 - TCP's
        raise ConfigError(f"{port} is no port", hint="1 to 65535", where=table.where("port"))
    return port


def _url(table: Table) -> str:
    url = table.get("url", str, "")
    if url and not url.startswith(("http://", "https://")):
        raise ConfigError(
            "the URL is neither http:// nor https://",
            hint='url = "https://fleet.example:8443"',
            where=table.where("url"),
        )
    return url


def _kind(table: Table) -> BrokerKind:
    found = table.get("kind", str, "auto")
    for kind in get_args(BrokerKind):
        if found == kind:
            return kind  # type: ignore[no-any-return]
    raise ConfigError(
        f'no broker is named "{found[:40]}"',
        hint=f"one of {', '.join(get_args(BrokerKind))}",
        where=table.where("kind"),
    )


def _positive(table: Table, key: str, default: float) -> float:
    value = table.get(key, float, default)
    if not 0 < value < float("inf"):
        raise ConfigError(f"{key} must be above 0", where=table.where(key))
    return value
