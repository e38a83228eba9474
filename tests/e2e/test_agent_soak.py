"""Hours of an agent in a minute: it does not grow, and loses nothing."""

from __future__ import annotations

import pytest

from ..agent_board import Board, sample_of, settings_for  # noqa: TID252 - helpers of agent tests
from ..agent_broker import Broker  # noqa: TID252
from ..agent_receiver import Receiver  # noqa: TID252
from ..agent_soak import soak  # noqa: TID252

pytestmark = [pytest.mark.mosquitto, pytest.mark.slow]


def test_an_agent_does_not_grow(tmp_path, small_bundle):
    folder = tmp_path / "board"
    folder.mkdir()
    with Broker(tmp_path / "broker") as broker:
        receiver = Receiver(broker.port, tmp_path / "store.db").start()
        board = Board(folder, small_bundle.private_key, settings_for(small_bundle, broker.port))
        try:
            sample = sample_of(small_bundle)
            found = soak(board, broker, receiver, sample, hours=2, outages=3)
        finally:
            if board.process is not None and board.process.poll() is None:
                board.kill()
            receiver.stop()
    assert found.boots == 1
    assert found.stored >= 2 * 3600
    assert found.commands > 20  # not those of the time that the broker was away
    assert found.growth(lambda look: look.files) <= 0
    assert found.growth(lambda look: look.threads) <= 0
    assert found.growth(lambda look: look.rss_mb) < 2.0, [look.rss_mb for look in found.looks]
