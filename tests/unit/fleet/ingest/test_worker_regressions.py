"""What one device may send, and when it is removed, stops ingest for nobody."""

from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa

from edgekit.fleet.ingest import worker as module
from edgekit.fleet.ingest.collect import Pending, gather
from edgekit.fleet.ingest.decode import Telemetry
from edgekit.fleet.ingest.inbox import Arrived, Inbox
from edgekit.fleet.ingest.worker import Pace
from edgekit.fleet.store import queries
from edgekit.fleet.store.schema import last_state
from edgekit.fleet.store.writes import add_device, remove_device
from edgekit.runtime.batches import pack
from edgekit.wire.messages import Batch, Message, Reply, State

from .test_worker import BOOT, NOW_S, Bench, Memory, arrived, message_of


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    add_device(made.engine, "cam-1", {}, NOW_S)
    yield made
    made.engine.dispose()


def large(seq: int, mib: int = 3) -> Arrived:
    """A batch of a few MiB that compresses to next to nothing."""
    texts = ["x" * 4000] * (mib * 1024 * 1024 // 4003)
    payload = pack(Batch((Message(BOOT, seq, 1.0, "sample", {"a": texts}),)))
    return Arrived("edgekit/1/north/cam-1/telemetry", payload, NOW_S, is_retained=False)


def test_large_batches_are_stored_in_parts_that_duckdb_can_hold(bench):
    worker = bench.worker(Pace(flush_s=60.0, retry_s=0.01))
    for seq in range(30):
        bench.inbox.put(large(seq))
    stop = threading.Event()
    # It would try for ever what it can never store.
    timer = threading.Timer(30.0, stop.set)
    timer.start()
    worker.step(stop)
    timer.cancel()
    assert worker.counts["flushes"] >= 4
    assert worker._pending.size_bytes < Pace().max_bytes
    for seq in range(30, 60):
        bench.inbox.put(large(seq))
    stop.set()
    worker.run(stop)
    assert queries.ingest(bench.reader).detail == ""
    assert bench.numbers() == list(range(60))


def test_what_cannot_be_stored_while_it_is_told_to_stop_is_not_gathered(bench):
    worker = bench.worker(Pace(flush_s=60.0, retry_s=0.01, min_free_bytes=1 << 62))
    for seq in range(60):
        bench.inbox.put(large(seq))
    stop = threading.Event()
    stop.set()
    worker.step(stop)
    assert worker._pending.size_bytes < 2 * Pace().max_bytes
    worker.run(stop)
    assert worker._pending.size_bytes < 3 * Pace().max_bytes
    assert bench.acks == []


def test_replies_alone_are_stored_in_time(bench, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    worker = bench.worker(Pace(flush_s=1.0))
    for number in range(5):
        payload = Reply(f"ui-{number}", True, {"pong": 5}).to_bytes()
        topic = "edgekit/1/north/cam-1/reply"
        bench.inbox.put(Arrived(topic, payload, NOW_S, is_retained=False))
        worker.step(threading.Event())
        clock[0] += 0.6
    assert len(queries.events(bench.reader)) >= 3


def test_the_will_of_a_device_that_is_removed_leaves_no_state(bench):
    worker = bench.worker()
    will = State("offline", BOOT, 1.0, "lost").to_bytes()
    worker._take([Arrived("edgekit/1/north/cam-1/state", will, NOW_S, False), arrived(0)])
    remove_device(bench.engine, "cam-1", NOW_S)
    worker._store()
    with bench.engine.connect() as connection:
        assert connection.execute(sa.select(last_state)).all() == []
    assert bench.acks == [(0, 0)]
    add_device(bench.engine, "cam-1", {}, NOW_S)
    assert queries.summary(bench.reader).never_seen == 1


def test_a_file_begins_with_its_earliest_message_though_the_clock_was_set_back():
    pending, known = Pending(), Memory()
    for seq, received_s in ((0, NOW_S), (1, NOW_S - 30), (2, NOW_S + 1)):
        gather(pending, known, Telemetry("cam-1", [message_of(seq).to_json()]), received_s)
    assert (pending.first_s, pending.last_s) == (NOW_S - 30, NOW_S + 1)


def test_a_series_holds_finite_numbers_alone(bench):
    worker = bench.worker()
    values = ["inf", "-Infinity", "nan", "NaN", True, None, [1], 7.5, "8"]
    messages = [
        Message(BOOT, seq, 1.0, "sample", {"vitals": {"clock_mhz": value}})
        for seq, value in enumerate(values)
    ]
    topic = "edgekit/1/north/cam-1/telemetry"
    worker._take([Arrived(topic, pack(Batch(tuple(messages))), NOW_S, is_retained=False)])
    worker._store()
    found = queries.series(bench.reader, "cam-1", "clock_mhz", 0.0, NOW_S + 1)
    assert [value for _, value in found] == [7.5, 8.0]


def test_what_is_refused_is_said_with_its_device_and_not_every_second(bench, caplog):
    worker = bench.worker()
    for _ in range(3):
        worker._take([Arrived("edgekit/1/north/cam-1/telemetry", b"x", NOW_S, False)])
        worker._take([Arrived("edgekit/1/north/cam-9/hello", b"{}", NOW_S, False)])
    first, second = caplog.messages
    assert first.startswith("cam-1: ")
    assert "not a zstd frame" in first
    assert second.startswith("cam-9: ")
    assert "edgekit fleet device add" in second
    assert worker.counts["refused_schema"] == 3


def test_an_ingest_that_hears_nothing_says_so(bench):
    said = ["there is no connection"]
    worker = module.Worker(
        bench.engine, bench.folder / "raw", "north", Inbox(), lambda *_: None,
        trouble=lambda: said[0],
    )  # fmt: skip
    told = []
    for text in ("there is no connection", "", "the broker refuses ingest", ""):
        said[0] = text
        worker._inbox.put(Arrived("x", b"", NOW_S, False))
        worker.step(threading.Event())
        row = queries.ingest(bench.reader)
        told.append((row.status, row.detail))
    assert told == [
        ("waiting", "there is no connection"),
        ("running", ""),
        ("waiting", "the broker refuses ingest"),
        ("running", ""),
    ]
