"""Ingest as a process beside a real mosquitto: nothing acknowledged is lost, nothing is doubled."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing

import duckdb
import pytest
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from edgekit.fleet.broker import credentials
from edgekit.fleet.broker.mosquitto import prepare
from edgekit.fleet.home import FleetHome
from edgekit.fleet.settings import Settings, write_settings
from edgekit.fleet.store import open_store, queries
from edgekit.fleet.store.writes import add_device
from edgekit.runtime.batches import pack
from edgekit.wire.messages import Batch, Hello, Message, State, parse_ack

from ..agent_broker import Broker, find_mosquitto, free_port  # noqa: TID252

pytestmark = [
    pytest.mark.mosquitto,
    pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed"),
]

FLEET = "north"
WAIT_S = 30.0


class Place:
    """A fleet's folder, a broker, and ingest as a process that may be killed."""

    def __init__(self, folder, port: int) -> None:
        self.home = FleetHome.create(folder / "fleet")
        settings = Settings(name=FLEET, broker_port=port)
        write_settings(self.home, settings)
        prepare(self.home, settings)
        self.engine = open_store(self.home.database)
        self.reader = queries.Reader(self.engine, self.home.raw)
        self.process: subprocess.Popen[bytes] | None = None
        self._log = (folder / "ingest.log").open("ab")

    def start(self) -> None:
        command = [sys.executable, "-m", "edgekit.fleet.ingest", str(self.home.path)]
        self.process = subprocess.Popen(command, stdout=self._log, stderr=self._log)

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(30)
            self.process = None

    def close(self) -> None:
        self.stop()
        self.engine.dispose()
        self._log.close()

    def rows(self) -> list[tuple]:
        files = self.reader.files()
        if not files:
            return []
        with closing(duckdb.connect(":memory:")) as duck:
            sql = "SELECT device, boot_id, seq FROM read_parquet(?) ORDER BY ALL"
            return duck.execute(sql, [files]).fetchall()


class Devices:
    """Devices of one connection, which send until they are acknowledged."""

    def __init__(self, port: int, user: tuple[str, str], names: list[str]) -> None:
        self.left: dict[str, set[int]] = {name: set() for name in names}
        self.sent: set[tuple[str, str, int]] = set()
        self.acked: set[tuple[str, str, int]] = set()
        self._lock = threading.Lock()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.username_pw_set(*user)
        self._client.on_message = self._on_ack
        self._client.connect("127.0.0.1", port)
        self._client.subscribe([(f"edgekit/1/{FLEET}/{name}/ack", 1) for name in names])
        self._client.loop_start()

    def boot_id(self, name: str) -> str:
        return f"{sorted(self.left).index(name) + 1:016x}"

    def send(self, name: str, numbers) -> None:
        boot_id = self.boot_id(name)
        messages = tuple(
            Message(boot_id, seq, 1795720800.0 + seq, "sample", values_of(seq)) for seq in numbers
        )
        with self._lock:
            self.left[name].update(message.seq for message in messages)
            self.left[name] -= {seq for n, _, seq in self.acked if n == name}
            self.sent.update((name, boot_id, message.seq) for message in messages)
        self.publish(name, "telemetry", pack(Batch(messages)))

    def publish(self, name: str, leaf: str, payload: bytes, *, retain: bool = False) -> None:
        self._client.publish(f"edgekit/1/{FLEET}/{name}/{leaf}", payload, qos=1, retain=retain)

    def again(self) -> None:
        for name, numbers in self.left.items():
            if numbers:
                self.send(name, sorted(numbers)[:50])

    def _on_ack(self, _client, _data, message) -> None:
        name = message.topic.split("/")[3]
        ack = parse_ack(message.payload)
        numbers = set(range(ack.first, ack.last + 1))
        with self._lock:
            self.left[name] -= numbers
            self.acked |= {(name, ack.boot_id, seq) for seq in numbers}

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def values_of(seq: int) -> dict:
    latency = {"error": 0.025, "sum_us": 8000, "buckets": [[180, 1]]}
    models = {"pets": {"requests": 1, "errors": 0, "latency_ms": latency}}
    return {"vitals": {"temp_c": 40.0 + seq % 10, "cpu_share": 0.5}, "models": models}


@pytest.fixture
def broker(tmp_path):
    port = free_port()
    place = Place(tmp_path, port)
    home = place.home
    lines = f"allow_anonymous false\npassword_file {home.broker}/passwords"
    made = Broker(tmp_path / "broker", lines)
    made.port = port
    text = (tmp_path / "broker" / "mosquitto.conf").read_text()
    first, rest = text.split("\n", 1)
    (tmp_path / "broker" / "mosquitto.conf").write_text(f"listener {port} 127.0.0.1\n{rest}")
    assert first.startswith("listener")
    made.start()
    yield made, place
    place.close()
    made.stop()


def until(condition, what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_what_is_killed_at_random_loses_and_doubles_nothing(broker):
    _, place = broker
    names = [f"cam-{i}" for i in range(5)]
    for name in names:
        add_device(place.engine, name, {}, time.time())
    devices = Devices(broker[0].port, credentials(place.home, "web"), names)
    rng = random.Random(5)  # noqa: S311 - a test
    place.start()
    for round_ in range(3):
        for step in range(12):
            for name in names:
                first = (round_ * 12 + step) * 10
                devices.send(name, range(first, first + 10))
            if step % 4 == 3:
                devices.again()  # whether or not it was lost: repeats must be harmless
            time.sleep(rng.uniform(0.01, 0.15))
        place.stop(signal.SIGKILL)
        place.start()
    deadline = time.monotonic() + WAIT_S
    while any(devices.left.values()):
        assert time.monotonic() < deadline, "not everything was acknowledged"
        devices.again()
        time.sleep(1.0)
    place.stop()
    rows = place.rows()
    assert len(rows) == len(set(rows)), "something is doubled"
    assert set(rows) >= devices.acked
    assert set(rows) == devices.sent
    done = queries.windows(place.reader, 0.0, time.time() + 600)
    assert {key: found[0] for key, found in done.items()} == {(n, "pets"): 360 for n in names}
    everybody = queries.latency(place.reader, since_s=0.0, until_s=time.time() + 600)
    assert sum(point.n for point in everybody) == 1800
    for name in names:
        (gaps,) = queries.device(place.reader, name).gaps
        assert (gaps.have, gaps.missing, list(gaps.ranges)) == (360, 0, [(0, 359)])
    devices.close()


def test_a_device_shows_what_it_says_and_a_stranger_is_refused(broker):
    made, place = broker
    add_device(place.engine, "cam-0", {"site": "north"}, time.time())
    devices = Devices(made.port, credentials(place.home, "web"), ["cam-0", "stranger"])
    place.start()
    boot_id = devices.boot_id("cam-0")
    hello = Hello(boot_id, 1.0, "0.1.0", "rpi5", "aarch64", facts={"python": "3.11.2"})
    devices.publish("cam-0", "hello", hello.to_bytes(), retain=True)
    state = State("online", boot_id, 1.0, "connected")
    devices.publish("cam-0", "state", state.to_bytes(), retain=True)
    devices.publish("cam-0", "telemetry", b"not a batch")
    until(lambda: queries.device(place.reader, "cam-0").row.online, "the device never came")
    devices.send("cam-0", range(3))
    devices.send("stranger", range(3))
    until(lambda: not devices.left["cam-0"], "no ack came")
    drops = {"name": "drops", "boots": [{"boot_id": boot_id, "issued": 9, "drops": {"cap": 2}}]}
    devices.publish("cam-0", "telemetry", pack(Batch((Message(boot_id, 6, 1.0, "event", drops),))))
    until(lambda: queries.events(place.reader, device="cam-0"), "the event never came")
    page = queries.devices(place.reader, labels={"site": "north"}, state="online")
    (row,) = page.rows
    assert (row.name, row.target, row.version, row.temp_c) == ("cam-0", "rpi5", "0.1.0", 42.0)
    assert row.p95_ms["pets"] > 0
    detail = queries.device(place.reader, "cam-0")
    assert detail.facts == {"python": "3.11.2"}
    (gaps,) = detail.gaps
    assert (gaps.have, gaps.issued, gaps.dropped, gaps.missing) == (4, 9, 2, 3)
    values = [value for _, value in queries.series(place.reader, "cam-0", "temp_c", 0, 4e9)]
    assert values == [40.0, 41.0, 42.0]
    place.stop()
    assert devices.left["stranger"] == {0, 1, 2}, "a stranger was acknowledged"
    assert {device for device, *_ in place.rows()} == {"cam-0"}
    devices.close()


def test_counts_of_what_was_refused_are_told(broker):
    made, place = broker
    add_device(place.engine, "cam-0", {}, time.time())
    devices = Devices(made.port, credentials(place.home, "web"), ["cam-0", "stranger"])
    place.start()

    def counts() -> dict:
        with closing(sqlite3.connect(place.home.database)) as store:
            row = store.execute("SELECT counts FROM ingest_state").fetchone()
        return json.loads(row[0]) if row else {}

    until(lambda: bool(counts()), "never alive")
    devices.publish("cam-0", "telemetry", b"not a batch")
    devices.send("stranger", range(3))
    devices.publish("cam-0", "hello", b"x" * 70_000)
    wanted = {"refused_schema": 1, "refused_unknown_device": 1, "refused_too_large": 1}
    until(lambda: wanted.items() <= counts().items(), "refusals are not counted")
    assert queries.ingest(place.reader).status == "running"
    devices.close()
