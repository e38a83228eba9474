"""What fails is tried again, later and later, and ends nothing."""

from __future__ import annotations

import logging
import threading
from itertools import pairwise

from edgekit.fleet.alerts.main import MAX_WAIT_S, Duty, loop
from edgekit.wire.errors import DeviceError


def test_a_duty_comes_at_its_time_and_waits_longer_while_it_fails(caplog):
    calls: list[float] = []
    problem: list[Exception] = []

    def tick(now_s: float) -> None:
        calls.append(now_s)
        if problem:
            raise problem[0]

    duty = Duty("orders", tick, 1.0)
    for now in range(4):
        duty.run(float(now), float(now))
    assert calls == [0.0, 1.0, 2.0, 3.0]
    with caplog.at_level(logging.WARNING):
        problem.append(DeviceError("the broker is away"))
        for now in range(4, 300):
            duty.run(float(now), float(now))
        waits = [after - before for before, after in pairwise(calls[4:])]
        assert waits[:5] == [2.0, 4.0, 8.0, 16.0, 32.0]
        assert max(waits) == MAX_WAIT_S
        problem[0] = RuntimeError("something else")
        duty.run(1000.0, 1000.0)
        problem.clear()
        duty.run(2000.0, 2000.0)
    assert "the broker is away" in caplog.text
    assert "works again" in caplog.text
    assert duty.failed == 0


def test_the_loop_ends_when_it_is_told_to():
    stop, calls = threading.Event(), []

    def tick(now_s: float) -> None:
        calls.append(now_s)
        if len(calls) == 3:
            stop.set()

    times = iter(range(10_000))
    loop([Duty("a", tick, 0.0)], stop, lambda: 5.0, lambda: float(next(times)))
    assert calls == [5.0] * 3
