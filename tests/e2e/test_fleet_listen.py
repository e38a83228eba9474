"""Whom a fleet lets in, and to what: the real command, real brokers, real MQTT clients.

Mosquitto is reached over TLS, as ``--listen`` has it; amqtt stays on loopback.
"""

from __future__ import annotations

import json
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import pytest
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edgekit.fleet.broker import credentials
from edgekit.fleet.home import FleetHome

from ..agent_board import until  # noqa: TID252
from ..agent_broker import Authority, find_mosquitto, free_port  # noqa: TID252

EDGEKIT = [sys.executable, "-m", "edgekit", "fleet"]
ROOT = "edgekit/1/lab"
# What a device has no business with; the last ones are another's by a detour.
OTHERS = ("#", "+/+/+/+/+", "edgekit/#", f"{ROOT}/#", f"{ROOT}/+/state", f"{ROOT}/cam-2/#",
          f"{ROOT}/cam-2/state", f"$share/g/{ROOT}/#", "$SYS/#", "edgekit/1/+/cam-2/#",
          f"{ROOT}/cam-1x/#")  # fmt: skip


@dataclass(frozen=True)
class Account:
    """A broker's address and as whom to connect."""

    port: int
    username: str | None
    password: str | None
    ca_file: Path | None = None


@dataclass
class Running:
    """A fleet that runs, as its command said."""

    home: Path
    said: dict[str, Any]
    kind: str

    def command(self, *words: str) -> dict[str, Any]:
        """Run a command of it."""
        done = subprocess.run(
            [*EDGEKIT, *words, "--home", str(self.home), "--json"],
            capture_output=True,
            timeout=60,
            check=True,
        )
        return json.loads(done.stdout)

    def device(self, name: str) -> Account:
        """What its folder says."""
        folder = self.home / "devices" / name
        broker = json.loads((folder / "agent.json").read_text())["broker"]
        assert broker["host"] == "127.0.0.1"
        ca_file = folder / broker["tls"]["ca_file"] if "tls" in broker else None
        password = (folder / broker["password_file"]).read_text()
        return Account(broker["port"], broker["username"], password, ca_file)

    @property
    def itself(self) -> Account:
        """The dashboard's own account, on loopback."""
        port = int(self.said["listens"]["mqtt"].rpartition(":")[2])
        return Account(port, *credentials(FleetHome.open(self.home), "web"))


@dataclass
class Client:
    """A real MQTT client."""

    account: Account
    client_id: str = ""
    clean: bool = True
    will: str = ""
    heard: list[tuple[str, bytes]] = field(default_factory=list)
    reason: str = ""

    def __enter__(self) -> Self:
        self.open()
        until(self.client.is_connected, 20)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def open(self) -> None:
        """Connect; who is not let in gets a reason."""
        self.client = client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self.client_id,
            clean_session=self.clean,
            protocol=MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        if self.account.username is not None:
            client.username_pw_set(self.account.username, self.account.password)
        if self.account.ca_file is not None:
            client.tls_set_context(ssl.create_default_context(cafile=self.account.ca_file))
        if self.will:
            client.will_set(self.will, b"will", qos=1, retain=True)
        self.granted = threading.Event()
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = lambda *_: self.granted.set()
        client.on_message = lambda _c, _d, m: self.heard.append((m.topic, m.payload))
        client.connect("127.0.0.1", self.account.port, keepalive=30)
        client.loop_start()

    def hear(self, *filters: str) -> None:
        """Ask for messages; one by one, so that one refused spoils no other."""
        for one in filters:
            self.granted.clear()
            self.client.subscribe(one, qos=1)
            assert self.granted.wait(20)

    def say(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish, and wait until the broker has taken it."""
        sent = self.client.publish(topic, payload, qos=1, retain=retain)
        sent.wait_for_publish(20)
        assert sent.is_published()

    def drop(self) -> None:
        """Go without a word, as a device does that loses power."""
        self.client.socket().shutdown(socket.SHUT_RDWR)

    def _on_connect(self, _c: object, _d: object, _f: object, reason: Any, _p: object) -> None:
        self.reason = str(reason) if reason.is_failure else ""

    def _on_disconnect(self, _c: object, _d: object, _f: object, reason: Any, _p: object) -> None:
        self.reason = self.reason or str(reason)


def is_let_in(account: Account, **more: Any) -> bool:
    client = Client(account, **more)
    try:
        client.open()
    except (OSError, ssl.SSLError):
        return False
    try:
        until(lambda: client.client.is_connected() or client.reason, 20)
        return client.client.is_connected()
    finally:
        client.__exit__()


@contextmanager
def fleet_of(folder: Path, kind: str) -> Iterator[Running]:
    home = folder / "fleet"
    home.mkdir(mode=0o700)
    ports = free_port(), free_port(), free_port()
    (home / "fleet.toml").write_text(
        f'name = "lab"\n[http]\nport = {ports[0]}\n'
        f'[broker]\nkind = "{kind}"\nport = {ports[1]}\ntls_port = {ports[2]}\n'
    )
    listen = ["--listen", "127.0.0.1"] if kind == "mosquitto" else []
    out = folder / "up.json"
    with out.open("wb") as file:
        process = subprocess.Popen(
            [*EDGEKIT, "up", "--home", str(home), "--json", *listen], stdout=file
        )
    pids: list[int] = []
    try:
        until(lambda: out.stat().st_size or process.poll() is not None)
        assert process.poll() is None
        running = Running(home, json.loads(out.read_text()), kind)
        pids += running.said["parts"].values()
        for name in ("cam-1", "cam-2"):
            running.command("device", "add", name, "--target", "x86-64-vnni")
        for name in ("cam-1", "cam-2"):
            until(lambda name=name: is_let_in(running.device(name)))
        yield running
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


MOSQUITTO = pytest.param("mosquitto", marks=pytest.mark.mosquitto)
over_tls = pytest.mark.parametrize("fleet", [MOSQUITTO], indirect=True)


@pytest.fixture(scope="module", params=[MOSQUITTO, "amqtt"])
def fleet(request, tmp_path_factory) -> Iterator[Running]:
    if request.param == "amqtt":
        pytest.importorskip("amqtt")
    with fleet_of(tmp_path_factory.mktemp(request.param), request.param) as running:
        yield running


# ---- what a device may say and hear


def test_a_device_says_its_own_topics_alone(fleet):
    mine = [f"{ROOT}/cam-1/{leaf}" for leaf in ("telemetry", "state", "hello", "reported")]
    mine += [f"{ROOT}/cam-1/reply", f"{ROOT}/cam-1/output/door"]
    not_mine = [f"{ROOT}/cam-1/{leaf}" for leaf in ("desired", "command", "ack", "input/door", "x")]
    not_mine += [f"{ROOT}/{name}/telemetry" for name in ("cam-2", "cam-1x", "cam", "", ".web")]
    not_mine += [f"{ROOT}/cam-2/{leaf}" for leaf in ("state", "desired", "command", "output/door")]
    not_mine += [f"{ROOT}/cam-1", f"{ROOT}", "edgekit/1/other/cam-1/state", "cam-1/state"]
    not_mine += [f"/{ROOT}/cam-1/state", f"{ROOT}//cam-1/state", "edgekit-alerts/lab"]
    theirs = f"{ROOT}/cam-2/reported"
    with Client(fleet.itself) as everything, Client(fleet.device("cam-1")) as device:
        everything.hear(f"{ROOT}/#")
        everything.say(theirs, b"kept", retain=True)
        device.say(theirs, b"", retain=True)
        for topic in [*not_mine, *mine]:
            device.say(topic, b"by cam-1", retain=True)
        until(lambda: (mine[-1], b"by cam-1") in everything.heard, 20)
        said = [topic for topic, payload in everything.heard if payload == b"by cam-1"]
        assert sorted(said) == sorted(mine)
    with Client(fleet.itself) as later:
        later.hear(f"{ROOT}/#")
        until(lambda: (mine[-1], b"by cam-1") in later.heard, 20)
        kept = [topic for topic, payload in later.heard if payload == b"by cam-1"]
        assert sorted(kept) == sorted(mine), "nothing else was kept for later either"
        assert (theirs, b"kept") in later.heard, "and what was kept is not cleared"


def test_a_device_hears_its_own_topics_alone(fleet):
    own = (f"{ROOT}/cam-1/command", f"{ROOT}/cam-1/desired")
    with (
        Client(fleet.itself) as everything,
        Client(fleet.device("cam-2")) as owner,
        Client(fleet.device("cam-1")) as thief,
    ):
        owner.say(f"{ROOT}/cam-2/state", b"kept secret", retain=True)
        everything.say(f"{ROOT}/cam-2/desired", b"kept secret", retain=True)
        everything.say(own[1], b"mine", retain=True)
        thief.hear(*OTHERS, f"{ROOT}/cam-1/#")
        owner.hear(f"{ROOT}/cam-2/#")
        owner.say(f"{ROOT}/cam-2/reply", b"secret")
        everything.say(f"{ROOT}/cam-2/command", b"secret")
        everything.say(own[0], b"mine")
        until(lambda: {(topic, b"mine") for topic in own} <= set(thief.heard), 20)
        until(lambda: (f"{ROOT}/cam-2/command", b"secret") in owner.heard, 20)
        assert thief.client.is_connected()
        assert all(topic.startswith(f"{ROOT}/cam-1/") for topic, _ in thief.heard)
        assert (f"{ROOT}/cam-2/state", b"kept secret") in owner.heard


def test_what_is_kept_for_another_is_not_heard_whoever_asked_first(fleet):
    """The broker hands a new client what is kept for filters; those of others are not its own."""
    secret, mine = f"{ROOT}/cam-2/state", f"{ROOT}/cam-1/desired"
    with Client(fleet.itself) as everything, Client(fleet.device("cam-2")) as owner:
        everything.hear(f"{ROOT}/#")
        owner.hear(f"{ROOT}/cam-2/#", secret)
        owner.say(secret, b"kept secret", retain=True)
        everything.say(mine, b"mine", retain=True)
        for clean in (True, False):
            with Client(fleet.device("cam-1"), client_id="same", clean=clean) as thief:
                thief.hear(secret, f"{ROOT}/#", "#", mine)
                until(lambda thief=thief: (mine, b"mine") in thief.heard, 20)
            with Client(fleet.device("cam-1"), client_id="same", clean=clean) as again:
                again.hear(mine)
                until(lambda again=again: (mine, b"mine") in again.heard, 20)
            heard = [*thief.heard, *again.heard]
            assert all(topic.startswith(f"{ROOT}/cam-1/") for topic, _ in heard)


def test_what_waits_for_another_is_not_given_to_who_takes_its_client_id(fleet):
    mine, secret = f"{ROOT}/cam-1/command", f"{ROOT}/cam-2/command"
    with Client(fleet.device("cam-2"), client_id="edgekit-lab-cam-2", clean=False) as owner:
        owner.hear(secret)
    with Client(fleet.itself) as everything:
        everything.say(secret, b"waits")
        with Client(fleet.device("cam-1"), client_id="edgekit-lab-cam-2", clean=False) as thief:
            everything.say(secret, b"now")
            thief.hear(mine)
            everything.say(mine, b"mine")
            until(lambda: (mine, b"mine") in thief.heard, 20)
            assert {topic for topic, _ in thief.heard} == {mine}


def test_a_last_will_is_of_the_device_itself(fleet):
    with Client(fleet.itself) as everything:
        everything.hear(f"{ROOT}/#")
        bad = Client(fleet.device("cam-1"), will=f"{ROOT}/cam-2/hello")
        bad.open()
        until(lambda: bad.client.is_connected() or bad.reason, 20)
        if bad.client.is_connected():
            bad.drop()
        bad.__exit__()
        with Client(fleet.device("cam-1"), will=f"{ROOT}/cam-1/hello") as good:
            good.drop()
            until(lambda: (f"{ROOT}/cam-1/hello", b"will") in everything.heard, 20)
        wills = {topic for topic, payload in everything.heard if payload == b"will"}
        assert wills == {f"{ROOT}/cam-1/hello"}


def test_who_has_no_account_is_not_let_in(fleet):
    one, two = fleet.device("cam-1"), fleet.device("cam-2")
    assert is_let_in(one)
    for wrong in (
        replace(one, password=two.password),
        replace(one, password=""),
        replace(one, username="cam-2"),
        replace(one, username="cam-9"),
        replace(one, username=".web"),
        replace(one, username=""),
        replace(one, username=None, password=None),
    ):
        assert not is_let_in(wrong), wrong


def test_a_device_that_is_removed_is_hung_up_on(fleet):
    fleet.command("device", "add", "gone", "--target", "rpi5")
    account = fleet.device("gone")
    until(lambda: is_let_in(account))
    with Client(fleet.device("cam-1")) as other, Client(account) as gone:
        fleet.command("device", "remove", "gone")
        until(lambda: not gone.client.is_connected(), 20)
        assert other.client.is_connected()
    assert not is_let_in(account)


def test_nothing_is_kept_of_a_device_that_is_removed(fleet):
    """Neither what it said, nor its order, nor the will that it leaves when it is hung up on."""
    fleet.command("device", "add", "past", "--target", "rpi5")
    account = fleet.device("past")
    until(lambda: is_let_in(account))
    with Client(fleet.itself) as itself, Client(account, will=f"{ROOT}/past/state") as past:
        for leaf in ("state", "hello", "reported"):
            past.say(f"{ROOT}/past/{leaf}", b"said", retain=True)
        itself.say(f"{ROOT}/past/desired", b"order", retain=True)
        itself.say(f"{ROOT}/cam-1/desired", b"stays", retain=True)
        fleet.command("device", "remove", "past")
        until(lambda: not past.client.is_connected(), 20)
    with Client(fleet.itself) as later:
        later.hear(f"{ROOT}/#")
        until(lambda: (f"{ROOT}/cam-1/desired", b"stays") in later.heard, 20)
        time.sleep(0.5)
        assert [topic for topic, _ in later.heard if "/past/" in topic] == []


@pytest.mark.parametrize("kind", [MOSQUITTO])
def test_nothing_is_kept_of_a_device_that_is_removed_while_the_fleet_is_down(tmp_path, kind):
    """Mosquitto keeps it on the disk; the next start clears it."""
    gone, stays = (f"{ROOT}/{name}/hello" for name in ("cam-2", "cam-1"))
    with fleet_of(tmp_path, kind) as fleet:
        for name, topic in (("cam-2", gone), ("cam-1", stays)):
            with Client(fleet.device(name)) as device:
                device.say(topic, b"said", retain=True)
    fleet.command("device", "remove", "cam-2")
    up = [*EDGEKIT, "up", "--home", str(fleet.home), "--json"]
    with (tmp_path / "again.json").open("wb") as out:
        process = subprocess.Popen(up, stdout=out)
    try:
        until(lambda: (tmp_path / "again.json").stat().st_size or process.poll() is not None)

        def kept() -> list[str]:
            with Client(fleet.itself) as later:
                later.hear(gone, stays)
                until(lambda: stays in [topic for topic, _ in later.heard], 20)
                return [topic for topic, _ in later.heard]

        until(lambda: kept() == [stays])
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="no IPv6")
@pytest.mark.parametrize("kind", [MOSQUITTO, "amqtt"])
def test_a_fleet_on_ipv6_is_reached_at_what_it_prints(tmp_path, kind):
    ports = free_port(), free_port(), free_port()
    listen = f'listen = "::1"\ntls_port = {ports[2]}\n' if kind == "mosquitto" else ""
    (tmp_path / "fleet.toml").write_text(
        f'name = "lab"\n[http]\nhost = "::1"\nport = {ports[0]}\n'
        f'[broker]\nkind = "{kind}"\nhost = "::1"\nport = {ports[1]}\n{listen}'
    )
    with (tmp_path / "up.json").open("wb") as out:
        process = subprocess.Popen([*EDGEKIT, "up", "--home", str(tmp_path), "--json"], stdout=out)
    try:
        until(lambda: (tmp_path / "up.json").stat().st_size or process.poll() is not None)
        said = json.loads((tmp_path / "up.json").read_text())
        assert {place.rpartition(":")[0] for place in said["listens"].values()} == {"[::1]"}
        with urllib.request.urlopen(said["url"], timeout=20) as page:  # noqa: S310 - of our own
            assert page.status == 200
        running = Running(tmp_path, said, kind)
        running.command("device", "add", "cam-1", "--target", "x86-64-vnni")
        config = tmp_path / "devices" / "cam-1" / "agent.json"
        document = json.loads(config.read_text()) | {"http": {"port": free_port()}}
        assert document["broker"]["host"] == "::1"
        assert document["broker"]["port"] == (ports[2] if listen else ports[1])
        config.write_text(json.dumps(document))
        agent = [sys.executable, "-m", "edgekit.agent.main", "--config", str(config)]
        with subprocess.Popen(agent) as device:
            until(lambda: running.command("devices", "cam-1", "--state", "online")["devices"])
            device.terminate()
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


# ---- TLS


@over_tls
def test_a_devices_folder_says_tls_and_where(fleet):
    account = fleet.device("cam-1")
    assert fleet.said["listens"]["mqtts"] == f"127.0.0.1:{account.port}"
    assert account.ca_file is not None
    context = ssl.create_default_context(cafile=account.ca_file)
    with (
        socket.create_connection(("127.0.0.1", account.port), 20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        assert secure.version() in {"TLSv1.2", "TLSv1.3"}
    for path in (fleet.home / "broker").iterdir():
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077 or path.name == "passwords.lock"


@over_tls
def test_who_speaks_no_tls_is_not_let_in(fleet):
    one = fleet.device("cam-1")
    assert is_let_in(one)
    assert not is_let_in(replace(one, ca_file=None))
    assert is_let_in(one), "the broker lives"


@over_tls
def test_a_device_does_not_speak_to_a_broker_of_another_authority(fleet, tmp_path):
    one = fleet.device("cam-1")
    assert not is_let_in(replace(one, ca_file=Authority(tmp_path).path))


@over_tls
def test_the_plain_port_takes_no_tls_and_is_on_loopback(fleet):
    port, one = fleet.itself.port, fleet.device("cam-1")
    assert not is_let_in(replace(one, port=port))
    assert is_let_in(replace(one, port=port, ca_file=None))
    assert listening(fleet.said["parts"]["broker"]) == {
        ("127.0.0.1", port),
        ("127.0.0.1", one.port),
    }


def listening(pid: int) -> set[tuple[str, int]]:
    """Where a process listens, as the kernel has it."""
    own = {str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in own:
                host, _, port = words[1].rpartition(":")
                address = bytes.fromhex(host)
                text = socket.inet_ntoa(address[::-1]) if len(address) == 4 else host
                found.add((text, int(port, 16)))
    return found


@over_tls
def test_the_real_agent_comes_in_over_tls(fleet):
    config = fleet.home / "devices" / "cam-2" / "agent.json"
    document = json.loads(config.read_text()) | {"http": {"port": free_port()}}
    config.write_text(json.dumps(document))
    agent = subprocess.Popen([sys.executable, "-m", "edgekit.agent.main", "--config", str(config)])
    try:
        until(lambda: fleet.command("devices", "cam-2", "--state", "online")["devices"])
    finally:
        agent.terminate()
        agent.wait(30)


def test_amqtt_says_that_it_stays_on_loopback(tmp_path):
    (tmp_path / "fleet.toml").write_text(
        f'[http]\nport = {free_port()}\n[broker]\nkind = "amqtt"\nport = {free_port()}\n'
    )
    done = subprocess.run(
        [*EDGEKIT, "up", "--home", str(tmp_path), "--listen", "127.0.0.1"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 4
    assert "beyond loopback the broker must be mosquitto" in done.stderr
    what = "kind = " if find_mosquitto() else "apt install mosquitto"
    assert what in done.stderr, "the next step"
    assert not list((tmp_path / "run").glob("*.pid"))


@pytest.mark.mosquitto
def test_certificates_last_from_one_start_to_the_next(tmp_path):
    """What devices were given stays good."""
    assert find_mosquitto() is not None
    files: list[dict[str, bytes]] = []
    with ExitStack() as stack:
        running = stack.enter_context(fleet_of(tmp_path, "mosquitto"))
        account, home = running.device("cam-1"), running.home
        files.append({path.name: path.read_bytes() for path in (home / "broker").glob("*.pem")})
    assert set(files[0]) == {"ca.pem", "ca.key.pem", "server.pem", "server.key.pem"}
    process = subprocess.Popen(
        [*EDGEKIT, "up", "--home", str(home), "--listen", "127.0.0.1", "--quiet"],
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        assert is_let_in(account)
        files.append({path.name: path.read_bytes() for path in (home / "broker").glob("*.pem")})
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert files[0] == files[1]
