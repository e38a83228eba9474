"""Where alerts go: a webhook, e-mail, MQTT, or ntfy-style HTTP. Settings here, the sending below.

A secret stands in a file of its own, never in ``alerts.toml`` and never in a message or a log: a
webhook's URL may be one, so there is ``url_file``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import urlsplit

from edgekit.wire.errors import ConfigError, did_you_mean
from edgekit.wire.located import Table

ChannelKind = Literal["webhook", "ntfy", "smtp", "mqtt"]
CHANNEL_KINDS: tuple[ChannelKind, ...] = get_args(ChannelKind)
MAX_SECRET_BYTES = 4096
OWN_TOPICS = "edgekit-alerts/"
_PORTS = {"smtp": 587, "mqtt": 1883}

CHANNEL_KEYS: Mapping[str, str] = {
    "kind": "`webhook`, `ntfy`, `smtp` or `mqtt`",
    "url": "for `webhook` and `ntfy`: where the alert is sent with POST; `https`, or `http`",
    "url_file": "file with the URL, where that is a secret itself",
    "token_file": "for `webhook` and `ntfy`: file with a token, sent as `Authorization: Bearer`",
    "host": "for `smtp` and `mqtt`: the server; for `mqtt` the fleet's own broker by default",
    "port": "its port; 587 for `smtp`, 1883 for `mqtt` (8883 with `tls`)",
    "tls": "for `smtp`: `starttls` (the default), `implicit` or `none`; for `mqtt`: `implicit` or"
    " `none` (the default)",
    "username": "for `smtp` and `mqtt`",
    "password_file": "file with the password",
    "from": "for `smtp`: the sender's address",
    "to": "for `smtp`: list of addresses",
    "topic": "for `mqtt`: where alerts are published, `edgekit-alerts/<fleet>` by default",
}
_OF_KIND: Mapping[str, tuple[str, ...]] = {
    "webhook": ("url", "url_file", "token_file"),
    "ntfy": ("url", "url_file", "token_file"),
    "smtp": ("host", "port", "tls", "username", "password_file", "from", "to"),
    "mqtt": ("host", "port", "tls", "username", "password_file", "topic"),
}


@dataclass(frozen=True)
class Channel:
    """One way to tell people; see :data:`CHANNEL_KEYS`.

    Attributes:
        name: As rules name it.
        kind: How it works.
        url: Of ``webhook`` and ``ntfy``.
        host: Of ``smtp`` and ``mqtt``; empty means the fleet's own broker.
        port: Of the host.
        tls: ``starttls``, ``implicit`` or ``none``.
        username: At the host; None for nobody.
        secret: Token or password; None without.
        sender: Of e-mails.
        to: Of e-mails.
        topic: Of MQTT; empty means the fleet's own.
    """

    name: str
    kind: ChannelKind
    url: str = field(default="", repr=False)
    host: str = ""
    port: int = 0
    tls: str = "none"
    username: str | None = None
    secret: str | None = field(default=None, repr=False)
    sender: str = ""
    to: tuple[str, ...] = ()
    topic: str = ""

    @property
    def where(self) -> str:
        """The place, without what may be secret of it."""
        return urlsplit(self.url).hostname or "?" if self.url else self.host or "the fleet's broker"


def read_channel(name: str, own: Table, folder: Path) -> Channel:
    """Read one channel's table.

    Args:
        name: Of the channel.
        own: Its table.
        folder: Where relative paths start.

    Raises:
        ConfigError: A key is unknown or missing, or a file cannot be read.
    """
    kind = _kind(own)
    for key in own.names():
        if key in CHANNEL_KEYS and key != "kind" and key not in _OF_KIND[kind]:
            raise ConfigError(f'"{key}" is no key of {kind}', where=own.where(key))
    if kind in {"webhook", "ntfy"}:
        channel = Channel(
            name, kind, url=_url(own, folder), secret=_file(own, "token_file", folder)
        )
    else:
        channel = _at_a_host(name, kind, own, folder)
    for key in CHANNEL_KEYS:
        own.optional(key, object)
    own.close()
    return channel


def _kind(own: Table) -> ChannelKind:
    wanted = own.get("kind", str)
    for kind in CHANNEL_KINDS:
        if kind == wanted:
            return kind
    close = did_you_mean(wanted, CHANNEL_KINDS)
    raise ConfigError(
        f"no kind of channel is named {wanted[:80]!r}",
        hint=f"did you mean {close}?" if close else f"kinds: {', '.join(CHANNEL_KINDS)}",
        where=own.where("kind"),
    )


def _at_a_host(name: str, kind: ChannelKind, own: Table, folder: Path) -> Channel:
    is_mail = kind == "smtp"
    tls = own.get("tls", str, "starttls" if is_mail else "none")
    if tls not in {"implicit", "none"} | ({"starttls"} if is_mail else set()):
        raise ConfigError(f"no tls {tls[:40]!r} for {kind}", where=own.where("tls"))
    port = own.get("port", int, 8883 if (kind, tls) == ("mqtt", "implicit") else _PORTS[kind])
    if not 1 <= port <= 65535:  # noqa: PLR2004 - TCP's
        raise ConfigError('"port" must be within 1 and 65535', where=own.where("port"))
    password = _file(own, "password_file", folder)
    if password and is_mail and tls == "none" and own.get("host", str) not in _LOOPBACK:
        raise ConfigError(
            "the password would travel unencrypted", hint='tls = "starttls"', where=own.where("tls")
        )
    return Channel(
        name,
        kind,
        host=own.get("host", str, None if is_mail else ""),
        port=port,
        tls=tls,
        username=own.optional("username", str),
        secret=password,
        sender=_address(own, "from", own.get("from", str)) if is_mail else "",
        to=tuple(_address(own, "to", to) for to in own.strings("to")) if is_mail else (),
        topic=_topic(own),
    )


_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


def _topic(own: Table) -> str:
    topic = own.get("topic", str, "")
    if any(sign in topic for sign in "+#\0") or len(topic) > 1000:  # noqa: PLR2004
        raise ConfigError('"topic" must be a topic without wildcards', where=own.where("topic"))
    if topic and not own.get("host", str, "") and not topic.startswith(OWN_TOPICS):
        # It would take the message, say so, and give it to nobody.
        raise ConfigError(
            f"the fleet's own broker takes alerts below {OWN_TOPICS} alone",
            hint=f'topic = "{OWN_TOPICS}lab", or a "host"',
            where=own.where("topic"),
        )
    return topic


def _address(own: Table, key: str, text: str) -> str:
    # A line break in an address would be a header of its own.
    if "@" not in text or not text.isprintable() or len(text) > 320:  # noqa: PLR2004 - RFC 3696
        raise ConfigError(f"{text[:80]!r} is no e-mail address", where=own.where(key))
    return text


def _url(own: Table, folder: Path) -> str:
    if own.has("url") == own.has("url_file"):
        raise ConfigError('"url" or "url_file", one of the two', where=own.where())
    key = "url" if own.has("url") else "url_file"
    text = own.get("url", str) if key == "url" else _file(own, "url_file", folder) or ""
    try:
        parts = urlsplit(text)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and text.isprintable()
        _ = parts.port
    except ValueError:
        good = False
    if not good or " " in text:
        # The text itself may be a secret.
        raise ConfigError(f'"{key}" holds no http or https URL', where=own.where(key))
    return text


def _file(own: Table, key: str, folder: Path) -> str | None:
    name = own.optional(key, str)
    if name is None:
        return None
    path = folder / name
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SECRET_BYTES + 1)
        text = data.decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f'the file of "{key}" cannot be read', where=own.where(key)) from error
    if not text or len(data) > MAX_SECRET_BYTES or not text.isprintable():
        raise ConfigError(
            f'the file of "{key}" holds no secret of up to {MAX_SECRET_BYTES} bytes',
            where=own.where(key),
        )
    return text
