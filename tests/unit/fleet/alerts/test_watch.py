"""Alerts at work, over a store in memory."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.fleet.alerts.channels import Channel
from edgekit.fleet.alerts.machine import Entry, Key
from edgekit.fleet.alerts.notice import Notice
from edgekit.fleet.alerts.readings import DeviceFacts, ServerFacts
from edgekit.fleet.alerts.rules import Silence
from edgekit.fleet.alerts.send import SENT
from edgekit.fleet.alerts.sender import Done
from edgekit.fleet.alerts.watch import Watch

HOT, COOL = DeviceFacts("cam-1", online=True, temp_c=90.0), DeviceFacts("cam-1", online=True)
RULES = """
defaults = false
[rules.temperature]
for_s = 60
clear_for_s = 120
"""
PHONE = '[channels.phone]\nkind = "ntfy"\nurl = "http://127.0.0.1:1/x"\n'
KEY = Key("temperature", "cam-1")


@dataclass
class Store:
    known: list[DeviceFacts] = field(default_factory=lambda: [HOT])
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    silenced: list[Silence] = field(default_factory=list)

    def open_alerts(self) -> Mapping[Key, tuple[str, Entry]]:
        return {
            row["key"]: (name, Entry(None, row["opened_s"], row["value"], row["told_s"]))
            for name, row in self.rows.items()
            if row["closed"] is None
        }

    def open(self, notice: Notice, *, silenced: bool) -> str:
        name = str(len(self.rows) + 1)
        self.rows[name] = {
            "key": Key(notice.rule, notice.device, notice.model),
            "opened_s": notice.opened_s,
            "value": notice.value,
            "told_s": None,
            "closed": None,
            "silenced": silenced,
            "text": notice.text,
        }
        return name

    def silence(self, alert_id: str, *, silenced: bool) -> None:
        self.rows[alert_id]["silenced"] = silenced

    def close(self, alert_id: str, value: float, why: str, at_s: float) -> None:
        self.rows[alert_id] |= {"closed": (why, at_s), "value": value}

    def told(self, alert_id: str, at_s: float) -> None:
        self.rows[alert_id]["told_s"] = at_s

    def silences(self) -> list[Silence]:
        return self.silenced

    def devices(self, _windows_s: Any, _now_s: float) -> list[DeviceFacts]:
        return self.known

    def server(self, _now_s: float) -> ServerFacts:
        return ServerFacts()


class Sender:
    """Keeps what it is given, and says at once that it was sent, unless it is dead."""

    sent: list[tuple[str, Notice]] = []  # noqa: RUF012 - of one test
    dead = False

    def __init__(self, channels: Mapping[str, Channel], on_done: Done) -> None:
        self._channels, self._on_done = channels, on_done

    def put(self, notice: Notice, names: Iterable[str] | None = None) -> list[str]:
        taken = list(self._channels if names is None else names)
        for name in taken:
            self.sent.append((name, notice))
            if not self.dead:
                self._on_done(self._channels[name], notice, SENT)
        return taken

    def stop(self) -> None: ...


@pytest.fixture(autouse=True)
def _fresh() -> None:
    Sender.sent, Sender.dead = [], False


def watch(tmp_path: Path, store: Store, text: str = RULES + PHONE) -> Watch:
    (tmp_path / "alerts.toml").write_text(text)
    return Watch(tmp_path / "alerts.toml", "lab", store, Sender)  # type: ignore[arg-type]


def events() -> list[tuple[str, str]]:
    return [(notice.event, notice.alert_id) for _, notice in Sender.sent]


def test_an_alert_is_kept_told_and_closed(tmp_path):
    store = Store()
    made = watch(tmp_path, store)
    for now_s in (0.0, 60.0, 65.0):
        made.tick(now_s)
    assert store.rows["1"]["text"] == "cam-1 is at 90 °C, over 80 °C"
    assert store.rows["1"]["told_s"] == 60.0
    store.known = [COOL]
    made.tick(70.0)
    made.tick(190.0)
    assert store.rows["1"]["closed"] == ("it is not measured any more", 190.0)
    assert events() == [("open", "1"), ("closed", "1")]
    assert Sender.sent[1][1].text == "cam-1 is at 90 °C, over 80 °C"


def test_a_restart_opens_nothing_twice_and_tells_what_was_not_told(tmp_path):
    store = Store()
    first = watch(tmp_path, store)
    Sender.dead = True
    first.tick(0.0)
    first.tick(60.0)
    assert store.rows["1"]["told_s"] is None
    Sender.dead = False
    second = watch(tmp_path, store)
    second.tick(65.0)
    second.tick(70.0)
    assert list(store.rows) == ["1"]
    assert events() == [("open", "1"), ("open", "1")]
    third = watch(tmp_path, store)
    third.tick(75.0)
    assert len(Sender.sent) == 2


def test_without_a_channel_an_alert_counts_as_told(tmp_path):
    store = Store()
    made = watch(tmp_path, store, RULES)
    made.tick(0.0)
    made.tick(60.0)
    assert store.rows["1"]["told_s"] == 60.0
    assert Sender.sent == []


def test_a_silence_of_the_store_shows_and_ends(tmp_path):
    store = Store(silenced=[Silence("temperature", until_s=100.0)])
    made = watch(tmp_path, store)
    made.tick(0.0)
    made.tick(60.0)
    assert (store.rows["1"]["silenced"], events()) == (True, [])
    made.tick(100.0)
    assert (store.rows["1"]["silenced"], events()) == (False, [("open", "1")])


def test_rules_are_read_again_and_wrong_ones_change_nothing(tmp_path, caplog):
    store = Store()
    made = watch(tmp_path, store)
    made.tick(0.0)
    (tmp_path / "alerts.toml").write_text("[rules.temperature]\nabov = 3\n")
    with caplog.at_level(logging.ERROR):
        made.tick(60.0)
        made.tick(61.0)
    assert caplog.text.count("alerts.toml:2") == 1
    assert list(store.rows) == ["1"], "the rule before it goes on"
    (tmp_path / "alerts.toml").write_text("defaults = false\n" + PHONE)
    made.tick(62.0)
    assert store.rows["1"]["closed"] == ("what it was about is gone", 62.0)
    assert events() == [("open", "1"), ("closed", "1")]


def test_wrong_rules_at_the_start_mean_the_defaults(tmp_path):
    made = watch(tmp_path, Store(), "nonsense")
    made.tick(0.0)
    assert "offline" in made.settings.rules


def test_a_device_that_comes_and_goes_keeps_one_alert_at_a_time(tmp_path):
    store = Store()
    made = watch(tmp_path, store)
    for now_s in range(0, 5000, 10):
        store.known = [HOT if now_s % 1000 < 500 else replace(COOL, temp_c=50.0)]
        made.tick(float(now_s))
        assert sum(row["closed"] is None for row in store.rows.values()) <= 1
    assert len(store.rows) == 5
    assert [event for event, _ in events()] == ["open", "closed"] * 5
