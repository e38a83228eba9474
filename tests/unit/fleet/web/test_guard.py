"""Nothing gets past the guard but what may."""

from __future__ import annotations

import pytest

from edgekit.fleet.settings import Settings
from edgekit.fleet.web.accounts import Role
from edgekit.fleet.web.app import names_of
from edgekit.fleet.web.guard import HEADERS, Names
from edgekit.fleet.web.limits import Limiter

CLOSED = ("/", "/devices/a", "/metrics", "/grafana.json", "/csv/devices", "/api/v1/devices",
          "/api/v1/openapi.json", "/account", "/_nicegui/x.js")  # fmt: skip


@pytest.mark.parametrize("path", CLOSED)
def test_nobody_unknown_gets_in(served, path):
    client = served.client()
    page = client.get(path, headers={"accept": "text/html"})
    assert page.status_code == 303
    assert page.headers["location"].startswith("/login")
    answer = client.get(path, headers={"accept": "application/json"})
    assert answer.status_code == 401
    assert set(answer.json()) == {"message", "hint"}


@pytest.mark.parametrize(
    "authorization", ["Bearer", "Bearer x", "Basic eDp4", "Bearer edgekit_" + "0" * 43]
)
def test_wrong_tokens_get_in_nowhere(served, authorization):
    answer = served.client().get("/api/v1/devices", headers={"authorization": authorization})
    assert answer.status_code == 401


@pytest.mark.parametrize("path", ["/login", "/healthz", "/api/v1/devices", "/bundles/x", "/none"])
def test_every_answer_has_the_security_headers(served, path):
    answer = served.client(Role.VIEWER).get(path)
    for key, value in HEADERS.items():
        assert answer.headers[key.decode()] == value.decode()


@pytest.mark.parametrize("host", ["evil.example", "", "localhost.evil.example", "a b", "[::1"])
def test_a_name_that_is_not_ours_is_refused(served, host):
    answer = served.client(Role.VIEWER).get("/api/v1/devices", headers={"host": host})
    assert answer.status_code == 421


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:8600", "192.168.1.5:8600"])
def test_our_own_names_are_known(served, host):
    answer = served.client(Role.VIEWER).get("/api/v1/devices", headers={"host": host})
    assert answer.status_code == 200


def test_devices_fetch_bundles_under_any_name(served):
    (served.home.bundles / f"{'a' * 64}.ekb").write_bytes(b"0123456789")
    answer = served.client().get(
        f"/bundles/{'a' * 64}.ekb", headers={"host": "fleet.lan", "range": "bytes=4-"}
    )
    assert (answer.status_code, answer.content) == (206, b"456789")
    assert "immutable" in answer.headers["cache-control"]


def test_a_session_changes_nothing_without_its_secret(served):
    client = served.client()
    secret = served.accounts.log_in("operator", served.clock())
    identity = served.accounts.session(secret, served.clock())
    client.cookies.set("edgekit_session_8600", secret)
    asked = {"reason": "x", "hours": 1}
    assert client.get("/api/v1/devices").status_code == 200
    assert client.post("/api/v1/silences", json=asked).status_code == 403
    wrong = {"x-csrf-token": identity.csrf[:-1]}
    assert client.post("/api/v1/silences", json=asked, headers=wrong).status_code == 403
    right = {"x-csrf-token": identity.csrf}
    assert client.post("/api/v1/silences", json=asked, headers=right).status_code == 200
    for foreign in (
        {"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"},
        {"origin": "http://localhost:9999"},
    ):  # fmt: skip
        answer = client.post("/api/v1/silences", json=asked, headers=right | foreign)
        assert answer.status_code == 403, foreign


def test_a_socket_needs_a_session_of_this_origin(served):
    from starlette.websockets import WebSocketDisconnect

    client = served.client()
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/_nicegui_ws/socket.io"):
        pass
    client.cookies.set("edgekit_session_8600", served.accounts.log_in("viewer", served.clock()))
    with (
        pytest.raises(WebSocketDisconnect) as refused,
        client.websocket_connect("/_nicegui_ws/x", headers={"origin": "http://evil.example"}),
    ):
        pass
    assert refused.value.code == 1008


def test_names_come_from_the_settings():
    names = names_of(Settings(http_url="https://Fleet.example:8443", broker_name="mqtt.lan"))
    assert names.is_https
    assert names.knows("fleet.example:8443")
    assert names.knows("mqtt.lan")
    assert not Names((), "c").knows("fleet.example")
    assert names_of(Settings(http_port=1)).cookie != names_of(Settings(http_port=2)).cookie


def test_who_asks_too_often_is_told_to_wait_and_others_are_not(served, monkeypatch):
    monkeypatch.setattr(served.guard, "_limiter", Limiter(3, 3600.0))
    viewer, admin = served.client(Role.VIEWER), served.client(Role.ADMIN)
    codes = [viewer.get("/api/v1/ingest").status_code for _ in range(5)]
    assert codes == [200, 200, 200, 429, 429]
    answer = viewer.get("/metrics")
    assert answer.headers["retry-after"] == "1"
    assert set(answer.json()) == {"message", "hint"}
    assert viewer.get("/healthz").status_code == 200
    assert admin.get("/api/v1/ingest").status_code == 200
