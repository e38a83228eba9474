"""What comes from the network makes no sense: 10,000 MQTT messages to the real ingest."""

from __future__ import annotations

import random
import sys
import time

import psutil
import pytest

from edgekit.fleet.broker import credentials
from edgekit.fleet.store import queries
from edgekit.fleet.store.writes import add_device
from edgekit.runtime.batches import pack
from edgekit.wire.messages import Batch, Hello, Message, State

from ..agent_broker import find_mosquitto  # noqa: TID252
from .test_fleet_ingest import Devices, broker, until, values_of

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["broker"]  # a fixture
pytestmark = [
    pytest.mark.mosquitto,
    pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed"),
]
MESSAGES = 10_000
LEAVES = ("telemetry", "telemetry", "hello", "state", "reported", "reply", "odd")


def noise(rng: random.Random, _: bytes) -> bytes:
    return rng.randbytes(rng.randrange(400))


def cut(rng: random.Random, payload: bytes) -> bytes:
    return payload[: rng.randrange(len(payload) + 1)]


def flipped(rng: random.Random, payload: bytes) -> bytes:
    found = bytearray(payload)
    for _ in range(rng.randrange(1, 8)):
        found[rng.randrange(len(found))] = rng.randrange(256)
    return bytes(found)


def nested(rng: random.Random, _: bytes) -> bytes:
    text = b"[" * rng.randrange(1, 60_000)
    return rng.choice([text, zstd.compress(text)])


def bomb(rng: random.Random, _: bytes) -> bytes:
    return zstd.compress(b" " * rng.randrange(1, 40_000_000))


def odd_values(rng: random.Random, payload: bytes) -> bytes:
    odd = rng.choice([b"-1e308", b"1e999", b"9" * 400, b"null", b"NaN"])
    name = rng.choice([b'"\\ud800"', b'"\\u0000"', b"{}", b"[]"])
    return payload.replace(b"1.0", odd).replace(b'"cam-0"', name)


KINDS = (noise, cut, flipped, flipped, flipped, nested, bomb, odd_values)


def payloads() -> list[bytes]:
    boot_id = "00000000000000ff"
    messages = tuple(Message(boot_id, seq, 1.0, "sample", values_of(seq)) for seq in range(3))
    return [
        pack(Batch(messages)),
        Hello(boot_id, 1.0, "0.1.0", "rpi5", "aarch64", facts={"name": "cam-0"}).to_bytes(),
        State("online", boot_id, 1.0, "connected").to_bytes(),
    ]


def test_ten_thousand_messages_that_make_no_sense_stop_nothing(broker):
    made, place = broker
    for name in ("cam-0", "cam-1"):
        add_device(place.engine, name, {}, time.time())
    devices = Devices(made.port, credentials(place.home, "web"), ["cam-0", "cam-1"])
    rng, good = random.Random(11), payloads()  # noqa: S311 - a test
    place.start()
    until(lambda: queries.ingest(place.reader) is not None, "ingest never ran")
    assert place.process is not None
    process, sizes = psutil.Process(place.process.pid), []
    for first in range(0, MESSAGES, MESSAGES // 5):
        for _ in range(MESSAGES // 5):
            devices.publish("cam-0", rng.choice(LEAVES), rng.choice(KINDS)(rng, rng.choice(good)))
        devices.send("cam-1", range(first // 100, first // 100 + 20))
        until(lambda: not devices.left["cam-1"], "a device that makes sense is not acknowledged")
        sizes.append(process.memory_info().rss)
    until(lambda: sum(refused(place).values()) > MESSAGES / 2, "refusals are not counted")
    assert place.process.poll() is None
    assert max(sizes[2:]) < 1.25 * sizes[1], "ingest grows by what makes no sense"
    assert set(place.rows()) >= devices.acked
    devices.close()


def refused(place) -> dict[str, int]:
    found = queries.ingest(place.reader)
    counts = {} if found is None else found.counts
    return {key: count for key, count in counts.items() if key.startswith("refused")}
