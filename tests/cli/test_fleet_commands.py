"""The fleet's commands for reading, over rows in memory."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from edgekit.cli import fleet_options
from edgekit.cli.commands import fleet_tail
from edgekit.cli.fleet_view import age, sparkline
from edgekit.cli.main import run
from edgekit.fleet.client import PAGE, Fleet
from edgekit.fleet.sql import Answer

NOW_S = time.time()


def device(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "name": f"cam-{number:04d}",
        "labels": {"site": "roof"},
        "online": True,
        "last_seen_s": NOW_S - 3,
        "target": "rpi5",
        "version": "0.1.0",
        "models": {"pets": "9f86d081884c"},
        "temp_c": 61.8,
        "cpu_share": 0.21,
        "p95_ms": {"pets": 41.5},
        "alerts": 0,
        "phase": "confirmed",
    } | changes


class Rows:
    """A fleet in memory that answers page by page."""

    def __init__(self, count: int = 3) -> None:
        self.rows = [device(number) for number in range(count)]
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.events = [
            {
                "device": "cam-0000",
                "id": seq,
                "received_s": NOW_S - 10 + seq,
                "values": {"what": "trial", "model": "pets", "bundle_sha256": "9f" * 32},
            }
            for seq in range(3)
        ]
        self.open = [
            {
                "rule": "temperature",
                "severity": "critical",
                "device": "cam-0000",
                "text": "cam-0000 is at 84 °C, over 80 °C",
                "todo": "look at its fan",
                "opened_s": time.time() - 700,
                "closed_s": None,
                "silenced": False,
                "why": "",
            }
        ]
        self.closed = False

    def get(self, what: str, **asked: Any) -> Any:  # noqa: PLR0911 - a table
        self.asked.append((what, asked))
        if what == "devices":
            part = self.rows[asked["offset"] : asked["offset"] + asked["limit"]]
            return {"rows": part, "total": len(self.rows)}
        if what == "device":
            return {"row": device(0, name=asked["name"]), "facts": {"python": "3.11.2"}}
        if what == "series":
            return [[NOW_S - 60 + i, 40.0 + i] for i in range(60)]
        if what == "latency":
            return [{"t": NOW_S, "p50": 20.0, "p95": 41.5, "p99": 60.0, "n": 100}]
        if what == "events":
            late = [e for e in self.events if e["received_s"] >= asked["since_s"]]
            return late[::-1][: asked["limit"]]
        if what == "alerts":
            return self.open if asked["is_open"] else []
        return {"total": len(self.rows), "online": 2, "never_seen": 1, "open_alerts": 1}

    def query(self, sql: str, rows: int, timeout_s: float) -> Answer:
        self.asked.append((sql, {"rows": rows, "timeout_s": timeout_s}))
        return Answer(("device", "n"), (("cam-0000", 1.5), (None, 2)), truncated=True)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def rows(monkeypatch) -> Rows:
    made = Rows()
    monkeypatch.setattr(fleet_options, "open_fleet", lambda *_: Fleet("lab", backend=made))
    return made


def call(capsys, *argv: str, code: int = 0) -> str:
    assert run(["fleet", *argv]) == code
    return capsys.readouterr().out


def test_devices_are_listed_page_by_page(rows, capsys):
    rows.rows = [device(number) for number in range(2 * PAGE + 1)]
    text = call(capsys, "devices", "--label", "site=roof", "--sort", "temp", "--descending")
    assert len(re.findall(r"^  cam-", text, re.MULTILINE)) == 2 * PAGE + 1
    assert "61.8 °C" in text
    assert "21 %" in text
    assert [asked["offset"] for _, asked in rows.asked] == [0, PAGE, 2 * PAGE]
    assert rows.asked[0][1]["labels"] == {"site": "roof"}
    assert rows.closed


def test_what_is_not_known_is_a_dash_and_never_a_zero(rows, capsys):
    unknown = {"online": None, "last_seen_s": None, "temp_c": None, "cpu_share": None}
    rows.rows = [device(1, **unknown, models={}, p95_ms={}, labels={})]
    line = next(row for row in call(capsys, "devices").splitlines() if "cam-0001" in row)
    assert "never seen" in line
    assert not re.search(r"\b0\b", line.replace("cam-0001", ""))


def test_one_device_is_no_devices(rows, capsys):
    rows.rows = [device(1)]
    assert "  1 device   next: edgekit fleet show cam-0001" in call(capsys, "devices")


def test_a_device_that_was_never_seen_is_shown_with_the_way_to_start_it(rows, capsys, monkeypatch):
    row = {"name": "cam-1", "online": None, "last_seen_s": None, "labels": {"site": "roof"}}
    monkeypatch.setattr(rows, "get", lambda what, **_: {"row": row} if what == "device" else [])
    text = call(capsys, "show", "cam-1")
    assert "  cam-1   never seen   site=roof\n" in text
    assert "next: edgekit agent run --config agent.json" in text
    assert "the last" not in text


def test_one_json_document_holds_the_rows(rows, capsys):
    document = json.loads(call(capsys, "devices", "--json", "--limit", "2"))
    assert document["schema"] == "edgekit.fleet-devices/1"
    assert [row["name"] for row in document["devices"]] == ["cam-0000", "cam-0001"]


def test_a_device_is_shown_with_plots_alerts_and_events(rows, capsys):
    text = call(capsys, "show", "cam-0000")
    assert "cam-0000   online, seen" in text
    assert "! cam-0000 is at 84 °C" in text
    assert "next: look at its fan" in text
    assert re.search(r"temperature +[▁▂▃▄▅▆▇█]{40}  99 °C   max 99", text)
    assert "p95 latency" in text
    assert "trial   model pets" in text
    document = json.loads(call(capsys, "show", "cam-0000", "--json"))
    assert document["schema"] == "edgekit.fleet-device/1"


def test_a_fleet_is_watched_once_in_a_pipe(rows, capsys):
    text = call(capsys, "watch")
    assert "2 of 3 online   1 never seen   1 alerts" in text
    assert "for 12 min" in text
    assert json.loads(call(capsys, "watch", "--json"))["summary"]["online"] == 2


def test_events_are_tailed_oldest_first(rows, capsys):
    text = call(capsys, "tail", "cam-0000", "--no-follow", "-n", "2")
    assert len(text.splitlines()) == 2
    assert all("trial   model pets   bundle 9f9f9f9f9f9f" in line for line in text.splitlines())
    document = json.loads(call(capsys, "tail", "--json"))
    assert [event["id"] for event in document["events"]] == [0, 1, 2]


def test_a_tail_prints_each_event_once(rows, capsys, monkeypatch):
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            raise KeyboardInterrupt
        late = {"id": 10 + len(looks), "received_s": time.time()}
        rows.events.append(rows.events[0] | late)

    monkeypatch.setattr(fleet_tail.time, "sleep", sleep)
    text = call(capsys, "tail", code=130)
    assert len(text.splitlines()) == 5


def test_alerts_say_what_to_do_next(rows, capsys):
    text = call(capsys, "alerts")
    assert "12 min" in text
    assert "next: look at its fan" in text
    assert "nothing is the matter" in call(capsys, "alerts", "--closed")
    assert (
        "one thing at a time"
        in json.loads(call(capsys, "alerts", "--closed", "--check", "--json", code=2))["message"]
    )


def test_a_query_prints_a_table_and_says_that_there_is_more(rows, capsys):
    text = call(capsys, "query", "SELECT 1", "--rows", "2")
    assert "only the first 2 rows" in text
    document = json.loads(call(capsys, "query", "SELECT 1", "--json"))
    assert document["rows"] == [["cam-0000", 1.5], [None, 2]]
    assert call(capsys, "query", "SELECT 1", "-q").splitlines() == ["cam-0000\t1.5", "–\t2"]


def test_a_token_goes_with_a_server(capsys, tmp_path):
    (tmp_path / "t").write_text("x")
    out = call(capsys, "devices", "--token-file", str(tmp_path / "t"), "--json", code=2)
    assert "goes with --url" in json.loads(out)["message"]
    out = call(capsys, "devices", "--url", "http://h", "--token-file", "/none", "--json", code=3)
    assert "token" in json.loads(out)["message"]
    assert Path("/none").exists() is False


def test_a_sparkline_keeps_peaks_and_gaps():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([1.0, None, float("nan"), 1.0]) == "▁  ▁"
    assert sparkline([]) == ""
    many = sparkline([0.0] * 500 + [9.0] + [0.0] * 499)
    assert len(many) == 40
    assert many.count("█") == 1
    assert sparkline([50.0, 100.0], floor=0.0) == "▅█"


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (-1, "0 s"), (59, "59 s"), (90, "2 min"), (7200, "2 h")]
)
def test_an_age_has_one_unit(seconds, text):
    assert age(seconds) == text
