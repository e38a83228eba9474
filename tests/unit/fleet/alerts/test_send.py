"""Notices reach real servers on the loopback, are tried again, and hold no secret."""

from __future__ import annotations

import http.server
import json
import logging
import threading
import time
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from hypothesis import given
from hypothesis import strategies as st

from edgekit.fleet.alerts.channels import Channel
from edgekit.fleet.alerts.notice import Notice, span
from edgekit.fleet.alerts.send import SENT, Outcome, send
from edgekit.fleet.alerts.sender import WAITS_S, Retries, Sender
from edgekit.fleet.publisher import BrokerAddress, Publication, publish
from edgekit.wire.errors import DeviceError

from ....agent_broker import Broker, free_port  # noqa: TID252 - a helper of all tests

NOTICE = Notice(
    alert_id="a1",
    event="open",
    fleet="lab",
    rule="temperature",
    kind="temperature",
    severity="critical",
    device="cam-1",
    model="",
    value=84.0,
    unit="°C",
    text="cam-1 is at 84 °C, over 80 °C",
    todo="look at its fan",
    opened_s=1_795_720_800.0,
    at_s=1_795_720_800.0,
)
SECRET = "tk_very-secret"  # noqa: S105 - a made-up one


class Web:
    """An HTTP server that answers what the test says, and keeps what it got."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                web.got.append((self.path, dict(self.headers), body))
                self.send_response(web.answers.pop(0) if web.answers else 200)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook/{SECRET}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def web() -> Iterator[Web]:
    made = Web()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_a_webhook_gets_the_whole_alert(web):
    assert send(Channel("a", "webhook", url=web.url, secret=SECRET), NOTICE, None) == SENT
    ((path, headers, body),) = web.got
    assert path == f"/hook/{SECRET}"
    assert headers["Authorization"] == f"Bearer {SECRET}"
    assert headers["Idempotency-Key"] == "a1-open-1795720800"
    document = json.loads(body)
    assert document["schema"] == "edgekit.alert/1"
    assert document["todo"] == "look at its fan"
    assert document["title"] == "[lab] cam-1 is at 84 °C, over 80 °C"


def test_ntfy_gets_a_title_a_priority_and_the_next_step(web):
    assert send(Channel("a", "ntfy", url=web.url), NOTICE, None) == SENT
    ((_, headers, body),) = web.got
    assert str(make_header(decode_header(headers["Title"]))) == NOTICE.title
    assert headers["Priority"] == "5"
    assert "Next: look at its fan" in body.decode()
    assert "Authorization" not in headers


@pytest.mark.parametrize(
    ("status", "again"), [(500, True), (503, True), (429, True), (404, False), (401, False)]
)
def test_an_answer_says_whether_another_try_may_help(web, status, again):
    web.answers = [status]
    outcome = send(Channel("a", "webhook", url=web.url), NOTICE, None)
    assert outcome == Outcome(ok=False, again=again, problem=f"it answered {status}")


def test_a_redirect_is_not_followed(web):
    web.answers = [302]
    outcome = send(Channel("a", "webhook", url=web.url, secret=SECRET), NOTICE, None)
    assert (outcome.ok, outcome.again, len(web.got)) == (False, False, 1)


def test_a_server_that_is_not_there_is_tried_again():
    channel = Channel("a", "webhook", url=f"http://127.0.0.1:{free_port()}/{SECRET}")
    outcome = send(channel, NOTICE, None)
    assert (outcome.ok, outcome.again) == (False, True)
    assert SECRET not in outcome.problem


class Mail:
    """A real SMTP server that keeps what it got."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.refuse = ""

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's
        if self.refuse:
            return self.refuse
        self.got.append(envelope)
        return "250 taken"


@pytest.fixture
def mail() -> Iterator[tuple[Mail, int]]:
    handler, port = Mail(), free_port()

    def authenticate(_server, _session, _envelope, _mechanism, data):
        return AuthResult(success=(data.login, data.password) == (b"u", SECRET.encode()))

    controller = Controller(
        handler,
        hostname="127.0.0.1",
        port=port,
        authenticator=authenticate,
        auth_require_tls=False,
    )
    controller.start()
    yield handler, port
    controller.stop()


def by_mail(port: int, **changes: Any) -> Channel:
    values = {"host": "127.0.0.1", "port": port, "sender": "fleet@example", "to": ("a@b", "c@d")}
    return Channel("m", "smtp", **(values | changes))


def test_mail_arrives_and_the_end_is_in_the_same_thread(mail):
    handler, port = mail
    channel = by_mail(port, username="u", secret=SECRET)
    assert send(channel, NOTICE, None) == SENT
    over = Notice(**(vars(NOTICE) | {"event": "closed", "at_s": NOTICE.at_s + 3600}))
    assert send(channel, over, None) == SENT
    first, last = (message_from_bytes(e.content, policy=policy.default) for e in handler.got)
    assert handler.got[0].rcpt_tos == ["a@b", "c@d"]
    assert first["Subject"] == NOTICE.title
    assert "Next: look at its fan" in first.get_content()
    assert last["In-Reply-To"] == first["Message-ID"]
    assert "It lasted 1 h." in last.get_content()


def test_a_wrong_password_lets_nothing_in(mail):
    handler, port = mail
    outcome = send(by_mail(port, username="u", secret=SECRET[:-1]), NOTICE, None, 1.0)
    assert not outcome.ok
    assert SECRET[:-1] not in outcome.problem
    assert handler.got == []


@pytest.mark.parametrize(("answer", "again"), [("451 later", True), ("554 never", False)])
def test_a_mail_server_says_whether_to_come_again(mail, answer, again):
    handler, port = mail
    handler.refuse = answer
    outcome = send(by_mail(port), NOTICE, None)
    assert (outcome.ok, outcome.again) == (False, again)


@pytest.mark.mosquitto
def test_mqtt_gets_the_alert_on_the_fleets_own_broker(tmp_path):
    from paho.mqtt import subscribe

    with Broker(tmp_path) as broker:
        address = BrokerAddress("127.0.0.1", broker.port)
        got: list[Any] = []

        def hear() -> None:
            got.append(subscribe.simple("edgekit-alerts/#", qos=1, port=broker.port))

        thread = threading.Thread(target=hear, daemon=True)
        thread.start()
        deadline = time.monotonic() + 10
        while "SUBSCRIBE" not in broker.log and time.monotonic() < deadline:
            time.sleep(0.02)
        assert send(Channel("b", "mqtt"), NOTICE, address) == SENT
        thread.join(10)
        assert got[0].topic == "edgekit-alerts/lab"
        assert json.loads(got[0].payload)["rule"] == "temperature"


@pytest.mark.mosquitto
def test_a_broker_that_refuses_or_is_gone_is_said(tmp_path):
    with Broker(tmp_path, "allow_anonymous false") as broker:
        outcome = send(Channel("b", "mqtt", host="127.0.0.1", port=broker.port), NOTICE, None)
        assert (outcome.ok, outcome.again) == (False, True)
        assert "does not let us in" in outcome.problem
        port = broker.port
    with pytest.raises(DeviceError, match="cannot be reached"):
        publish(BrokerAddress("127.0.0.1", port), [Publication("a", b"")])


def test_a_sender_tries_again_and_one_that_hangs_holds_up_no_other(web, caplog):
    web.answers = [500, 503]
    hang, done = threading.Event(), []
    channels = {
        "slow": Channel("slow", "webhook", url="http://slow.example/"),
        "web": Channel("web", "webhook", url=web.url, secret=SECRET),
    }

    def try_(channel: Channel, notice: Notice) -> Outcome:
        if channel.name == "slow":
            hang.wait(10)
            return SENT
        return send(channel, notice, None)

    sender = Sender(
        channels,
        try_,
        Retries((0.01, 0.01), lambda: 0.5),
        lambda channel, _notice, outcome: done.append((channel.name, outcome)),
    )
    with caplog.at_level(logging.DEBUG):
        assert sender.put(NOTICE) == ["slow", "web"]
        deadline = time.monotonic() + 10
        while not done and time.monotonic() < deadline:
            time.sleep(0.01)
    assert done == [("web", SENT)]
    assert len(web.got) == 3
    assert "127.0.0.1" in caplog.text
    assert SECRET not in caplog.text
    hang.set()
    sender.stop()


def test_a_sender_gives_up(web):
    web.answers = [500] * 3
    done: list[Outcome] = []
    sender = Sender(
        {"web": Channel("web", "webhook", url=web.url)},
        lambda channel, notice: send(channel, notice, None),
        Retries((0.0, 0.0), lambda: 0.5),
        lambda _channel, _notice, outcome: done.append(outcome),
    )
    sender.put(NOTICE, ["web", "nobody"])
    deadline = time.monotonic() + 10
    while not done and time.monotonic() < deadline:
        time.sleep(0.01)
    sender.stop()
    assert [outcome.ok for outcome in done] == [False]
    assert len(web.got) == 3


@given(st.integers(1, 50), st.floats(0, 1))
def test_waits_are_bounded(failed, chance):
    wait_s = Retries(WAITS_S, lambda: chance).wait_s(failed)
    assert (wait_s is None) == (failed > len(WAITS_S))
    assert wait_s is None or WAITS_S[failed - 1] <= wait_s <= 1.2 * WAITS_S[failed - 1]


@given(st.floats(0, 1e9))
def test_a_span_has_a_number_and_a_unit(seconds):
    number, unit = span(seconds).split()
    assert unit in {"s", "min", "h", "d"}
    assert float(number) >= 0
