"""The fleet's settings, ``fleet.toml``: read strictly, written once with the defaults."""

from __future__ import annotations

import ipaddress
import json
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from edgekit.fleet.home import FleetHome, write_private
from edgekit.wire.errors import ConfigError, EdgekitError, TrustError
from edgekit.wire.located import Table, load_toml
from edgekit.wire.strict import Fields, parse_object
from edgekit.wire.topics import check_name

BrokerKind = Literal["auto", "mosquitto", "amqtt"]
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", re.ASCII)
_MAX_GIVEN_BYTES = 4096

# Every key with what it means; the reference is made from it.
KEYS: Mapping[str, str] = {
    "name": "the fleet's name, as it stands in topics: `fleet` by default",
    "http.host": "address of HTTP, where devices fetch bundles, `127.0.0.1` by default",
    "http.port": "port, 8600 by default",
    "http.url": "how devices reach it, where that is not `http://host:port`",
    "broker.kind": "`auto` (mosquitto where it is installed), `mosquitto` or `amqtt`",
    "broker.host": "loopback address of the broker, `127.0.0.1` by default",
    "broker.port": "its port there, 1883 by default",
    "broker.listen": "address where devices reach it over TLS; none by default: loopback alone",
    "broker.tls_port": "port there, 8883 by default",
    "broker.name": "host name or address that devices connect to; `broker.listen` by default",
    "retention.days": "days that raw telemetry is kept, 30 by default",
    "retention.gib": "GiB that raw telemetry may take, 20 by default",
    "retention.alert_days": "days that closed alerts and ended silences are kept, 400 by default",
    "retention.order_days": "days that orders that are over are kept, 400 by default",
    "retention.audit_days": "days that the audit log is kept, 400 by default",
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
    broker_listen: str = ""
    broker_tls_port: int = 8883
    broker_name: str = ""
    retention_days: float = 30.0
    retention_bytes: int = 20 << 30
    retention_alert_days: float = 400.0
    retention_order_days: float = 400.0
    retention_audit_days: float = 400.0

    @property
    def base_url(self) -> str:
        """Where devices fetch bundles, without a slash at the end."""
        if self.http_url:
            return self.http_url.rstrip("/")
        is_any = ipaddress.ip_address(self.http_host).is_unspecified
        host = self.broker_name or socket.gethostname() if is_any else self.http_host
        return f"http://{in_url(host)}:{self.http_port}"

    @property
    def local_url(self) -> str:
        """Where somebody at this machine reaches HTTP, without a slash at the end."""
        address = ipaddress.ip_address(self.http_host)
        any_of = {4: "127.0.0.1", 6: "::1"}
        host = any_of[address.version] if address.is_unspecified else self.http_host
        return f"http://{in_url(host)}:{self.http_port}"


def load_settings(home: FleetHome) -> Settings:
    """Read the settings.

    Raises:
        ConfigError: The file is malformed, or names an unknown key.
    """
    return replace(read_settings(load_toml(home.settings_file)), **_given(home))


def keep_given(home: FleetHome, given: Mapping[str, str | int]) -> None:
    """Keep what the command line of a fleet that runs says in place of its file.

    Args:
        home: The fleet.
        given: Attributes of :class:`Settings`; empty when it stops.

    Raises:
        ConfigError: The file cannot be written.
    """
    path = home.run / "given.json"
    if given:
        write_private(path, json.dumps(dict(given)).encode())
    else:
        path.unlink(missing_ok=True)


def _given(home: FleetHome) -> dict[str, Any]:
    path = home.run / "given.json"
    if not path.exists():
        return {}
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_GIVEN_BYTES + 1)
        document = parse_object(data, str(path), most_bytes=_MAX_GIVEN_BYTES)
        fields = Fields(document, str(path))
        found: dict[str, Any] = {
            key: fields.integer(key, 1, 65535)
            for key in ("http_port", "broker_port")
            if fields.has(key)
        }
        for key in ("http_host", "broker_listen"):
            if fields.has(key):
                found[key] = fields.text(key)
                if not is_address(found[key]):
                    raise ConfigError(f"{key} is no IP address")
        fields.close()
    except (OSError, EdgekitError) as error:
        raise ConfigError(
            f"what `edgekit fleet up` was given cannot be read: {error}",
            hint=f"stop it and delete {path}",
        ) from error
    return found


def read_settings(table: Table) -> Settings:
    """Read the settings from a parsed file.

    Raises:
        ConfigError: As of :func:`load_settings`.
    """
    http, broker, retention = (table.table(name) for name in ("http", "broker", "retention"))
    plain = Settings()
    settings = Settings(
        name=_name(table),
        http_host=_address(http, "host") or plain.http_host,
        http_port=_port(http, plain.http_port),
        http_url=_url(http),
        broker_kind=_kind(broker),
        broker_host=_loopback(broker),
        broker_port=_port(broker, plain.broker_port),
        broker_listen=_address(broker, "listen"),
        broker_tls_port=_port(broker, plain.broker_tls_port, "tls_port"),
        broker_name=_host(broker, "name"),
        retention_days=_positive(retention, "days", plain.retention_days),
        retention_bytes=int(_positive(retention, "gib", plain.retention_bytes / 2**30) * 2**30),
        retention_alert_days=_positive(retention, "alert_days", plain.retention_alert_days),
        retention_order_days=_positive(retention, "order_days", plain.retention_order_days),
        retention_audit_days=_positive(retention, "audit_days", plain.retention_audit_days),
    )
    for own in (http, broker, retention, table):
        own.close()
    return settings


def write_settings(home: FleetHome, settings: Settings) -> None:
    """Write the settings of a new fleet.

    Raises:
        ConfigError: The file cannot be written.
    """
    tls_port = settings.broker_tls_port
    lines = [
        f'name = "{settings.name}"',
        "",
        "[http]",
        f'host = "{settings.http_host}"',
        f"port = {settings.http_port}",
        *([f"url = {json.dumps(settings.http_url)}"] if settings.http_url else []),
        "",
        "[broker]",
        f'host = "{settings.broker_host}"',
        f"port = {settings.broker_port}",
        *([f'kind = "{settings.broker_kind}"'] if settings.broker_kind != "auto" else []),
        *([f'listen = "{settings.broker_listen}"'] if settings.broker_listen else []),
        *([f"tls_port = {tls_port}"] if tls_port != Settings.broker_tls_port else []),
        *([f'name = "{settings.broker_name}"'] if settings.broker_name else []),
        "",
        "[retention]",
        f"days = {settings.retention_days:g}",
        f"gib = {settings.retention_bytes / 2**30:g}",
        f"alert_days = {settings.retention_alert_days:g}",
        f"order_days = {settings.retention_order_days:g}",
        f"audit_days = {settings.retention_audit_days:g}",
    ]
    write_private(home.settings_file, ("\n".join(lines) + "\n").encode())


def _name(table: Table) -> str:
    name = table.get("name", str, Settings.name)
    try:
        return check_name(name, "fleet")
    except TrustError as error:
        raise ConfigError(error.message, hint=error.hint, where=table.where("name")) from error


def _port(table: Table, default: int, key: str = "port") -> int:
    port = table.get(key, int, default)
    if not 1 <= port <= 65535:  # noqa: PLR2004 - TCP's
        raise ConfigError(f"{port} is no port", hint="1 to 65535", where=table.where(key))
    return port


def _address(table: Table, key: str) -> str:
    """Read an IP address to listen on; it goes into the broker's settings, so nothing else may."""
    text = table.get(key, str, "")
    if text and not is_address(text):
        raise ConfigError(
            f"{text[:80]!r} is no IP address", hint="127.0.0.1", where=table.where(key)
        )
    return text


def _loopback(table: Table) -> str:
    text = _address(table, "host") or Settings.broker_host
    if not ipaddress.ip_address(text).is_loopback:
        raise ConfigError(
            "the broker's plain port stays on loopback",
            hint=f'listen = "{text}" lets devices in over TLS',
            where=table.where("host"),
        )
    return text


def _host(table: Table, key: str) -> str:
    text = table.get(key, str, "")
    if text and not (_HOST.fullmatch(text) or is_address(text)):
        raise ConfigError(f"{text[:80]!r} is no host name", where=table.where(key))
    return text


def is_address(text: str) -> bool:
    """Tell whether this is an IP address."""
    try:
        return "%" not in str(ipaddress.ip_address(text))
    except ValueError:
        return False


def in_url(host: str) -> str:
    """Return a host as it stands in front of a port: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


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
