"""Coming in: by the link once, by password with patience; going out for good."""

from __future__ import annotations

import pytest

from edgekit.fleet.ports import login_token
from edgekit.fleet.store import queries
from edgekit.fleet.web.accounts import Role
from edgekit.fleet.web.login import BURST, safe_next

from .conftest import PASSWORD

COOKIE = "edgekit_session_8600"


def log_in(client, password=PASSWORD, user="anna", **more):
    return client.post("/login", data={"user": user, "password": password, **more})


def audit(served):
    return [(row.user, row.action) for row in queries.audit(served.opened.reader)]


@pytest.fixture
def anna(served):
    served.accounts.set_user("anna", Role.VIEWER, PASSWORD, served.clock())
    return served.client()


def test_the_link_lets_in_once(served):
    client, token = served.client(), login_token(served.home)
    assert client.get("/login", params={"token": token[:-1]}).status_code == 403
    came = client.get("/login", params={"token": token, "next": "/alerts"})
    assert came.status_code == 200
    assert "url=/alerts" in came.text
    cookie = came.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert client.get("/api/v1/audit").status_code == 200  # as admin
    assert served.client().get("/login", params={"token": token}).status_code == 403
    assert audit(served)[:3] == [("–", "login-failed"), ("admin", "login"), ("–", "login-failed")]


def test_a_password_lets_in(served, anna):
    assert log_in(anna, "wrong password here").status_code == 403
    assert COOKIE not in anna.cookies
    assert log_in(anna, next="/models").status_code == 200
    assert anna.get("/api/v1/devices").status_code == 200
    assert anna.get("/api/v1/audit").status_code == 403
    assert audit(served) == [("anna", "login"), ("anna", "login-failed")]


def test_many_tries_wait(served, anna):
    answers = [log_in(anna, "wrong password here").status_code for _ in range(BURST + 1)]
    assert answers == [403] * BURST + [429]
    late = log_in(anna)
    assert late.status_code == 429  # the right one, too
    assert int(late.headers["retry-after"]) > 0


def test_log_out_ends_the_session(served, anna):
    log_in(anna)
    secret = anna.cookies[COOKIE]
    assert anna.post("/logout", data={"csrf": "x"}).status_code == 403
    csrf = served.accounts.session(secret, served.clock()).csrf
    assert anna.post("/logout", data={"csrf": csrf}).status_code == 303
    assert served.accounts.session(secret, served.clock()) is None


def test_another_site_logs_nobody_in(anna):
    data = {"user": "anna", "password": PASSWORD}
    answer = anna.post("/login", data=data, headers={"origin": "http://evil.example"})
    assert answer.status_code == 403
    assert COOKIE not in anna.cookies


@pytest.mark.parametrize(
    ("given", "goes"),
    [
        ("/devices/a?range=1h", "/devices/a?range=1h"), ("", "/"), ("//evil.example", "/"),
        ("/\\evil.example", "/"), ("https://evil.example", "/"), ("/a\nb", "/"), ("/login", "/"),
        ("javascript:alert(1)", "/"), ("/a\\b", "/"),
    ],
)  # fmt: skip
def test_the_login_leads_to_pages_of_this_server_alone(given, goes):
    assert safe_next(given) == goes


def test_what_was_typed_never_becomes_html(anna):
    answer = log_in(anna, "x", next='/"><script>alert(1)</script>')
    assert "<script>alert" not in answer.text


def test_a_form_that_is_too_large_is_no_form(anna):
    assert log_in(anna, "x" * 20_000).status_code == 403
