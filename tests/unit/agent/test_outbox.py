"""The outbox: order, cap, acknowledgements, and what the disk may do to it."""

from __future__ import annotations

import resource
import signal
import sqlite3
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgekit.agent.outbox import MAX_BOOTS_TOLD, MAX_EMPTY_BOOTS, Outbox
from edgekit.agent.outbox_file import OLDER, Boot, fold_oldest, save_boots
from edgekit.wire.messages import Ack, Batch, Message, acks_for

CAP = 1 << 20


def boot_id(number: int) -> str:
    return f"{number:016x}"


def opened(folder: Path, number: int = 1, cap: int = CAP, clock=lambda: 5.0) -> Outbox:
    return Outbox(folder / "outbox.db", cap, boot_id(number), clock)


def drain(outbox: Outbox, **limits: int) -> list[Message]:
    messages: list[Message] = []
    while batch := outbox.batch(**limits):
        messages += batch.messages
        for ack in acks_for(batch.messages):
            outbox.acknowledge(ack)
    return messages


def keys(batch: Batch | None) -> list[tuple[int, int]]:
    return [(int(m.boot_id, 16), m.seq) for m in batch.messages] if batch else []


def told(messages: list[Message]) -> dict[str, dict[str, object]]:
    """Return what the last ``drops`` event of each process says."""
    found = {}
    for message in messages:
        if message.kind == "event" and message.values.get("name") == "drops":
            for row in message.values["boots"]:  # type: ignore[union-attr]
                found[row["boot_id"]] = row  # type: ignore[index,call-overload]
    return found  # type: ignore[return-value]


def test_messages_come_out_in_order_and_stay_until_acknowledged(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    assert [outbox.put("sample", {"i": i}) for i in range(5)] == [0, 1, 2, 3, 4]
    assert keys(outbox.batch()) == keys(outbox.batch()) == [(1, i) for i in range(5)]
    assert outbox.acknowledge(Ack(boot_id(1), 1, 2)) == 2
    assert keys(outbox.batch()) == [(1, 0), (1, 3), (1, 4)]
    first = outbox.batch()
    assert first is not None
    assert first.messages[0] == Message(boot_id(1), 0, 5.0, "sample", {"i": 0})


def test_a_batch_is_limited_and_the_next_one_goes_on_from_it(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    for i in range(10):
        outbox.put("sample", {"i": i})
    one = outbox.batch(max_messages=4)
    assert keys(one) == [(1, i) for i in range(4)]
    assert keys(outbox.batch(max_messages=4, after=(boot_id(1), 3))) == [
        (1, i) for i in range(4, 8)
    ]
    assert len(keys(outbox.batch(max_bytes=250))) == 2
    assert len(keys(outbox.batch(max_bytes=1))) == 1
    assert outbox.batch(after=(boot_id(1), 9)) is None


def test_several_processes_share_it_and_the_oldest_goes_first(tmp_path: Path) -> None:
    for number in (9, 3, 7):
        outbox = opened(tmp_path, number, clock=lambda n=number: 100.0 - n)
        outbox.put("sample", {})
        outbox.put("event", {"name": "x"})
        outbox.close()
    outbox = opened(tmp_path, 1)
    assert keys(outbox.batch()) == [(9, 0), (9, 1), (3, 0), (3, 1), (7, 0), (7, 1)]
    assert outbox.acknowledge(Ack(boot_id(3), 0, 1)) == 2
    assert keys(outbox.batch(after=(boot_id(9), 1))) == [(7, 0), (7, 1)]


@pytest.mark.parametrize("clock", [[5e9, 1.0, 7.0], [float("nan"), -5.0, 1e300]])
def test_a_clock_that_jumps_changes_no_order(tmp_path: Path, clock: list[float]) -> None:
    times = iter(clock)
    outbox = opened(tmp_path, clock=lambda: next(times))
    for _ in clock:
        outbox.put("sample", {})
    assert keys(outbox.batch()) == [(1, 0), (1, 1), (1, 2)]


def test_only_what_was_sent_can_be_acknowledged(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    for i in range(10):
        outbox.put("sample", {"i": i})
    everything = Ack(boot_id(1), 0, 2**53 - 1)
    assert outbox.acknowledge(everything) == 0
    outbox.batch(max_messages=3)
    outbox.put("sample", {})
    assert outbox.acknowledge(everything) == 3
    assert outbox.acknowledge(Ack(boot_id(2), 0, 9)) == 0
    assert keys(outbox.batch())[0] == (1, 3)


def test_what_was_sent_before_a_restart_can_still_be_acknowledged(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    outbox.put("sample", {})
    outbox.batch()
    outbox.close()
    assert opened(tmp_path, 2).acknowledge(Ack(boot_id(1), 0, 0)) == 1


def test_the_cap_takes_the_oldest_samples_and_counts_them(tmp_path: Path) -> None:
    outbox = opened(tmp_path, cap=20_000)
    for i in range(500):
        outbox.put("event" if i % 50 == 0 else "sample", {"i": i})
    stats = outbox.stats()
    assert stats.size_bytes <= 20_000
    assert stats.drops["cap"] == 500 - stats.messages
    messages = drain(outbox)
    events = [m.seq for m in messages if m.kind == "event" and "i" in m.values]
    samples = [m.seq for m in messages if m.kind == "sample"]
    assert events == list(range(0, 500, 50))
    assert samples == [seq for seq in range(samples[0], 500) if seq % 50]
    assert told(messages)[boot_id(1)]["drops"] == {"cap": stats.drops["cap"]}


def test_events_go_only_when_no_sample_is_left(tmp_path: Path) -> None:
    outbox = opened(tmp_path, cap=5_000)
    for i in range(100):
        outbox.put("event", {"i": i})
    outbox.put("sample", {"last": True})
    assert set(outbox.stats().drops) == {"cap", "cap_event"}
    kept = [m.values["i"] for m in drain(outbox) if "i" in m.values]
    assert kept == list(range(100 - len(kept), 100))


def test_what_was_sent_and_not_acknowledged_goes_last_under_a_name_of_its_own(
    tmp_path: Path,
) -> None:
    outbox = opened(tmp_path, cap=3_000)
    for i in range(5):
        outbox.put("sample", {"i": i})
    assert len(keys(outbox.batch())) == 5
    for i in range(60):
        outbox.put("sample", {"i": i})
    assert set(outbox.stats().drops) == {"cap"}
    assert keys(outbox.batch())[:5] == [(1, i) for i in range(5)]
    for i in range(60):
        outbox.put("event", {"i": i})
    assert outbox.stats().drops["cap_sent"] >= 5


def test_the_counts_are_told_until_they_are_acknowledged(tmp_path: Path) -> None:
    outbox = opened(tmp_path, cap=2_000)
    for i in range(40):
        outbox.put("sample", {"i": i})
    first = outbox.batch()
    assert first is not None
    assert len([m for m in first.messages if m.kind == "event"]) == 1
    again = outbox.batch()
    assert keys(again) == keys(first)
    outbox.close()
    outbox = opened(tmp_path, 2, cap=2_000)
    dropped = sum(outbox.stats().drops.values())
    row = told(drain(outbox))[boot_id(1)]
    assert sum(row["drops"].values()) == dropped  # type: ignore[attr-defined]
    assert outbox.stats().drops == {}
    assert drain(outbox) == []


def test_after_a_cap_every_number_is_accounted_for(tmp_path: Path) -> None:
    arrived: list[Message] = []
    for number in range(1, 6):
        outbox = opened(tmp_path, number, cap=6_000)
        for i in range(90):
            outbox.put("event" if i % 9 == 0 else "sample", {"i": i})
        if number in {2, 4}:
            batch = outbox.batch(max_messages=10)
            assert batch is not None
            arrived += batch.messages
            outbox.acknowledge(acks_for(batch.messages)[0])
        outbox.close()
    arrived += drain(opened(tmp_path, 6))
    rows = told(arrived)
    for number in range(1, 6):
        row = rows[boot_id(number)]
        there = {m.seq for m in arrived if m.boot_id == boot_id(number)}
        lost = sum(row["drops"].values())  # type: ignore[attr-defined]
        unsure = row["drops"].get("cap_sent", 0)  # type: ignore[attr-defined]
        assert len(there) + lost - unsure <= row["issued"] <= len(there) + lost


def test_values_that_have_no_json_are_made_to_fit(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    outbox.put("sample", {"a": float("nan"), "b": object(), "c": "\0", "d": 1})
    batch = outbox.batch()
    assert batch is not None
    assert batch.messages[0].values == {"c": "?", "d": 1}


def test_a_message_that_is_too_large_is_counted(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    assert outbox.put("event", {str(i): "x" * 4000 for i in range(40)}) == 0
    assert outbox.put("event", {}) == 1
    assert told(drain(outbox))[boot_id(1)] == {
        "boot_id": boot_id(1),
        "issued": 2,
        "drops": {"too_large": 1},
    }


@contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_stops_nothing_and_is_counted(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    for i in range(20):
        outbox.put("sample", {"i": i})
    with file_size_limit(100_000):
        numbers = [outbox.put("sample", {"i": i, "text": "x" * 500}) for i in range(500)]
        assert numbers == list(range(20, 520))
        full = outbox.stats()
        assert full.problem
        assert full.drops["disk"] > 100
    outbox.put("sample", {"again": True})
    assert outbox.stats().problem == ""
    messages = drain(outbox)
    row = told(messages)[boot_id(1)]
    assert row["drops"] == {"disk": full.drops["disk"]}
    there = {message.seq for message in messages}
    assert len(there) - 1 + full.drops["disk"] == row["issued"] == 521


def test_a_start_on_a_full_disk_is_a_start(tmp_path: Path) -> None:
    with file_size_limit(0):
        outbox = opened(tmp_path)
        assert outbox.put("event", {}) == 0
        assert outbox.batch() is None
        assert outbox.acknowledge(Ack(boot_id(1), 0, 5)) == 0
        assert outbox.stats().problem
    outbox.put("event", {"name": "up"})
    messages = drain(outbox)
    assert [message.seq for message in messages] == [1, 2]
    assert told(messages)[boot_id(1)] == {
        "boot_id": boot_id(1),
        "issued": 2,
        "drops": {"disk": 1},
    }


def test_a_missing_folder_stops_nothing(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "gone" / "o.db", CAP, boot_id(1), lambda: 1.0)
    outbox.put("sample", {})
    assert "unable to open" in outbox.stats().problem
    (tmp_path / "gone").mkdir()
    outbox.put("sample", {})
    assert keys(outbox.batch())[0] == (1, 1)


def test_a_file_that_is_none_is_moved_aside_and_said(tmp_path: Path) -> None:
    (tmp_path / "outbox.db").write_bytes(b"this is not a database " * 1000)
    outbox = opened(tmp_path)
    outbox.put("sample", {})
    messages = drain(outbox)
    assert messages[0].values == {"name": "outbox_corrupt", "moved_to": "outbox.db.corrupt"}
    assert [message.seq for message in messages] == [0, 1]
    assert (tmp_path / "outbox.db.corrupt").read_bytes().startswith(b"this is not")


def test_a_file_that_breaks_while_it_is_used_is_counted(tmp_path: Path) -> None:
    old = opened(tmp_path, 1)
    for _ in range(300):
        old.put("sample", {"text": "x" * 200})
    old.close()
    outbox = opened(tmp_path, 2)
    for i in range(300):
        outbox.put("sample", {"i": i, "text": "x" * 200})
    outbox.close()
    size = (tmp_path / "outbox.db").stat().st_size
    with (tmp_path / "outbox.db").open("r+b") as file:
        for page in range(5, size // 4096):
            file.seek(page * 4096)
            file.write(b"\xff" * 4096)
    outbox.batch()
    outbox.put("sample", {"after": True})
    messages = drain(outbox)
    rows = told(messages)
    assert rows[boot_id(1)]["drops"] == {"corrupt": 300}
    assert rows[boot_id(2)]["drops"]["corrupt"] == 300  # type: ignore[index]
    assert [m.values["messages"] for m in messages if m.values.get("name") == "outbox_corrupt"] == [
        600
    ]
    assert [m.values for m in messages if m.kind == "sample"] == [{"after": True}]


def test_a_broken_row_does_not_hold_up_the_rest(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    for i in range(3):
        outbox.put("sample", {"i": i})
    outbox.close()
    with sqlite3.connect(tmp_path / "outbox.db") as db:
        db.execute("UPDATE messages SET body = x'00ff' WHERE seq = 1")
    db.close()
    outbox = opened(tmp_path, 2)
    messages = drain(outbox)
    assert [m.seq for m in messages if m.kind == "sample"] == [0, 2]
    assert told(messages)[boot_id(1)]["drops"] == {"corrupt": 1}


def test_a_second_agent_does_not_touch_it(tmp_path: Path) -> None:
    first, second = opened(tmp_path, 1), opened(tmp_path, 2)
    first.put("sample", {})
    second.put("sample", {})
    assert "locked" in second.stats().problem
    first.close()
    second.put("sample", {})
    assert keys(second.batch())[:2] == [(1, 0), (2, 1)]


@pytest.mark.parametrize("length", [20, 300, 1100, 1500, 3000, 6000])
def test_the_file_is_about_as_large_as_the_cap_says(tmp_path: Path, length: int) -> None:
    outbox = opened(tmp_path, cap=1_000_000)
    text = {"a": "x" * min(length, 3900), "b": "x" * max(length - 3900, 0)}
    for _ in range(1_500_000 // (length + 150)):
        outbox.put("sample", text)
    assert outbox.stats().drops
    outbox.close()
    assert 0.8 < (tmp_path / "outbox.db").stat().st_size / 1_000_000 < 1.4


def test_the_file_shrinks_after_a_long_outage(tmp_path: Path) -> None:
    outbox = opened(tmp_path, cap=50_000_000)
    for _ in range(12_000):
        outbox.put("sample", {"text": "x" * 400})
    drain(outbox)
    outbox.close()
    assert (tmp_path / "outbox.db").stat().st_size < 2_000_000


def test_restarts_without_a_network_do_not_grow_it(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    lost = [Boot(n, boot_id(n), 3, drops={"cap": 2}) for n in range(10, 10 + MAX_EMPTY_BOOTS + 200)]
    assert outbox._db is not None
    save_boots(outbox._db, lost, boot_id(1))
    outbox.close()
    for number in range(5000, 5003):
        opened(tmp_path, number).close()
    outbox = opened(tmp_path, 6000)
    assert len(outbox._boots) <= MAX_EMPTY_BOOTS + 5
    assert outbox.stats().drops == {"cap": 2 * len(lost)}
    messages = drain(outbox)
    rows = told(messages)
    assert sum(sum(row["drops"].values()) for row in rows.values()) == 2 * len(lost)  # type: ignore[attr-defined]
    assert rows[OLDER]["issued"] == 3 * (len(lost) - len(rows) + 1)
    assert len(messages) >= len(rows) // MAX_BOOTS_TOLD
    assert len(outbox._boots) == 1


def test_few_books_are_not_folded() -> None:
    assert fold_oldest([Boot(1, boot_id(1))], 1) is None


def test_no_handle_is_left_behind(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(1, 30):
        outbox = opened(tmp_path, number)
        outbox.put("event", {})
        outbox.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(["sample", "event"]), st.integers(0, 400)),
        st.tuples(st.just("send"), st.integers(1, 8), st.booleans()),
        st.tuples(st.just("restart"), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(ACTIONS, st.sampled_from([1_500, 4_000, CAP]))
@example(
    [
        ("put", "sample", 0), ("put", "event", 96), ("put", "event", 400), ("put", "event", 400),
        ("send", 3, False), ("restart", 0, 0), ("put", "sample", 0),
    ],
    1_500,
)  # fmt: skip
def test_whatever_happens_every_number_is_accounted_for(tmp_path_factory, actions, cap) -> None:
    folder = tmp_path_factory.mktemp("outbox")
    number, issued, arrived = 1, {}, []
    outbox = opened(folder, 1, cap)
    for what, first, second in actions:
        if what == "put":
            issued[number] = outbox.put(first, {"text": "x" * second}) + 1
        elif what == "send":
            batch = outbox.batch(max_messages=first)
            if batch:
                arrived += batch.messages
                for ack in acks_for(batch.messages) if second else ():
                    outbox.acknowledge(ack)
        else:
            outbox.close()
            number += 1
            outbox = opened(folder, number, cap)
    outbox.close()
    outbox = opened(folder, number + 1, CAP)
    arrived += drain(outbox)
    outbox.close()
    rows = told(arrived)
    for boot, count in issued.items():
        there = {m.seq for m in arrived if m.boot_id == boot_id(boot)}
        drops = rows.get(boot_id(boot), {"drops": {}})["drops"]
        lost = sum(drops.values())  # type: ignore[attr-defined]
        unsure = drops.get("cap_sent", 0)  # type: ignore[attr-defined]
        # What tells of drops takes a number, too, and may be dropped itself.
        told_of = rows.get(boot_id(boot), {}).get("issued", 0)
        issued_in_all = max([count, told_of, *(seq + 1 for seq in there)])  # type: ignore[type-var]
        assert len(there) + lost - unsure <= issued_in_all <= len(there) + lost
        if not lost:
            assert there >= set(range(count))


def test_a_day_of_samples_grows_neither_memory_nor_handles_nor_the_file(tmp_path: Path) -> None:
    outbox = opened(tmp_path)

    def half_a_day() -> tuple[int, int, int]:
        for i in range(4320):
            outbox.put("sample", {"i": i, "text": "x" * 300})
            if i % 6 == 5:
                drain(outbox)
        handles = len(list(Path("/proc/self/fd").iterdir()))
        size = sum(file.stat().st_size for file in tmp_path.iterdir())
        return tracemalloc.get_traced_memory()[0], handles, size

    tracemalloc.start()
    try:
        first, second = half_a_day(), half_a_day()
    finally:
        tracemalloc.stop()
    assert second[0] - first[0] < 20_000
    assert second[2] <= first[2] * 1.1
    assert second[1] == first[1]
