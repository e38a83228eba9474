"""A worker that dies anywhere, or cannot write, loses nothing acknowledged and doubles nothing."""

from __future__ import annotations

import sqlite3
import threading
import time

import duckdb
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from edgekit.fleet.ingest import collect
from edgekit.fleet.ingest import worker as module
from edgekit.fleet.ingest.collect import MAX_RUNS, Pending, Process, gather
from edgekit.fleet.ingest.decode import Telemetry
from edgekit.fleet.ingest.inbox import Arrived, Inbox
from edgekit.fleet.ingest.ranges import Ranges
from edgekit.fleet.ingest.sums import Sums
from edgekit.fleet.ingest.worker import Pace, Worker
from edgekit.fleet.store import open_store, queries
from edgekit.fleet.store.schema import high_water, raw_files
from edgekit.fleet.store.writes import add_device, remove_device
from edgekit.runtime.batches import pack
from edgekit.runtime.sketches import LatencyHistogram
from edgekit.wire.messages import Batch, Message, Reply, acks_for

BOOT = "5f0c2a9e41d7b380"
NOW_S = 1_795_720_800.0


def message_of(seq: int, latency_ms: float = 10.0) -> Message:
    histogram = LatencyHistogram()
    histogram.add(latency_ms)
    models = {"pets": {"requests": 1, "errors": seq % 2, "latency_ms": histogram.to_json()}}
    return Message(BOOT, seq, 1.0, "sample", {"vitals": {"temp_c": 50.5}, "models": models})


def arrived(*numbers: int, received_s: float = NOW_S) -> Arrived:
    payload = pack(Batch(tuple(message_of(seq) for seq in numbers)))
    return Arrived("edgekit/1/north/cam-1/telemetry", payload, received_s, is_retained=False)


class Bench:
    def __init__(self, folder) -> None:
        self.folder = folder
        self.engine = open_store(folder / "fleet.db")
        self.acks: list[tuple[int, int]] = []
        self.reader = queries.Reader(self.engine, folder / "raw")

    def worker(self, pace: Pace | None = None) -> Worker:
        def tell(_device, ack):
            self.acks.append((ack.first, ack.last))

        self.inbox = Inbox()
        return Worker(self.engine, self.folder / "raw", "north", self.inbox, tell, pace)

    def numbers(self) -> list[int]:
        files = self.reader.files()
        if not files:
            return []
        sql = "SELECT seq FROM read_parquet(?) ORDER BY seq"
        return [seq for (seq,) in duckdb.execute(sql, [files]).fetchall()]


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    add_device(made.engine, "cam-1", {}, NOW_S)
    yield made
    made.engine.dispose()


def test_what_came_is_stored_and_then_acknowledged(bench):
    worker = bench.worker()
    worker._take([arrived(0, 1, 2, 5)])
    assert bench.acks == []
    worker._store()
    assert bench.acks == [(0, 2), (5, 5)]
    assert bench.numbers() == [0, 1, 2, 5]


def test_a_repeat_is_acknowledged_and_not_stored(bench):
    worker = bench.worker()
    worker._take([arrived(0, 1), arrived(1, 2)])
    worker._store()
    later = bench.worker()
    later._take([arrived(0, 1, 2, 3)])
    later._store()
    assert bench.numbers() == [0, 1, 2, 3]
    assert bench.acks == [(0, 2), (0, 3)]
    assert (worker.counts["repeated"], later.counts["repeated"]) == (1, 3)
    (found,) = queries.windows(bench.reader, 0, NOW_S + 600).values()
    assert (found[0], found[1], found[2].count) == (4, 2, 4)


@pytest.mark.parametrize("where", ["write_lines", "commit", "after"])
def test_a_death_at_any_step_is_made_good_by_the_repeat(bench, monkeypatch, where):
    class DeathError(BaseException):
        pass

    def die(*_args, **_more):
        raise DeathError

    worker = bench.worker()
    worker._take([arrived(0, 1)])
    if where == "write_lines":
        monkeypatch.setattr(module.raw, "sync_folder", die)
    elif where == "commit":
        monkeypatch.setattr(worker._ledger, "commit", die)
    else:
        monkeypatch.setattr(worker, "_tell", die)
    with pytest.raises(DeathError):
        worker._store()
    monkeypatch.undo()
    assert bench.acks == []
    again = bench.worker()
    again._take([arrived(0, 1)])
    again._store()
    assert bench.numbers() == [0, 1]
    assert bench.acks == [(0, 1)]
    assert len(list((bench.folder / "raw").glob("*/*.parquet"))) == 1, "an orphan is left"


def test_a_full_disk_makes_it_wait_and_go_on(bench):
    stop = threading.Event()
    done: list[Worker] = []

    def work():
        # SQLite's connection belongs to the thread that made it.
        made = bench.worker(Pace(flush_s=0.0, retry_s=0.01, min_free_bytes=1 << 62))
        done.append(made)
        bench.inbox.put(arrived(0, 1))
        made.run(stop)

    thread = threading.Thread(target=work)
    thread.start()
    deadline = time.monotonic() + 20
    while (row := queries.ingest(bench.reader)) is None or row.status != "waiting":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "disk is full" in row.detail
    assert bench.acks == []
    done[0]._pace = Pace(flush_s=0.0)
    while not bench.acks or queries.ingest(bench.reader).status != "running":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    stop.set()
    thread.join()
    assert bench.numbers() == [0, 1]


def test_a_transaction_that_fails_is_tried_again_with_the_same_file(bench, monkeypatch):
    worker = bench.worker()
    worker._take([arrived(0)])
    real = worker._ledger._write

    def fail(cursor, pending, file):
        real(cursor, pending, file)
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(worker._ledger, "_write", fail)
    assert "disk is full" in worker._try_store()
    with bench.engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(high_water)) == 0
        assert connection.scalar(sa.select(sa.func.count()).select_from(raw_files)) == 0
    monkeypatch.undo()
    assert not worker._try_store()
    assert bench.numbers() == [0]
    assert bench.acks == [(0, 0)]


def test_a_removed_device_is_refused(bench):
    remove_device(bench.engine, "cam-1", NOW_S)
    worker = bench.worker()
    worker._take([arrived(0)])
    assert worker._pending.is_empty
    assert worker.counts["refused_unknown_device"] == 1


class Memory:
    def __init__(self) -> None:
        self.processes: dict = {}
        self.all_sums: dict = {}

    def process(self, device, boot_id):
        return self.processes.setdefault((device, boot_id), Process(Ranges()))

    def sums(self, key):
        return self.all_sums.setdefault(key, Sums())

    def is_spilled(self, _mark, _seq):
        return False


def rows_of(numbers) -> list[dict]:
    one = message_of(0).to_json()
    return [one | {"seq": seq} for seq in numbers]


def test_a_game_with_gaps_ends(monkeypatch, caplog):
    monkeypatch.setattr(collect, "MAX_SPILLED", MAX_RUNS)
    pending, known = Pending(), Memory()
    for start in range(0, 6 * MAX_RUNS, 1000):
        gather(
            pending, known, Telemetry("cam-1", rows_of(range(2 * start, 2 * start + 2000, 2))), 1
        )
    process = known.process("cam-1", BOOT)
    assert len(process.have) == MAX_RUNS
    assert process.count == pending.counts["messages"] == 2 * MAX_RUNS
    assert pending.counts["refused_gaps"] > 0
    assert caplog.text.count("cam-1") == 1
    # What fills a gap is taken all the same.
    seq = process.floor + 1
    gather(pending, known, Telemetry("cam-1", rows_of([seq])), NOW_S)
    assert seq in process.have


def test_a_process_with_many_gaps_is_wholly_acknowledged_and_nothing_doubled(bench):
    """Every second number first, all of it again after a restart, and what is missing at last."""
    count = 5 * MAX_RUNS
    even, odd = range(0, count, 2), range(1, count, 2)
    for numbers in (even, even, odd, range(count)):
        worker, bench.acks = bench.worker(), []
        for start in range(0, len(numbers), 3000):
            gather(
                worker._pending,
                worker._ledger,
                Telemetry("cam-1", rows_of(numbers[start : start + 3000])),
                NOW_S,
            )
            if start == 3000:
                worker._store()
            process = worker._ledger.process("cam-1", BOOT)
            assert len(process.have) <= MAX_RUNS
        worker._store()
        acked = {n for first, last in bench.acks for n in range(first, last + 1)}
        assert acked == set(numbers)
    assert bench.numbers() == list(range(count))
    with bench.engine.connect() as connection:
        assert connection.execute(sa.select(high_water.c.have, high_water.c.top)).one() == (
            count,
            count - 1,
        )


def test_a_reply_that_comes_twice_is_stored_once_also_after_a_restart(bench):
    def reply(name: str) -> Arrived:
        payload = Reply(name, ok=True, result={"pong": 1}).to_bytes()
        return Arrived("edgekit/1/north/cam-1/reply", payload, NOW_S, is_retained=False)

    worker = bench.worker()
    worker._take([reply("a"), reply("a"), reply("b")])
    worker._store()
    worker._take([reply("a")])
    worker._store()
    again = bench.worker()
    again._take([reply("b"), reply("c")])
    again._store()
    told = [event.values["id"] for event in queries.events(bench.reader, device="cam-1")]
    assert sorted(told) == ["a", "b", "c"]


@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=8), max_size=8))
def test_acks_are_those_of_the_wire(batches):
    pending, known = Pending(), Memory()
    said = [message_of(seq) for batch in batches for seq in batch]
    for batch in batches:
        rows = [message_of(seq).to_json() for seq in batch]
        gather(pending, known, Telemetry("cam-1", rows), NOW_S)
    assert tuple(ack for _, ack in pending.ack_messages()) == acks_for(said)
    assert pending.counts["messages"] == len({message.seq for message in said})


@given(st.lists(st.floats(0.01, 1e5), min_size=1, max_size=30))
def test_sums_are_what_the_sketch_makes(latencies):
    whole, sums = LatencyHistogram(), Sums()
    for latency_ms in latencies:
        one = LatencyHistogram()
        one.add(latency_ms)
        whole = whole.merged(one)
        sums.add_model({"requests": 1, "latency_ms": one.to_json()})
    assert (sums.buckets, sums.sum_us) == (dict(whole.buckets), whole.sum_us)


def test_a_device_that_has_just_come_is_heard_from_its_first_word(bench):
    worker = bench.worker(Pace(devices_s=3600))
    batch = arrived(0)
    other = Arrived(batch.topic.replace("cam-1", "cam-2"), batch.payload, NOW_S, is_retained=False)
    worker._take([other])
    assert worker.counts["refused_unknown_device"] == 1
    add_device(bench.engine, "cam-2", {}, NOW_S)
    worker._take([other])
    assert worker.counts["refused_unknown_device"] == 1
    worker._store()
    assert bench.acks == [(0, 0)]
