"""A store that fails for a moment, or a channel that is set right, loses no alert."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import pytest

from edgekit.fleet.alerts.channels import Channel
from edgekit.fleet.alerts.notice import Notice
from edgekit.fleet.alerts.send import SENT, Outcome
from edgekit.fleet.alerts.sender import Retries
from edgekit.fleet.alerts.sender import Sender as RealSender

from .test_watch import COOL, HOT, PHONE, RULES, Sender, Store, events, watch


@pytest.fixture(autouse=True)
def _fresh() -> None:
    Sender.sent, Sender.dead = [], False


def failing_once(method: Callable[..., Any]) -> Callable[..., Any]:
    failed: list[bool] = []

    def call(*args: Any, **more: Any) -> Any:
        if not failed:
            failed.append(True)
            raise RuntimeError("database or disk is full")
        return method(*args, **more)

    return call


def test_an_alert_that_could_not_be_kept_opens_at_the_next_look(tmp_path):
    store = Store()
    made = watch(tmp_path, store)
    made.tick(0.0)
    store.open = failing_once(store.open)
    with pytest.raises(RuntimeError):
        made.tick(60.0)
    assert events() == []
    made.tick(70.0)
    assert events() == [("open", "1")]
    assert [row["opened_s"] for row in store.rows.values()] == [70.0]
    made.tick(80.0)
    assert len(events()) == 1


def test_an_end_that_could_not_be_kept_is_kept_at_the_next_look(tmp_path):
    store = Store()
    made = watch(tmp_path, store)
    for now_s in (0.0, 60.0):
        made.tick(now_s)
    store.known = [COOL]
    store.close = failing_once(store.close)
    made.tick(70.0)
    with pytest.raises(RuntimeError):
        made.tick(200.0)
    made.tick(210.0)
    assert store.rows["1"]["closed"] is not None
    assert events() == [("open", "1"), ("closed", "1")]
    store.known = [HOT]
    for now_s in (300.0, 360.0):
        made.tick(now_s)
    assert events()[2:] == [("open", "2")]


def test_one_that_is_kept_and_not_told_is_told_at_the_next_look_and_opens_once(tmp_path):
    store = Store()
    made = watch(tmp_path, store, RULES)
    made.tick(0.0)
    store.told = failing_once(store.told)
    with pytest.raises(RuntimeError):
        made.tick(60.0)
    made.tick(70.0)
    assert [row["told_s"] for row in store.rows.values()] == [70.0]


def test_what_the_channel_before_could_not_send_is_sent_by_the_one_that_is_set_right(tmp_path):
    store = Store()
    made = watch(tmp_path, store)
    Sender.dead = True
    for now_s in (0.0, 60.0):
        made.tick(now_s)
    assert store.rows["1"]["told_s"] is None
    Sender.sent, Sender.dead = [], False
    (tmp_path / "alerts.toml").write_text(RULES + PHONE.replace("/x", "/right"))
    made.tick(70.0)
    assert events() == [("open", "1")]
    (tmp_path / "alerts.toml").write_text(RULES + PHONE.replace("/x", "/another"))
    made.tick(80.0)
    assert len(events()) == 1, "what was told is told again"


NOTICE = Notice(
    "a1", "open", "lab", "hot", "temperature", "warning", "cam-1", "", 84.0, "°C", "hot", "look",
    1.0, 1.0,
)  # fmt: skip


def test_a_channel_outlives_a_store_that_fails(caplog):
    sent: list[str] = []

    def send(_channel: Channel, notice: Notice) -> Outcome:
        sent.append(notice.alert_id)
        return SENT

    def fail(*_: object) -> None:
        raise RuntimeError("secret")

    sender = RealSender(
        {"web": Channel("web", "webhook", url="http://127.0.0.1:1/")},
        send,
        Retries((), lambda: 0.5),
        fail,
    )
    with caplog.at_level(logging.ERROR):
        for _ in range(2):
            sender.put(NOTICE)
        deadline = time.monotonic() + 10
        while len(sent) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        sender.stop()
    assert sent == ["a1", "a1"]
    assert "RuntimeError" in caplog.text
    assert "secret" not in caplog.text
