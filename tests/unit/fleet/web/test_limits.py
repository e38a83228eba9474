"""Tries run out, come back with time, and are counted for each key by itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgekit.fleet.web.limits import _MOST_KEYS, Limiter


def test_tries_run_out_and_come_back():
    limiter = Limiter(3, 10.0)
    assert [limiter.take("a", 0.0) for _ in range(4)] == [0.0, 0.0, 0.0, 10.0]
    assert limiter.take("b", 0.0) == 0.0
    assert limiter.take("a", 4.0) == 6.0
    assert limiter.take("a", 10.0) == 0.0
    assert limiter.take("a", 10.0) == 10.0
    limiter.forget("a")
    assert limiter.take("a", 10.0) == 0.0


@given(st.lists(st.floats(0, 50), min_size=1, max_size=80))
def test_never_more_than_the_burst_and_what_time_gives(steps):
    limiter, now_s, free = Limiter(5, 7.0), 0.0, 0
    for step in steps:
        now_s += step
        free += limiter.take("a", now_s) == 0.0
    assert free <= 5 + sum(steps) / 7.0 + 1e-6


def test_a_flood_of_keys_is_forgotten():
    limiter = Limiter(1, 1e9)
    for n in range(_MOST_KEYS + 50):
        limiter.take(str(n), 0.0)
    assert len(limiter._tries) == _MOST_KEYS
    assert limiter.take(str(_MOST_KEYS + 49), 0.0) > 0
