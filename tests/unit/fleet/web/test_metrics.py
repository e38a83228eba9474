"""Metrics as Prometheus reads them, and the dashboard that draws them."""

from __future__ import annotations

import json
import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

import edgekit.fleet.web as package
from edgekit.fleet.store.rows import IngestRow, ModelRow, Summary
from edgekit.fleet.web.accounts import Role
from edgekit.fleet.web.metrics import METRICS, exposition

SUMMARY = Summary(3, 1, 1, 1, 2, {"0.1.0": 2, "": 1}, {}, {})
MODEL = ModelRow("pets", 2, {"a": 2}, 100, 5, 19.5, 30.25)
INGEST = IngestRow(990.0, "running", "", {"messages": 7, "refused_schema": 2})
LINE = re.compile(r'[a-z_]+(\{([a-z_]+="([^"\\\n]|\\["\\n])*",?)+\})? -?[0-9.e+-]+')


def text(**more) -> str:
    given = {"summary": SUMMARY, "alerts": [("critical", "offline")], "ingest": INGEST,
             "models": [MODEL], "answers": {"2xx": 9}, "now_s": 1000.0}  # fmt: skip
    return exposition(**(given | more))


def test_what_is_counted():
    lines = text().splitlines()
    for line in (
        'edgekit_fleet_devices{state="never_seen"} 1',
        'edgekit_fleet_versions{version="unknown"} 1',
        'edgekit_fleet_alerts_open{severity="critical",kind="offline"} 1',
        "edgekit_fleet_ingest_up 1",
        "edgekit_fleet_ingest_silent_seconds 10",
        'edgekit_fleet_ingest_refused_total{reason="schema"} 2',
        'edgekit_fleet_ingest_total{what="messages"} 7',
        'edgekit_fleet_model_latency_seconds{model="pets",quantile="0.95"} 0.03025',
        'edgekit_fleet_http_answers_total{status="2xx"} 9',
    ):
        assert line in lines


def test_ingest_is_down_where_it_is_silent_or_never_ran():
    assert "edgekit_fleet_ingest_up 0" in text(now_s=1100.0)
    assert "edgekit_fleet_ingest_up 0" in text(ingest=None)


@given(st.text(max_size=30))
def test_no_name_breaks_the_format(name):
    model = ModelRow(name, 1, {}, 0, 0, None, None)
    for line in text(models=[model]).removesuffix("\n").split("\n"):
        assert line.startswith("# ") or LINE.fullmatch(line), line


def test_the_dashboard_draws_metrics_that_there_are():
    path = Path(package.__file__).parent / "grafana.json"
    board = json.loads(path.read_text(encoding="utf-8"))
    asked = re.findall(
        r"edgekit_fleet_[a-z_]+", json.dumps([p["targets"] for p in board["panels"]])
    )
    assert set(asked) == set(METRICS)


def test_both_are_offered_to_who_is_known(served):
    viewer = served.client(Role.VIEWER)
    answer = viewer.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'edgekit_fleet_devices{state="online"} 0' in answer.text
    assert viewer.get("/grafana.json").json()["title"] == "edgekit fleet"
