"""What is sent when, under a clock of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.agent.outbox import Outbox
from edgekit.agent.window import Pace, Window
from edgekit.runtime.batches import unpack
from edgekit.wire.messages import Ack, acks_for

BOOT = "0123456789abcdef"
PACE = Pace(flush_s=10, resend_s=30, resend_max_s=200, in_flight=3, batch_messages=5)


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "outbox.db", 1 << 24, BOOT, lambda: 0.0)


def window(outbox: Outbox, pace: Pace = PACE) -> Window:
    made = Window(outbox, pace, lambda: 1.0)
    made.restart(0.0)
    return made


def sent(window: Window, now_s: float) -> list[int] | None:
    payload = window.next_payload(now_s)
    return None if payload is None else [message.seq for message in unpack(payload).messages]


def put(outbox: Outbox, count: int) -> None:
    for _ in range(count):
        outbox.put("sample", {})


def test_a_backlog_goes_out_at_once_within_the_bound(outbox: Outbox) -> None:
    put(outbox, 30)
    made = window(outbox)
    assert [sent(made, 0.0) for _ in range(4)] == [
        [0, 1, 2, 3, 4],
        [5, 6, 7, 8, 9],
        [10, 11, 12, 13, 14],
        None,
    ]
    made.acknowledge(Ack(BOOT, 5, 9))
    assert made.in_flight == 2
    assert sent(made, 0.0) == [15, 16, 17, 18, 19]


def test_a_batch_is_in_flight_until_all_of_it_is_acknowledged(outbox: Outbox) -> None:
    put(outbox, 5)
    made = window(outbox)
    sent(made, 0.0)
    made.acknowledge(Ack(BOOT, 0, 1))
    made.acknowledge(Ack(BOOT, 3, 4))
    assert made.in_flight == 1
    made.acknowledge(Ack(BOOT, 2, 2))
    assert made.in_flight == 0


def test_samples_wait_for_others_and_events_do_not(outbox: Outbox) -> None:
    made = window(outbox)
    assert sent(made, 0.0) is None
    put(outbox, 2)
    assert sent(made, 9.9) is None
    assert sent(made, 10.0) == [0, 1]
    made.acknowledge(Ack(BOOT, 0, 1))
    put(outbox, 1)
    assert sent(made, 11.0) is None
    outbox.put("event", {"name": "x"})
    assert sent(made, 11.0) == [2, 3]


def test_after_a_silence_it_is_sent_again_less_and_less_often(outbox: Outbox) -> None:
    put(outbox, 30)
    made = window(outbox)
    while sent(made, 0.0):
        pass
    times = []
    for second in range(1, 1000):
        numbers = sent(made, float(second))
        if numbers:
            times.append(second)
            assert numbers == [0, 1, 2, 3, 4]
            assert made.in_flight == 1
    assert times == [30, 90, 210, 410, 610, 810]
    made.acknowledge(Ack(BOOT, 0, 4))
    assert [sent(made, 1000.0) for _ in range(4)][-2:] == [[15, 16, 17, 18, 19], None]


def test_a_new_connection_sends_again_what_was_in_flight(outbox: Outbox) -> None:
    put(outbox, 3)
    made = window(outbox)
    assert sent(made, 0.0) == [0, 1, 2]
    made.restart(1.0)
    assert sent(made, 1.0) == [0, 1, 2]


def test_an_ack_that_the_disk_refuses_makes_no_hot_loop(outbox: Outbox, monkeypatch) -> None:
    put(outbox, 5)
    made = window(outbox)
    sent(made, 0.0)
    monkeypatch.setattr(outbox, "acknowledge", lambda _ack: 0)
    assert made.acknowledge(Ack(BOOT, 0, 4)) == 0
    assert sent(made, 1.0) is None


def test_a_week_without_ingest_costs_little(outbox: Outbox) -> None:
    made = window(outbox, Pace())
    publishes = 0
    for minute in range(7 * 24 * 60):
        if minute % 60 == 0:
            put(outbox, 1)
        publishes += made.next_payload(minute * 60.0) is not None
    assert 900 < publishes < 1300
    batch = outbox.batch()
    assert batch is not None
    for ack in acks_for(batch.messages):
        made.acknowledge(ack)
    assert outbox.stats().messages == 0
