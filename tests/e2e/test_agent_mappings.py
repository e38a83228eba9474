"""The mappings of a whole agent at a real mosquitto: Home Assistant and Sparkplug B."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from edgekit.agent.mappings.sparkplug import REBIRTH

from ..agent_board import DEVICE, FLEET, MODEL, Board, sample_of, settings_for, until  # noqa: TID252
from ..agent_broker import Broker  # noqa: TID252
from ..protobuf_reader import sparkplug  # noqa: TID252

pytestmark = pytest.mark.mosquitto
NODE = f"spBv1.0/{FLEET}/%s/{DEVICE}"
# NCMD with the metric "Node Control/Rebirth" (field 1), Boolean (4: 11), true (14: 1), by hand.
ASK = bytes([0x12, 2 + 20 + 2 + 2, 0x0A, 20, *REBIRTH.encode(), 0x20, 11, 0x70, 1])


class Ear:
    """Hears topics and keeps what was said: (topic, payload, retained)."""

    def __init__(self, port: int, *filters: str) -> None:
        self.heard: list[tuple[str, bytes, bool]] = []
        ready = threading.Event()
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self.client.on_message = lambda _c, _d, m: self.heard.append((m.topic, m.payload, m.retain))
        self.client.on_subscribe = lambda *_: ready.set()
        self.client.on_connect = lambda c, *_: c.subscribe([(f, 1) for f in filters])
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert ready.wait(10)

    def of(self, topic: str) -> list[bytes]:
        return [payload for place, payload, _ in list(self.heard) if place == topic]

    def stop(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path / "broker") as running:
        yield running


@pytest.fixture
def board(tmp_path, small_bundle, broker) -> Iterator[Board]:
    folder = tmp_path / "board"
    folder.mkdir()
    made = Board(folder, small_bundle.private_key, settings_for(small_bundle, broker.port))
    yield made
    if made.process is not None and made.process.poll() is None:
        made.kill()


def test_home_assistant_finds_the_device_later(board, broker, small_bundle):
    board.settings["mappings"] = {"home_assistant": {"prefix": "ha", "period_s": 0.3}}
    board.start()
    until(board.serves)
    board.infer(sample_of(small_bundle))
    place = f"ha/device/{FLEET}/{DEVICE}"
    early = Ear(broker.port, f"{place}/values")
    until(lambda: any(MODEL in json.loads(v)["models"] for v in early.of(f"{place}/values")))
    early.stop()

    # As Home Assistant after a restart: what is retained must do.
    ear = Ear(broker.port, "ha/#")
    config = json.loads(until(lambda: ear.of(f"{place}/config"))[0])
    assert ear.heard[0][2], "retained"
    state = Ear(broker.port, config["availability_topic"])
    assert json.loads(until(lambda: state.heard)[0][1])["status"] == config["payload_available"]
    keys = set(config["components"])
    assert {"cpu_share", "rss_bytes", f"{MODEL}-requests", f"{MODEL}-errors"} <= keys

    def counted():
        last = json.loads(ear.of(config["state_topic"])[-1])["models"][MODEL]
        return last if last["requests"] and "p95_ms" in last else None

    until(lambda: ear.of(config["state_topic"]))
    assert until(counted)["errors"] == 0
    # A broker that forgets is told again.
    ear.stop()
    broker.stop()
    broker.start()
    ear = Ear(broker.port, f"{place}/config")
    until(lambda: json.loads((ear.of(f"{place}/config") or [b"null"])[0]) == config)

    board.kill(signal.SIGKILL)
    until(lambda: json.loads(state.heard[-1][1])["status"] == config["payload_not_available"])
    ear.stop()
    state.stop()


def test_sparkplug_birth_data_rebirth_and_death(board, broker, small_bundle):
    pytest.importorskip("google.protobuf")
    board.settings["mappings"] = {"sparkplug": {"period_s": 0.2}}
    ear = Ear(broker.port, "spBv1.0/#")
    birth_at, data_at, death_at = (NODE % kind for kind in ("NBIRTH", "NDATA", "NDEATH"))
    board.start()
    until(board.confirmed)  # a trial asks the model itself
    name = f"Models/{MODEL}/requests"

    def births():
        return [sparkplug(payload) for payload in ear.of(birth_at)]

    until(lambda: any(name in birth["metrics"] for birth in births()))
    assert "Vitals/rss_bytes" in births()[0]["metrics"], "a birth waits for the first sample"

    def requests():
        told = [sparkplug(p)["metrics"] for place, p, _ in list(ear.heard) if place != death_at]
        return [metrics[name][1] for metrics in told if name in metrics]

    answered = requests()[-1]
    for _ in range(300):
        board.infer(sample_of(small_bundle))
    until(lambda: requests()[-1] == answered + 300)

    before = len(births())
    ear.client.publish(NODE % "NCMD", ASK, qos=1)
    until(lambda: len(births()) > before)
    assert births()[-1]["metrics"][name] == (4, answered + 300)
    ear.client.publish(NODE % "NCMD", b"\xff\xff nonsense", qos=1)
    seen = len(ear.of(data_at))
    until(lambda: len(ear.of(data_at)) > seen)
    in_order(ear, birth_at, data_at)

    board.kill(signal.SIGKILL)
    (death,) = until(lambda: ear.of(death_at))
    first = births()[0]["metrics"]["bdSeq"]
    assert sparkplug(death)["metrics"] == {"bdSeq": first}
    assert "seq" not in sparkplug(death)
    assert not any(retained for *_, retained in ear.heard)

    before = len(births())
    board.start()
    until(lambda: len(births()) > before)
    assert births()[-1]["metrics"]["bdSeq"] == (4, (first[1] + 1) % 256)
    assert board.kill(signal.SIGTERM) == 0
    until(lambda: len(ear.of(death_at)) == 2)
    ear.stop()


def in_order(ear: Ear, birth_at: str, data_at: str) -> None:
    """Every metric that data tells was in a birth before, and the sequence has no gap."""
    known: set[str] = set()
    expected = 0
    for place, payload, _ in list(ear.heard):
        if place not in (birth_at, data_at):
            continue
        read = sparkplug(payload)
        if place == birth_at:
            known, expected = set(read["metrics"]), 0
        assert read["seq"] == expected
        assert set(read["metrics"]) <= known
        expected = (expected + 1) % 256


def test_what_is_off_is_not_imported(board, small_bundle):
    board.start()
    until(board.serves)
    maps = Path(f"/proc/{board.process.pid}/maps").read_text()
    assert "google/_upb" not in maps
    assert "onnxruntime" in maps, "what is imported would be seen"
