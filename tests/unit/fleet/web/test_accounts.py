"""Who may do what, and until when."""

from __future__ import annotations

import pytest

from edgekit.fleet.store.schema import sessions, tokens
from edgekit.fleet.web.accounts import SESSION_S, Identity, Role
from edgekit.wire.errors import UsageError

from .conftest import PASSWORD


def who(served, role: Role) -> Identity:
    found = served.accounts.token(served.tokens[role], served.clock())
    assert found is not None
    return found


def test_a_session_ends_with_its_time_its_user_and_its_password(served):
    accounts, now_s = served.accounts, served.clock()
    accounts.set_user("anna", Role.VIEWER, PASSWORD, now_s)
    secret = accounts.log_in("anna", now_s)
    assert accounts.session(secret, now_s + SESSION_S - 1).role is Role.VIEWER
    assert accounts.session(secret, now_s + SESSION_S + 1) is None
    assert accounts.session(secret + "x", now_s) is None
    accounts.set_password("anna", PASSWORD + "!")
    assert accounts.session(secret, now_s) is None
    again = accounts.log_in("anna", now_s)
    accounts.remove_user("anna")
    assert accounts.session(again, now_s) is None


def test_only_hashes_are_kept(served):
    secret = served.accounts.log_in("viewer", served.clock())
    with served.opened.engine.connect() as connection:
        kept = str(connection.execute(sessions.select()).all())
        kept += str(connection.execute(tokens.select()).all())
    assert secret not in kept
    assert served.tokens[Role.ADMIN] not in kept


def test_a_role_that_is_lost_is_lost_for_tokens_and_sessions(served):
    accounts, now_s = served.accounts, served.clock()
    secret = accounts.log_in("operator", now_s)
    accounts.set_user("operator", Role.VIEWER, None, now_s)
    assert who(served, Role.OPERATOR).role is Role.VIEWER
    assert accounts.session(secret, now_s).role is Role.VIEWER


def test_no_token_is_above_its_user_and_it_ends(served):
    accounts, now_s = served.accounts, served.clock()
    viewer = who(served, Role.VIEWER)
    with pytest.raises(UsageError, match="no token for admin"):
        accounts.add_token(viewer, "x", Role.ADMIN, None, now_s)
    with pytest.raises(UsageError, match="name"):
        accounts.add_token(viewer, " ", Role.VIEWER, None, now_s)
    token = accounts.add_token(viewer, "grafana", Role.VIEWER, 60.0, now_s)
    assert accounts.token(token, now_s + 59) is not None
    assert accounts.token(token, now_s + 61) is None
    row = next(row for row in accounts.tokens("viewer") if row.name == "grafana")
    assert row.used_s == now_s + 59
    with pytest.raises(UsageError):
        accounts.remove_token(row.id, "operator")
    accounts.remove_token(row.id, "viewer")
    assert accounts.token(token, now_s) is None


def test_the_last_admin_stays(served):
    accounts = served.accounts
    for change in (
        lambda: accounts.remove_user("admin"),
        lambda: accounts.set_user("admin", Role.VIEWER, None, 0.0),
    ):
        with pytest.raises(UsageError, match="last admin"):
            change()
    accounts.set_user("second", Role.ADMIN, None, 0.0)
    accounts.remove_user("admin")
    assert {user.name for user in accounts.users()} == {"operator", "second", "viewer"}


@pytest.mark.parametrize("name", ["", "Anna", "a b", "-a", "a" * 65, "a\n", "<b>"])
def test_odd_names_are_refused(served, name):
    with pytest.raises(UsageError, match="can be named"):
        served.accounts.set_user(name, Role.VIEWER, None, 0.0)


def test_a_password_lets_in_its_user_alone(served):
    served.accounts.set_user("anna", Role.VIEWER, PASSWORD, 0.0)
    assert served.accounts.check("anna", PASSWORD)
    assert not served.accounts.check("anna", PASSWORD.upper())
    assert not served.accounts.check("viewer", PASSWORD)  # has none
    assert not served.accounts.check("viewer", "")
    assert not served.accounts.check("nobody", PASSWORD)
