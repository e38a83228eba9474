"""REST: what comes back, for whom, and that nothing is unbounded or a 500."""

from __future__ import annotations

import pytest

from edgekit.fleet.client import Web as Remote
from edgekit.fleet.web.accounts import Role

from ....fleet_fill import add_alert  # noqa: TID252


@pytest.fixture
def viewer(serve, lived):
    return serve(lived).client(Role.VIEWER)


def test_devices_come_by_page(viewer):
    page = viewer.get("/api/v1/devices", params={"limit": 2, "offset": 1}).json()
    assert page["total"] == 6
    assert len(page["rows"]) == 2
    first = page["rows"][0]
    assert first["labels"] == {"site": "gate"}
    assert first["online"] is True
    assert first["p95_ms"]
    one = viewer.get("/api/v1/devices", params={"labels": "site=roof", "state": "online"}).json()
    assert {row["labels"]["site"] for row in one["rows"]} == {"roof"}


def test_a_filter_with_a_typing_error_does_not_filter_nothing(viewer):
    answer = viewer.get("/api/v1/devices", params={"stat": "offline"})
    assert answer.status_code == 400
    assert answer.json() == {
        "message": "there is no parameter 'stat'", "hint": "did you mean state?",
    }  # fmt: skip
    assert viewer.get("/api/v1/summary?x=1").status_code == 400


def test_everything_about_a_device(viewer):
    name = viewer.get("/api/v1/devices").json()["rows"][0]["name"]
    found = viewer.get(f"/api/v1/devices/{name}").json()
    assert found["row"]["name"] == name
    until_s = found["sample_s"] + 60
    span = {"since_s": until_s - 3600, "until_s": until_s}
    series = viewer.get(f"/api/v1/devices/{name}/series/temp_c", params=span).json()
    assert len(series) > 100
    points = viewer.get("/api/v1/latency", params=span | {"device": name}).json()
    assert points
    assert all(point["p50"] <= point["p95"] <= point["p99"] for point in points)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("devices?state=odd", 400), ("devices?sort=odd", 400), ("devices?labels=odd", 400),
        ('devices?labels="=x', 400), ("devices?limit=501", 422), ("devices?offset=-1", 422),
        ("devices/none", 404), ("models/none", 404), ("none", 404), ("events?limit=0", 422),
        ("latency?since_s=nan&until_s=1", 422), ("latency?since_s=5&until_s=1", 400),
        ("latency?since_s=0&until_s=90000000000", 400), ("devices?model=%22", 400),
        ("devices/a/series/%22?since_s=0&until_s=1", 400), ("audit", 403),
        ("devices?search=%00%25_\\", 200),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_said(viewer, path, status):
    answer = viewer.get(f"/api/v1/{path}")
    assert answer.status_code == status, answer.text
    if status != 200:
        assert set(answer.json()) == {"message", "hint"}


def test_roles_hold(served):
    asked = {"reason": "painting", "hours": 2, "device": "cam-1*"}
    assert served.client(Role.VIEWER).post("/api/v1/silences", json=asked).status_code == 403
    made = served.client(Role.OPERATOR).post("/api/v1/silences", json=asked)
    number = made.json()["number"]
    assert served.client(Role.VIEWER).delete(f"/api/v1/silences/{number}").status_code == 403
    operator = served.client(Role.OPERATOR)
    assert operator.delete(f"/api/v1/silences/{number}").status_code == 200
    assert operator.delete(f"/api/v1/silences/{number}").status_code == 404
    assert operator.get("/api/v1/audit").status_code == 403
    said = served.client(Role.ADMIN).get("/api/v1/audit").json()
    assert [(row["user"], row["action"]) for row in said] == [
        ("operator", "end-silence"), ("operator", "silence"),
    ]  # fmt: skip


def test_a_query_sees_no_secret(serve, lived):
    served = serve(lived)
    operator = served.client(Role.OPERATOR)
    ask = lambda sql: operator.post("/api/v1/query", json={"sql": sql})  # noqa: E731
    counted = ask("SELECT count(*) FROM telemetry").json()
    assert counted["rows"][0][0] > 0
    for sql in ("SELECT * FROM users", "SELECT * FROM tokens", "SELECT 1; SELECT 2",
                "SELECT * FROM read_text('/etc/passwd')", "DELETE FROM devices"):  # fmt: skip
        assert ask(sql).status_code == 400, sql
    body = {"sql": "SELECT 1"}
    assert served.client(Role.VIEWER).post("/api/v1/query", json=body).status_code == 403


def test_lists_have_what_the_store_has(serve):
    served = serve(None)
    number = add_alert(served.home, "cam-1", "cam-1 is hot")
    viewer = served.client(Role.VIEWER)
    assert [row["id"] for row in viewer.get("/api/v1/alerts").json()] == [number]
    assert viewer.get("/api/v1/alerts?is_open=false").json() == []
    for what in ("events", "models", "orders"):
        assert viewer.get(f"/api/v1/{what}").json() == []
    assert viewer.get("/api/v1/ingest").json() is None
    assert viewer.get("/api/v1/summary").json()["open_alerts"] == 1


def test_the_python_client_speaks_the_same(viewer, monkeypatch):
    remote = Remote("http://localhost:8600", "t")
    monkeypatch.setattr(remote, "_ask", lambda path: viewer.get(f"/api/v1/{path}").json())
    page = remote.get("devices", search="", labels={"site": "roof"}, state=None, model=None,
                      sort="name", descending=True, offset=0, limit=500)  # fmt: skip
    name = page["rows"][0]["name"]
    assert remote.get("device", name=name)["row"]["name"] == name
    assert remote.get("series", device=name, metric="temp_c", since_s=0.0, until_s=1.0) == []
    for what in ("summary", "models", "events"):
        assert remote.get(what) is not None
    assert remote.get("alerts", is_open=True) == []


def test_files_and_health(viewer, serve):
    assert viewer.get("/healthz").json() == {"status": "ok", "ingest": "running"}
    csv = viewer.get("/csv/devices?label=site%3Droof").text.splitlines()
    assert csv[0].startswith("name,online")
    assert len(csv) > 1
    for what in ("alerts", "events", "models"):
        assert viewer.get(f"/csv/{what}").status_code == 200
    assert viewer.get("/csv/audit").status_code == 403
    assert viewer.get("/assets/..%2fapp.py").status_code == 404
    assert viewer.get("/assets/fleet.css").headers["content-type"].startswith("text/css")


def test_a_store_that_cannot_be_read_is_said(served):
    with served.opened.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE last_state")
    answer = served.client(Role.VIEWER).get("/api/v1/devices")
    assert answer.status_code == 503
    assert "store" in answer.json()["message"]
