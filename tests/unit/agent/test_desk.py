"""Orders that come while the clock is wrong, and bundles with an odd date."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgekit.agent.config import Config
from edgekit.agent.desk import Desk
from edgekit.agent.lifecycle import Lifecycle
from edgekit.agent.outbox import Outbox
from edgekit.agent.slots import Trust, open_slots
from edgekit.runtime import trial_events as on
from edgekit.runtime.trial_events import Instant
from edgekit.runtime.trial_state import Order, Phase

NOW_S = 1_790_000_000.0
SHA256 = "ab" * 32


class NoHands:
    """Does nothing, and notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *args: self.told.append((name, args))


@pytest.mark.parametrize("time_s", [0, 315_532_800, int(NOW_S)])
def test_a_bundle_of_the_settings_is_ordered_whatever_its_date(
    tmp_path: Path, small_bundle: Any, time_s: int
) -> None:
    # Images are built with the date 1970 or 1980, so that they come out the same each time.
    path = Path(shutil.copy(small_bundle.path, tmp_path))
    os.utime(path, (time_s, time_s))
    key = small_bundle.private_key.public
    config = Config("lab", "board-1", "rpi5", tmp_path, (key,), bundles=(path,))
    outbox = Outbox(tmp_path / "outbox.db", 1 << 20, "0" * 16, lambda: NOW_S)
    posted: list[on.Event] = []
    hands: Any = NoHands()
    Desk(config, "0" * 16, outbox, lambda: NOW_S, lambda _m, e: posted.append(e)).order_local(hands)
    outbox.close()
    slots = open_slots(tmp_path / "slots", Trust((key,)))
    lifecycle = Lifecycle(slots, hands, lambda: Instant(1.0, NOW_S))
    lifecycle.handle("small-conv", posted[0])
    assert lifecycle.states["small-conv"].phase is Phase.FETCHING
    slots.close()


@pytest.fixture
def clock() -> list[float | None]:
    return [None]


@pytest.fixture
def lifecycle(tmp_path: Path, clock: list[float | None]) -> Any:
    slots = open_slots(tmp_path / "slots", Trust(()))
    hands: Any = NoHands()
    yield Lifecycle(slots, hands, lambda: Instant(1.0, clock[0]))
    slots.close()


def order(url: str) -> on.OrderReceived:
    return on.OrderReceived(Order("o-1", SHA256, 1, 100, 4e9, url))


def test_a_board_without_a_clock_serves_what_its_own_settings_name(lifecycle: Lifecycle) -> None:
    lifecycle.handle("m", order(""))
    assert lifecycle.states["m"].phase is Phase.FETCHING


def test_an_order_of_the_fleet_waits_until_the_clock_is_set(
    lifecycle: Lifecycle, clock: list[float | None]
) -> None:
    lifecycle.handle("m", order("https://fleet/b.ekb"))
    lifecycle.tick({})
    assert "m" not in lifecycle.states
    clock[0] = NOW_S
    lifecycle.tick({})
    assert lifecycle.states["m"].phase is Phase.FETCHING


def test_an_order_that_has_expired_when_the_clock_is_set_is_refused(
    lifecycle: Lifecycle, clock: list[float | None]
) -> None:
    lifecycle.handle("m", order("https://fleet/b.ekb"))
    clock[0] = 5e9
    lifecycle.tick({})
    lifecycle.tick({})
    assert lifecycle.states["m"].phase is Phase.IDLE


def test_a_flood_of_false_orders_is_told_of_ten_times_and_then_once_a_minute(
    tmp_path: Path, caplog: Any
) -> None:
    times = [0.0]
    config = Config("lab", "board-1", "rpi5", tmp_path, ())
    outbox = Outbox(tmp_path / "outbox.db", 1 << 20, "0" * 16, lambda: NOW_S)
    posted: list[on.Event] = []
    desk = Desk(
        config, "0" * 16, outbox, lambda: NOW_S, lambda _m, e: posted.append(e),
        monotonic_s=lambda: times[0],
    )  # fmt: skip
    for _ in range(500):
        desk.desired(b"no order")
    times[0] = 61.0
    for _ in range(500):
        desk.desired(b"no order")
    batch = outbox.batch()
    outbox.close()
    assert batch is not None
    assert [m.values.get("more", 0) for m in batch.messages] == [*[0] * 10, 490]
    assert caplog.text.count("an order was refused") == 11
    assert posted == []
