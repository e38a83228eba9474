"""The outbox of a simulated device: nothing is lost that is not acknowledged."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgekit.sim.outbox import IN_FLIGHT, RESEND_S, Held, SimOutbox
from edgekit.wire.messages import Ack

BOOT = "0123456789abcdef"


def filled(batches: int, cap: int = 100) -> SimOutbox:
    outbox = SimOutbox(BOOT, cap)
    for n in range(batches):
        outbox.add(Held(10 * n, 10 * n + 9, b"x"))
    return outbox


def test_what_is_acknowledged_is_gone_and_nothing_else() -> None:
    outbox = filled(3)
    outbox.due(0.0)
    assert [batch.first for batch in outbox.acknowledge(Ack(BOOT, 10, 19))] == [10]
    assert list(outbox.held) == [0, 20]


def test_an_acknowledgement_of_another_process_or_of_what_was_not_sent_frees_nothing() -> None:
    outbox = filled(1)
    assert outbox.acknowledge(Ack(BOOT, 0, 9)) == []
    outbox.due(0.0)
    assert outbox.acknowledge(Ack("f" * 16, 0, 9)) == []
    assert outbox.messages == 10


def test_silence_and_a_new_connection_send_again() -> None:
    outbox = filled(1)
    assert len(outbox.due(0.0)) == 1
    assert outbox.due(RESEND_S - 1) == []
    assert [batch.sent for batch in outbox.due(RESEND_S)] == [2]
    outbox.restart()
    assert [batch.sent for batch in outbox.due(RESEND_S)] == [3]


def test_as_long_as_nobody_answers_one_goes_and_ever_more_rarely() -> None:
    outbox = filled(4)
    assert len(outbox.due(0.0)) == 4
    assert len(outbox.due(RESEND_S)) == 1
    assert outbox.due(2 * RESEND_S) == []
    assert len(outbox.due(3 * RESEND_S)) == 1
    outbox.acknowledge(Ack(BOOT, 0, 9))
    assert len(outbox.due(3 * RESEND_S)) == 3


def test_only_so_many_are_under_way() -> None:
    assert len(filled(IN_FLIGHT + 5).due(0.0)) == IN_FLIGHT


def test_the_cap_takes_the_oldest_and_counts_it() -> None:
    outbox = filled(2, cap=2)
    outbox.due(0.0)
    outbox.add(Held(20, 29, b"x"))
    assert list(outbox.held) == [10, 20]
    assert outbox.drops == {"cap_sent": 10}


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60))))
def test_what_is_left_is_what_no_acknowledgement_named(acks: list[tuple[int, int]]) -> None:
    outbox = filled(4)
    outbox.due(0.0)
    left = set(range(40))
    for first, last in acks:
        outbox.acknowledge(Ack(BOOT, first, last))
        left -= set(range(first, last + 1))
    held = set()
    for batch in outbox.held.values():
        held |= set(range(batch.first, batch.last + 1)) if batch.left is None else batch.left
    assert held == left
    assert outbox.messages == len(left)
