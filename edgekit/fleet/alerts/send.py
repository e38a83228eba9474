"""Sending one notice over one channel: HTTP, SMTP or MQTT, once, with a deadline.

Nothing is raised: what came of it is a value, and says whether another try may help. No text holds
a URL, a token or a password.
"""

from __future__ import annotations

import json
import smtplib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from email.header import Header
from email.message import EmailMessage
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, OpenerDirector, Request, build_opener

from edgekit.fleet.alerts.channels import Channel
from edgekit.fleet.alerts.notice import Notice
from edgekit.fleet.publisher import BrokerAddress, Publication, publish
from edgekit.wire.errors import DeviceError

TIMEOUT_S = 10.0
_RETRY_STATUS = frozenset({408, 425, 429})
_SERVER_ERRORS = 500
_PRIORITY = {"critical": "5", "warning": "3"}


@dataclass(frozen=True)
class Outcome:
    """What came of a try.

    Attributes:
        ok: It was taken.
        again: Where it was not: another try may help.
        problem: Why not, for people.
    """

    ok: bool
    again: bool = False
    problem: str = ""


SENT = Outcome(ok=True)


def send(
    channel: Channel, notice: Notice, broker: BrokerAddress | None, timeout_s: float = TIMEOUT_S
) -> Outcome:
    """Send a notice.

    Args:
        channel: How.
        notice: What.
        broker: The fleet's own, for channels that name no other.
        timeout_s: For each answer of the other side.
    """
    if channel.kind == "smtp":
        return _smtp(channel, notice, timeout_s)
    if channel.kind == "mqtt":
        return _mqtt(channel, notice, broker, timeout_s)
    if channel.kind == "ntfy":
        return _post(channel, notice.body.encode(), _ntfy_headers(notice), timeout_s)
    data = json.dumps(notice.to_json(), ensure_ascii=False).encode()
    return _post(channel, data, _webhook_headers(notice), timeout_s)


def _webhook_headers(notice: Notice) -> dict[str, str]:
    # A receiver that got it twice can tell by this.
    return {
        "Content-Type": "application/json",
        "Idempotency-Key": f"{notice.alert_id}-{notice.event}-{notice.at_s:.0f}",
    }


def _ntfy_headers(notice: Notice) -> dict[str, str]:
    return {
        "Content-Type": "text/plain; charset=utf-8",
        # Headers are ASCII; ntfy reads RFC 2047.
        "Title": Header(notice.title, "utf-8", maxlinelen=1 << 16).encode(),
        "Priority": "2" if notice.event == "closed" else _PRIORITY[notice.severity],
        "Tags": "white_check_mark" if notice.event == "closed" else "warning",
    }


class _NoRedirects(HTTPRedirectHandler):
    """A token is for the place that the settings name, and for no other."""

    def redirect_request(self, *_: Any) -> None:  # noqa: ANN401 - urllib's
        return None


def _opener() -> OpenerDirector:
    return build_opener(_NoRedirects())


def _post(channel: Channel, data: bytes, headers: Mapping[str, str], timeout_s: float) -> Outcome:
    request = Request(channel.url, data=data, method="POST", headers=dict(headers))  # noqa: S310 - http(s), by the settings' reader
    request.add_header("User-Agent", "edgekit")
    if channel.secret is not None:
        request.add_unredirected_header("Authorization", f"Bearer {channel.secret}")
    try:
        with _opener().open(request, timeout=timeout_s):
            return SENT
    except HTTPError as error:
        with error:
            again = error.code >= _SERVER_ERRORS or error.code in _RETRY_STATUS
            return Outcome(ok=False, again=again, problem=f"it answered {error.code}")
    except URLError as error:
        return Outcome(ok=False, again=True, problem=_short(error.reason))
    except (OSError, ValueError) as error:
        return Outcome(ok=False, again=True, problem=_short(error))
    except Exception as error:  # noqa: BLE001 - http.client has a tree of its own
        return Outcome(ok=False, again=True, problem=type(error).__name__)


def _smtp(channel: Channel, notice: Notice, timeout_s: float) -> Outcome:
    context = ssl.create_default_context()
    try:
        server: smtplib.SMTP
        if channel.tls == "implicit":
            server = smtplib.SMTP_SSL(
                channel.host, channel.port, timeout=timeout_s, context=context
            )
        else:
            server = smtplib.SMTP(channel.host, channel.port, timeout=timeout_s)
        with server:
            if channel.tls == "starttls":
                server.starttls(context=context)
            if channel.username is not None and channel.secret is not None:
                server.login(channel.username, channel.secret)
            server.send_message(mail(channel, notice))
    except smtplib.SMTPAuthenticationError as error:
        return Outcome(ok=False, problem=f"it does not let us in ({error.smtp_code})")
    except smtplib.SMTPRecipientsRefused:
        return Outcome(ok=False, problem="it takes mail for none of the addresses")
    except smtplib.SMTPResponseException as error:
        again = error.smtp_code < _SERVER_ERRORS  # 4xx is for now, 5xx for good: RFC 5321 4.2.1
        return Outcome(ok=False, again=again, problem=f"it answered {error.smtp_code}")
    except (OSError, ValueError) as error:
        return Outcome(ok=False, again=True, problem=_short(error))
    return SENT


def mail(channel: Channel, notice: Notice) -> EmailMessage:
    """Return a notice as an e-mail; all of one alert's are a thread."""
    message = EmailMessage()
    message["From"] = channel.sender
    message["To"] = ", ".join(channel.to)
    message["Subject"] = notice.title
    first = f"<{notice.alert_id}@edgekit.invalid>"
    if notice.event in {"open", "test"}:
        message["Message-ID"] = first
    else:
        message["Message-ID"] = f"<{notice.alert_id}-{notice.at_s:.0f}@edgekit.invalid>"
        message["In-Reply-To"] = message["References"] = first
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(notice.body)
    return message


def _mqtt(
    channel: Channel, notice: Notice, broker: BrokerAddress | None, timeout_s: float
) -> Outcome:
    address = broker
    if channel.host:
        address = BrokerAddress(
            channel.host,
            channel.port,
            channel.username,
            channel.secret,
            tls=channel.tls == "implicit",
        )
    if address is None:
        return Outcome(ok=False, problem="the fleet has no broker")
    topic = channel.topic or f"edgekit-alerts/{notice.fleet}"
    data = json.dumps(notice.to_json(), ensure_ascii=False).encode()
    try:
        publish(address, [Publication(topic, data)], timeout_s=timeout_s)
    except DeviceError as error:
        return Outcome(ok=False, again=True, problem=error.message)
    return SENT


def _short(error: object) -> str:
    """Say what failed in the system's words; nothing else of it is shown."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__ if isinstance(error, BaseException) else str(error)[:100]
