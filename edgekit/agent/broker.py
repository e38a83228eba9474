"""The connection of MQTT inputs and outputs: options, and a client that connects by itself.

Options of both:
    host, port: Of the broker; port 1883, or 8883 with TLS.
    topic: An input may use wildcards.
    qos: 0 or 1 (default).
    username, password_file: Where the broker asks for them.
    ca_file: Switches TLS on: the certificate that the broker's is signed with.
    client_id: Default: one that the broker makes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.runtime.options import Options
from edgekit.wire.errors import ConfigError, MissingToolError

if TYPE_CHECKING:
    from paho.mqtt.client import Client

MAX_TOPIC = 1000
_KEEPALIVE_S = 60
# The rest of a packet: a topic of up to 64 KiB, and what is a little too large and only counted.
_ROOM_BYTES = 128 << 10


@dataclass(frozen=True)
class BrokerOptions:
    """Where and as whom; see the module's text."""

    host: str
    port: int
    topic: str
    qos: int
    username: str | None
    password: str | None
    ca_file: str | None
    client_id: str


def read_broker(opts: Options, *, wildcards: bool) -> BrokerOptions:
    """Read the options of a broker.

    Args:
        opts: The caller reads what else there is, and closes them.
        wildcards: The topic may be a filter.

    Raises:
        ConfigError: An option is wrong, or the file with the password cannot be read.
    """
    topic = opts.get("topic", str)
    if not 0 < len(topic) <= MAX_TOPIC or not topic.isprintable():
        raise ConfigError(f'{opts.owner}: "topic" is no topic')
    if not wildcards and ("+" in topic or "#" in topic):
        raise ConfigError(f'{opts.owner}: "topic" must not have wildcards')
    ca_file = opts.get("ca_file", str, "") or None
    return BrokerOptions(
        host=opts.get("host", str, "localhost"),
        port=int(opts.within("port", 1, 65535, 8883 if ca_file else 1883)),
        topic=topic,
        qos=int(opts.within("qos", 0, 1, 1)),
        username=opts.get("username", str, "") or None,
        password=_password(opts),
        ca_file=ca_file,
        client_id=opts.get("client_id", str, ""),
    )


def make_client(options: BrokerOptions, *, waiting: int = 0, max_bytes: int = 0) -> Client:
    """Return a client that is not yet connected; it reconnects after 1 s, up to a minute.

    Args:
        options: Where and as whom.
        waiting: Most messages that wait while the broker is away; 0 sets no limit.
        max_bytes: Of a payload that comes; a much larger one ends the connection.

    Raises:
        MissingToolError: paho-mqtt is not installed.
        ConfigError: The certificate cannot be read.
    """
    try:
        from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

        from edgekit.agent.session import BoundedClient
    except ImportError as error:
        raise MissingToolError("MQTT needs paho-mqtt", hint="pip install paho-mqtt") from error
    # 3.1.1 is what every broker speaks; nothing here needs more.
    client = BoundedClient(
        CallbackAPIVersion.VERSION2,
        client_id=options.client_id,
        protocol=MQTTProtocolVersion.MQTTv311,
    )
    client.most_bytes = max_bytes + _ROOM_BYTES
    if options.username is not None:
        client.username_pw_set(options.username, options.password)
    if options.ca_file is not None:
        try:
            client.tls_set(ca_certs=options.ca_file)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"the certificate cannot be read: {error}", where=options.ca_file
            ) from error
    client.max_queued_messages_set(waiting)
    client.reconnect_delay_set(1, 60)
    client.connect_async(options.host, options.port, keepalive=_KEEPALIVE_S)
    return client


def _password(opts: Options) -> str | None:
    name = opts.get("password_file", str, "")
    if not name:
        return None
    try:
        return Path(name).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigError("the password cannot be read", where=name) from error
