"""A fleet's folder, with a real store: what orders, alerts and the terminal find there."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from edgekit.cli.main import run
from edgekit.fleet.alerts.notice import Notice
from edgekit.fleet.alerts.readings import Window
from edgekit.fleet.alerts.watch import Watch
from edgekit.fleet.bundles import put_bundle
from edgekit.fleet.client import Fleet
from edgekit.fleet.home import FleetHome, write_private
from edgekit.fleet.opened import Opened
from edgekit.fleet.settings import Settings, write_settings
from edgekit.fleet.store import schema
from edgekit.fleet.store.writes import add_device, remove_device
from edgekit.runtime.sketches import LatencyHistogram
from edgekit.wire.errors import ConfigError, UsageError
from edgekit.wire.signing import generate_key

NOW_S = time.time()
SAMPLE = {
    "vitals": {"temp_c": 91.0, "throttled": True},
    "models": {"pets": {"bundle": "9f86d081884c", "drift": {"a": {"psi": 0.5, "level": "much"}}}},
}


@pytest.fixture
def opened(tmp_path) -> Iterator[Opened]:
    home = FleetHome.create(tmp_path / "fleet")
    write_settings(home, Settings(name="lab", broker_port=1))
    write_private(home.keys / "orders.pem", generate_key("orders").to_pem())
    with Opened(home.path) as made:
        add_device(made.engine, "cam-1", {"site": "roof"}, NOW_S)
        add_device(made.engine, "cam-2", {"site": "hall"}, NOW_S)
        add_device(made.engine, "gone", {"site": "roof"}, NOW_S)
        remove_device(made.engine, "gone", NOW_S)
        yield made


def put(opened: Opened, table: sa.Table, **values: Any) -> None:
    with opened.engine.begin() as connection:
        connection.execute(sa.insert(table).values(**values))


def say(opened: Opened, device: str, **values: Any) -> None:
    reported = {"order_id": "o-1", "phase": "trial", "detail": "", "running": {"pets": "a" * 64}}
    row = {
        "device": device,
        "online": True,
        "last_seen_s": NOW_S,
        "reported": json.dumps(reported),
        "sample": json.dumps(SAMPLE),
        "sample_s": NOW_S,
        "temp_c": 91.0,
    }
    put(opened, schema.last_state, **(row | values))


def test_a_folder_that_is_no_fleet_is_said(tmp_path, capsys):
    with pytest.raises(ConfigError, match="no fleet"):
        Opened(tmp_path)
    for name in ("devices", "watch", "alerts", "tail"):
        assert run(["fleet", name, "--home", str(tmp_path), "--json"]) == 3
        assert "no fleet" in json.loads(capsys.readouterr().out)["message"]


def test_what_devices_said_last_is_found(opened):
    say(opened, "cam-1")
    event = {"device": "cam-2", "time_s": 1.0, "name": "order-refused"}
    for number, why in enumerate(("an old one", "not trusted here")):
        values = json.dumps({"what": "order-refused", "why": why})
        put(opened, schema.events, **event, received_s=NOW_S + number, values=values)
    found = opened.reports(["cam-1", "cam-2", "gone", "nobody"])
    assert set(found) == {"cam-1", "cam-2"}
    assert (found["cam-1"].order_id, found["cam-1"].phase) == ("o-1", "trial")
    assert found["cam-1"].running == {"pets": "a" * 64}
    assert (found["cam-2"].refusal, found["cam-2"].refused_s) == ("not trusted here", NOW_S + 1)
    assert {name: k.online for name, k in opened.known().items()} == {"cam-1": True, "cam-2": None}


@pytest.mark.parametrize(
    ("listen", "url", "stay"),
    [("", "", False), ("10.0.0.1", "", True), ("10.0.0.1", "https://fleet.lan/", False)],
)
def test_bundles_that_stay_here_are_known(opened, listen, url, stay):
    opened.settings = dataclasses.replace(opened.settings, broker_listen=listen, http_url=url)
    assert opened.bundles_stay_here is stay


def test_an_office_chooses_by_label_and_by_name(opened):
    office = opened.office()
    assert office.choose({"site": "roof"}, []) == ["cam-1"]
    assert office.choose({}, []) == ["cam-1", "cam-2"]
    assert office.choose({}, ["cam-2"]) == ["cam-2"]
    with pytest.raises(UsageError, match="no device has site=rof") as caught:
        office.choose({"site": "rof"}, [])
    assert caught.value.hint == "did you mean site=roof?"
    with pytest.raises(UsageError) as caught:
        office.choose({}, ["cam-3"])
    assert "did you mean cam-" in (caught.value.hint or "")


def test_alerts_know_boards_models_gaps_and_the_server(opened, small_bundle):
    say(opened, "cam-1")
    histogram = LatencyHistogram()
    for _ in range(30):
        histogram.add(50.0)
    window_s = int(NOW_S // 300 * 300)
    latency = json.dumps([{str(k): v for k, v in histogram.buckets.items()}, histogram.sum_us])
    put(
        opened, schema.rollups, window_s=window_s, device="cam-1", model="pets", samples=1,
        requests=30, errors=3, rejected=0, latency=latency, vitals="{}",
    )  # fmt: skip
    put(
        opened, schema.high_water, device="cam-1", boot_id="b" * 16, ranges="[[0, 5]]", have=6,
        top=9, issued=12, dropped=2, received_s=NOW_S,
    )  # fmt: skip
    put(
        opened, schema.ingest_state, name="ingest", alive_s=NOW_S - 40, status="running",
        detail="", counts="{}",
    )  # fmt: skip
    facts = opened.alerts
    first, second = facts.devices({300.0, 900.0}, NOW_S)
    assert (first.name, first.temp_c, first.throttled, first.missing) == ("cam-1", 91.0, True, 4)
    pets = first.models["pets"]
    assert pets.psi == 0.5
    assert pets.limit_ms is None, "its bundle is not offered here"
    window = pets.windows[900.0]
    assert (window.requests, window.errors) == (30, 3)
    assert isinstance(window, Window)
    assert window.p95_ms == pytest.approx(50.0, rel=0.03)
    assert (second.name, second.online, second.temp_c, second.missing) == (
        "cam-2",
        None,
        None,
        None,
    )
    server = facts.server(NOW_S)
    assert server.ingest_silent_s == pytest.approx(40.0)
    assert server.disk_used_share is not None
    assert 0 < server.disk_used_share <= 1
    offer = put_bundle(opened.home.bundles, small_bundle.path, [small_bundle.private_key.public])
    assert facts.limit_ms(offer.sha256[:12]) is offer.p95_limit_ms
    assert facts.limit_ms("../../../x") is None
    assert facts.limit_ms("0" * 12) is None


def test_an_ingest_that_waits_counts_as_silent_though_it_says_that_it_lives(opened):
    facts = opened.alerts

    def say_so(status: str, alive_s: float) -> float | None:
        with opened.engine.begin() as connection:
            connection.execute(sa.delete(schema.ingest_state))
        put(
            opened, schema.ingest_state, name="ingest", alive_s=alive_s, status=status,
            detail="", counts="{}",
        )  # fmt: skip
        return facts.server(alive_s + 1).ingest_silent_s

    assert facts.server(NOW_S).ingest_silent_s is None
    assert say_so("running", NOW_S) == pytest.approx(1)
    assert say_so("waiting", NOW_S + 5) == pytest.approx(6)
    assert say_so("waiting", NOW_S + 40) == pytest.approx(41)
    assert say_so("running", NOW_S + 45) == pytest.approx(1)


class Silent:
    """Sends nothing, and says that it did."""

    def __init__(self, *_: object) -> None: ...

    def put(self, _notice: Notice, _names: object = None) -> list[str]:
        return []

    def stop(self) -> None: ...


def test_an_alert_shows_in_the_terminal_and_a_silence_counts(opened, capsys):
    say(opened, "cam-1")
    home = str(opened.home.path)
    (opened.home.alerts_file).write_text("[rules.temperature]\nfor_s = 0\n")
    watch = Watch(opened.home.alerts_file, "lab", opened.alerts, Silent)  # type: ignore[arg-type]
    watch.tick(NOW_S)
    assert run(["fleet", "alerts", "--home", home, "--json"]) == 0
    (alert,) = json.loads(capsys.readouterr().out)["alerts"]
    assert (alert["rule"], alert["device"], alert["silenced"]) == ("temperature", "cam-1", False)
    silence = ["fleet", "alerts", "--home", home, "--silence", "temp*", "--device", "cam-?"]
    assert run([*silence, "--for", "2h", "--json"]) == 0
    (kept,) = json.loads(capsys.readouterr().out)["silences"]
    watch.tick(NOW_S + 1)
    with Fleet(home) as fleet:
        assert [row["silenced"] for row in fleet.alerts()] == [True]
        assert fleet.summary()["open_alerts"] == 1
        assert fleet.device("cam-1")["vitals"]["temp_c"] == 91.0
        assert [row["alerts"] for row in fleet.devices(sort="alerts", descending=True)] == [1, 0]
    assert run(["fleet", "alerts", "--home", home, "--end-silence", str(kept["id"]), "-q"]) == 0
    assert run(["fleet", "show", "cam-1", "--home", home]) == 0
    assert "cam-1 is at 91 °C" in capsys.readouterr().out
    assert run(["fleet", "watch", "--home", home, "--once"]) == 0
    assert "1 of 2 online" in capsys.readouterr().out


def test_the_log_of_a_device_that_is_not_there_is_not_waited_for(opened, capsys):
    assert run(["fleet", "logs", "cam-3", "--home", str(opened.home.path), "--json"]) == 2
    assert "did you mean cam-" in json.loads(capsys.readouterr().out)["hint"]


def test_rules_are_checked_and_a_channel_is_tried(opened, capsys):
    home = str(opened.home.path)
    assert run(["fleet", "alerts", "--home", home, "--check", "--json"]) == 0
    assert "offline" in json.loads(capsys.readouterr().out)["rules"]
    text = '[channels.hook]\nkind = "webhook"\nurl = "http://127.0.0.1:1/SECRET"\n'
    opened.home.alerts_file.write_text(text)
    assert run(["fleet", "alerts", "--home", home, "--test", "hook", "--json"]) == 8
    said = capsys.readouterr().out
    assert "refused" in json.loads(said)["message"]
    assert "SECRET" not in said
    assert run(["fleet", "alerts", "--home", home, "--test", "hok", "--json"]) == 2
    assert "did you mean hook?" in capsys.readouterr().out


def test_the_store_is_asked_by_sql_and_its_secrets_are_not_there(opened, capsys):
    home = str(opened.home.path)
    sql = "SELECT name, labels FROM devices WHERE removed_s IS NULL ORDER BY name"
    assert run(["fleet", "query", sql, "--home", home, "--json"]) == 0
    assert [row[0] for row in json.loads(capsys.readouterr().out)["rows"]] == ["cam-1", "cam-2"]
    for name in ("users", "tokens", "sessions", "audit"):
        assert run(["fleet", "query", f"SELECT * FROM {name}", "--home", home]) == 2  # noqa: S608 - that is what is tested
    assert run(["fleet", "export", str(Path(home) / "x.csv"), "--home", home, "--json"]) == 2
    assert "no telemetry yet" in capsys.readouterr().out
