"""The link against a real mosquitto: hello, will, acks, restarts, credentials, TLS, 3.1.1."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

from edgekit.agent.link import Backoff, Link
from edgekit.agent.outbox import Outbox
from edgekit.agent.session import Address, Tls
from edgekit.agent.window import Pace
from edgekit.wire.errors import TrustError
from edgekit.wire.messages import Ack, Command, Hello, Reported
from edgekit.wire.topics import topic

from ...agent_broker import Authority, Broker  # noqa: TID252 - helpers of all agent tests
from ...agent_receiver import Receiver  # noqa: TID252

pytestmark = pytest.mark.mosquitto
BOOT = "0123456789abcdef"
QUICK = Pace(flush_s=0.1, resend_s=1.0, resend_max_s=2.0, batch_messages=20)
SOON = Backoff(base_s=0.1, cap_s=0.5, stable_s=0.5, ready_within_s=3.0)


def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def hello() -> Hello:
    return Hello(BOOT, 1.0, "0.1.0", "rpi5", "aarch64", ("ping",), {"python": "3.11"})


class Device:
    """An outbox and a link; more than one may be made in a test."""

    def __init__(self, folder: Path, port: int, **options) -> None:
        self.outbox = Outbox(folder / "outbox.db", 1 << 24, BOOT, time.time)
        login = {key: options.pop(key) for key in ("username", "password", "tls") if key in options}
        host = options.pop("host", "127.0.0.1")
        options = {"pace": QUICK, "backoff": SOON, "hello": hello} | options
        self.link = Link(Address(host, port, "north", "cam-01", **login), self.outbox, **options)

    def __enter__(self) -> Self:
        self.link.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.link.stop()
        self.outbox.close()

    def connected(self) -> bool:
        return self.link.status.connected


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path / "broker") as running:
        yield running


@pytest.fixture
def receiver(tmp_path: Path, broker: Broker) -> Iterator[Receiver]:
    running = Receiver(broker.port, tmp_path / "store.db").start()
    yield running
    running.stop()


def test_hello_state_and_goodbye(tmp_path: Path, broker: Broker, receiver: Receiver) -> None:
    with Device(tmp_path, broker.port) as device:
        until(lambda: receiver.of("hello"))
        assert device.link.status.protocol == "5"
        assert receiver.of("hello")[0]["target"] == "rpi5"
        assert [s["status"] for s in receiver.of("state")] == ["online"]
    until(lambda: len(receiver.of("state")) == 2)
    last = receiver.of("state")[-1]
    assert (last["status"], last["reason"]) == ("offline", "stopped")


def test_what_is_retained_greets_a_fleet_that_comes_later(tmp_path: Path, broker: Broker) -> None:
    with Device(tmp_path, broker.port) as device:
        until(device.connected)
        device.link.report(Reported(BOOT, 1.0, {"ocr": "ab" * 32}))
        until(lambda: "reported" in broker.log)
        late = Receiver(broker.port, tmp_path / "late.db").start()
        until(lambda: late.of("state") and late.of("hello") and late.of("reported"))
        assert late.of("reported")[0]["running"] == {"ocr": "ab" * 32}
        late.stop()


def test_the_will_says_that_a_device_is_lost(
    tmp_path: Path, broker: Broker, receiver: Receiver
) -> None:
    with Device(tmp_path, broker.port) as device:
        until(device.connected)
        # As a pulled cable: no goodbye.
        device.link._stop.set()
        device.link._goodbye = lambda: None  # type: ignore[method-assign,assignment,return-value]
        until(lambda: len(receiver.of("state")) == 2)
        assert receiver.of("state")[-1]["reason"] == "lost"


def test_messages_arrive_and_only_then_are_deleted(
    tmp_path: Path, broker: Broker, receiver: Receiver
) -> None:
    receiver.acknowledge = False
    with Device(tmp_path, broker.port) as device:
        for i in range(50):
            device.outbox.put("sample", {"i": i})
        until(lambda: receiver.count() == 50)
        time.sleep(0.3)
        assert device.outbox.stats().messages == 50
        receiver.acknowledge = True
        until(lambda: device.outbox.stats().messages == 0)
    assert [(row[1], row[3]) for row in receiver.rows()] == [(i, {"i": i}) for i in range(50)]
    assert receiver.repeats > 0


def test_an_event_does_not_wait(tmp_path: Path, broker: Broker, receiver: Receiver) -> None:
    with Device(tmp_path, broker.port, pace=Pace(flush_s=60.0)) as device:
        until(device.connected)
        device.outbox.put("sample", {})
        time.sleep(1.0)
        device.outbox.put("sample", {})
        time.sleep(0.5)
        before = receiver.count()
        assert before < 2
        device.outbox.put("event", {"name": "reverted"})
        until(lambda: receiver.count() == 3, 3.0)


def test_a_broker_that_restarts_loses_nothing(
    tmp_path: Path, broker: Broker, receiver: Receiver
) -> None:
    with Device(tmp_path, broker.port) as device:
        until(device.connected)
        for i in range(300):
            device.outbox.put("sample", {"i": i})
            if i in {100, 200}:
                broker.stop(kill=True)
                until(lambda: not device.connected())
                broker.start()
        until(lambda: device.outbox.stats().messages == 0, 40.0)
    assert sorted(row[1] for row in receiver.rows()) == list(range(300))


def test_an_agent_that_restarts_goes_on(tmp_path: Path, broker: Broker, receiver: Receiver) -> None:
    receiver.acknowledge = False
    with Device(tmp_path, broker.port) as device:
        for i in range(30):
            device.outbox.put("sample", {"i": i})
        until(lambda: receiver.count() == 30)
    receiver.acknowledge = True
    with Device(tmp_path, broker.port) as device:
        until(lambda: device.outbox.stats().messages == 0)
    assert receiver.count() == 30


def test_no_broker_costs_nothing_but_outbox_bytes(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        device = Device(tmp_path, taken.getsockname()[1], backoff=Backoff(0.001, 0.002))
        with device:
            until(lambda: device.link.status.attempts > 20)
            handles = len(list(Path("/proc/self/fd").iterdir()))
            threads = threading.active_count()
            until(lambda: device.link.status.attempts > 200)
            assert len(list(Path("/proc/self/fd").iterdir())) <= handles + 1
            assert threading.active_count() == threads
            assert "refused" in device.link.status.problem.lower()


def test_commands_are_answered_once(tmp_path: Path, broker: Broker, receiver: Receiver) -> None:
    done: list[object] = []

    def count(args: object) -> int:
        done.append(args)
        return len(done)

    place = topic("north", "cam-01", "command")
    with Device(tmp_path, broker.port, commands={"count": count}) as device:
        until(device.connected)
        for command in (Command("a", "count", {"n": 1}),) * 3 + (
            Command("b", "ping", {"echo": 5}),
        ):
            receiver.say(place, command.to_bytes())
        receiver.say(place, Command("c", "cuont").to_bytes())
        receiver.say(place, b"\xff")
        until(lambda: {r["id"] for r in receiver.of("reply")} == {"a", "b", "c"})
        receiver.say(place, Command("a", "count", {"n": 1}).to_bytes())
        until(lambda: sum(r["id"] == "a" for r in receiver.of("reply")) >= 2)
    replies = {reply["id"]: reply for reply in receiver.of("reply")}
    assert done == [{"n": 1}]
    assert replies["a"] == {"id": "a", "ok": True, "result": 1}
    assert replies["b"]["result"] == {"pong": 5}
    assert replies["c"]["hint"] == "did you mean count?"


def test_orders_and_inputs_reach_their_receivers(
    tmp_path: Path, broker: Broker, receiver: Receiver
) -> None:
    orders: list[bytes] = []
    inputs: list[bytes] = []
    receiver.say(topic("north", "cam-01", "desired"), b"an order", retain=True)
    # A command that somebody retained by mistake would be done at each connection.
    receiver.say(topic("north", "cam-01", "command"), Command("r", "ping").to_bytes(), retain=True)
    with Device(
        tmp_path, broker.port, on_desired=orders.append, inputs={"ocr": inputs.append}
    ) as device:
        until(lambda: orders == [b"an order"])
        receiver.say(topic("north", "cam-01", "input", "ocr"), b"\x89PNG")
        until(lambda: inputs == [b"\x89PNG"])
        device.link.publish_output("ocr", b"text")
        until(lambda: (topic("north", "cam-01", "output", "ocr"), b"text") in receiver.heard)
        with pytest.raises(TrustError):
            device.link.publish_output("a/b", b"")
    assert receiver.of("reply") == [] or all(r["id"] != "r" for r in receiver.of("reply"))


def test_hostile_acks_delete_nothing_that_was_not_sent(
    tmp_path: Path, broker: Broker, receiver: Receiver
) -> None:
    receiver.acknowledge = False
    with Device(tmp_path, broker.port, pace=Pace(flush_s=60.0)) as device:
        until(device.connected)
        time.sleep(0.5)
        for i in range(30):
            device.outbox.put("sample", {"i": i})
        place = topic("north", "cam-01", "ack")
        receiver.say(place, Ack(BOOT, 0, 2**53 - 1).to_bytes())
        receiver.say(place, b"{}")
        receiver.say(topic("north", "cam-01", "command"), Command("z", "ping").to_bytes())
        until(lambda: receiver.of("reply"))
        assert device.outbox.stats().messages == 30


def test_wrong_credentials_are_said_and_tried_less_often(tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    passwords.touch(mode=0o600)
    subprocess.run(
        ["mosquitto_passwd", "-b", str(passwords), "cam-01", "right"],
        check=True,
        capture_output=True,
    )
    settings = f"allow_anonymous false\npassword_file {passwords}"
    with Broker(tmp_path / "broker", settings) as broker:
        with Device(tmp_path, broker.port, username="cam-01", password="wrong") as device:  # noqa: S106
            until(lambda: device.link.status.attempts >= 2)
            assert "not authorized" in device.link.status.problem.lower()
            assert device.link._protocol == "5"
        with Device(tmp_path, broker.port, username="cam-01", password="right") as device:  # noqa: S106
            until(device.connected)
        assert "right" not in repr(device.link._address)


def test_without_the_right_to_hear_acks_nothing_is_lost(tmp_path: Path) -> None:
    rules = tmp_path / "acl"
    rules.write_text("topic write edgekit/1/#\ntopic read edgekit/1/north/cam-01/desired\n")
    settings = f"allow_anonymous true\nacl_file {rules}"
    with Broker(tmp_path / "b", settings) as broker, Device(tmp_path, broker.port) as device:
        # mosquitto 2.0 grants the subscription and delivers nothing; newer ones say so.
        until(lambda: device.connected() or device.link.status.problem)
        device.outbox.put("sample", {})
        time.sleep(1.5)
        assert device.outbox.stats().messages == 1


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[tuple[Broker, Authority]]:
    authority = Authority(tmp_path / "ca")
    certificate, key = authority.issue("server", ("localhost",))
    settings = (
        f"allow_anonymous true\ncafile {authority.path}\ncertfile {certificate}\nkeyfile {key}\n"
        "require_certificate true"
    )
    with Broker(tmp_path / "broker", settings) as broker:
        yield broker, authority


def test_tls_with_a_certificate_of_the_device(tmp_path: Path, tls) -> None:
    broker, authority = tls
    files = Tls(authority.path, *authority.issue("cam-01"))
    with Device(tmp_path, broker.port, host="localhost", tls=files) as device:
        until(device.connected)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("no certificate", ""),
        ("a stranger's certificate", ""),
        ("another authority", "certificate verify failed"),
        ("another host", "not valid for"),
        ("no such file", "No such file"),
    ],
)
def test_tls_that_does_not_hold_is_no_connection(tmp_path: Path, tls, change, problem) -> None:
    broker, authority = tls
    stranger = Authority(tmp_path / "stranger")
    files = {
        "no certificate": Tls(authority.path),
        "a stranger's certificate": Tls(authority.path, *stranger.issue("cam-01")),
        "another authority": Tls(stranger.path, *authority.issue("cam-01")),
        "another host": Tls(authority.path, *authority.issue("cam-01")),
        "no such file": Tls(tmp_path / "gone.pem"),
    }[change]
    host = "127.0.0.1" if change == "another host" else "localhost"
    with Device(tmp_path, broker.port, host=host, tls=files) as device:
        until(lambda: device.link.status.attempts >= 2)
        assert device.link.status.connections == 0
        assert problem in device.link.status.problem or "IP address" in device.link.status.problem


class OldBroker:
    """Answers MQTT 5 as brokers do that do not know it, and hands 3.1.1 on to a real one.

    Args:
        port: The real broker's.
        answer: What a CONNECT of version 5 gets before the line goes dead; None: nothing at all.
    """

    def __init__(self, port: int, answer: bytes | None) -> None:
        self._to = port
        self._answer = answer
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.versions: list[int] = []
        self._ignored: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            first = client.recv(4096)
            self.versions.append(first[first.index(b"MQTT") + 4])
            if self.versions[-1] == 5 and self._answer is None:
                self._ignored.append(client)
                continue
            if self.versions[-1] == 5:
                client.sendall(self._answer or b"")
                client.close()
                continue
            real = socket.create_connection(("127.0.0.1", self._to))
            real.sendall(first)
            for source, sink in ((client, real), (real, client)):
                threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        sink.close()

    def close(self) -> None:
        for client in self._ignored:
            client.close()
        self._server.close()


@pytest.mark.parametrize(
    "answer",
    [b"\x20\x02\x00\x01", b"\x20\x03\x00\x84\x00", b"", None],
    ids=["rc 1", "0x84", "hangs up", "says nothing"],
)
def test_a_broker_without_mqtt_5_gets_3_1_1(
    tmp_path: Path, broker: Broker, receiver: Receiver, answer: bytes | None
) -> None:
    old = OldBroker(broker.port, answer)
    with Device(tmp_path, old.port) as device:
        until(device.connected)
        assert device.link.status.protocol == "3.1.1"
        device.outbox.put("event", {"name": "x"})
        until(lambda: receiver.count() == 1)
        until(lambda: device.outbox.stats().messages == 0)
    assert old.versions == [5, 4]
    old.close()


@pytest.mark.parametrize("old", [False, True], ids=["MQTT 5", "MQTT 3.1.1"])
def test_a_huge_packet_is_not_read(
    tmp_path: Path, broker: Broker, receiver: Receiver, old: bool
) -> None:
    front = OldBroker(broker.port, b"")
    with Device(tmp_path, front.port if old else broker.port) as device:
        until(device.connected)
        receiver.say(topic("north", "cam-01", "command"), b" " * (8 << 20))
        if old:
            until(lambda: not device.connected() or device.link.status.connections > 1)
        until(device.connected)
        receiver.say(topic("north", "cam-01", "command"), Command("after", "ping").to_bytes())
        until(lambda: any(r["id"] == "after" for r in receiver.of("reply")))
    front.close()


def test_garbage_from_a_broker_is_a_lost_connection(tmp_path: Path) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(10)

    def serve() -> None:
        for garbage in (b"\xff" * 40, b"\x20\x00", b"\x30\x02\xff\xff", b"\x20\x03\x00\x00\xff"):
            client, _ = server.accept()
            client.recv(4096)
            client.sendall(garbage)
            client.close()

    thread = threading.Thread(target=serve)
    thread.start()
    with Device(tmp_path, server.getsockname()[1]) as device:
        thread.join(15)
        until(lambda: device.link.status.attempts >= 4)
        assert device.link._threads[0].is_alive()
    server.close()


def test_backoff_is_exponential_with_full_jitter() -> None:
    backoff = Backoff(base_s=1.0, cap_s=60.0)
    assert [backoff.wait_s(n, lambda: 1.0) for n in (0, 1, 2, 5, 6, 900)] == [1, 2, 4, 32, 60, 60]
    assert backoff.wait_s(5, lambda: 0.25) == 8.0


def test_the_documented_rights_are_enough_and_no_more(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "mqtt.md").read_text(encoding="utf-8")
    rules = page.partition("## Rights at the broker")[2].split("```")[1].strip()
    (tmp_path / "acl").write_text(f"{rules}\n", encoding="utf-8")
    passwords = tmp_path / "passwords"
    passwords.touch(mode=0o600)
    for user in ("fleet", "cam-01"):
        subprocess.run(["mosquitto_passwd", "-b", str(passwords), user, user], check=True)
    settings = f"allow_anonymous false\npassword_file {passwords}\nacl_file {tmp_path / 'acl'}"
    with Broker(tmp_path / "broker", settings) as broker:
        fleet = Receiver(broker.port, tmp_path / "store.db", username="fleet", password="fleet")  # noqa: S106
        fleet.start()
        login = {"username": "cam-01", "password": "cam-01"}
        with Device(tmp_path, broker.port, **login) as device:
            device.outbox.put("event", {"name": "x"})
            until(lambda: fleet.count() == 1 and device.outbox.stats().messages == 0)
            fleet.say(topic("north", "cam-01", "command"), Command("a", "ping").to_bytes())
            until(lambda: fleet.of("reply") and fleet.of("hello") and fleet.of("state"))
        thief = Receiver(broker.port, tmp_path / "thief.db", **login).start()
        thief.say(topic("north", "cam-02", "hello"), hello().to_bytes())
        thief.say(topic("north", "cam-01", "command"), b"{}")
        thief.say(topic("north", "cam-01", "hello"), hello().to_bytes())
        until(lambda: len(fleet.of("hello")) == 2)
        assert {place for place, _ in fleet.heard if "hello" in place} == {
            topic("north", "cam-01", "hello")
        }
        thief.stop()
        fleet.stop()
