"""A fleet's web server without a socket, and people with each role."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from edgekit.fleet.home import FleetHome
from edgekit.fleet.opened import Opened
from edgekit.fleet.web.accounts import Accounts, Role
from edgekit.fleet.web.app import make_app
from edgekit.fleet.web.guard import Guard

from ....fleet_fill import empty_home, fill  # noqa: TID252

with warnings.catch_warnings():
    # It prefers another HTTP client than the one that the toolchain brings.
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

PASSWORD = "correct horse battery"  # noqa: S105 - of tests


@dataclass
class Clock:
    """A clock that the test sets."""

    now_s: float = field(default_factory=time.time)

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Served:
    home: FleetHome
    opened: Opened
    guard: Guard
    accounts: Accounts
    clock: Clock
    tokens: dict[Role, str]

    def client(self, role: Role | None = None, base: str = "http://localhost:8600") -> TestClient:
        headers = {} if role is None else {"Authorization": f"Bearer {self.tokens[role]}"}
        return TestClient(self.guard, base_url=base, headers=headers, follow_redirects=False)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def lived(tmp_path_factory) -> FleetHome:
    """Six devices of the last half hour; not to be changed."""
    home = empty_home(tmp_path_factory.mktemp("fleet") / "home")
    fill(home, 6, 6)
    return home


@pytest.fixture
def serve(tmp_path) -> Iterator[Callable[[FleetHome | None], Served]]:
    running: list[Opened] = []

    def start(home: FleetHome | None = None) -> Served:
        home = home or empty_home(tmp_path / "fleet")
        opened = Opened(home.path)
        running.append(opened)
        clock, accounts, tokens = Clock(), Accounts(opened.engine), {}
        for role in Role:
            accounts.set_user(role.word, role, None, clock())
            who = next(r for r in [accounts.session(accounts.log_in(role.word, clock()), clock())])
            assert who is not None
            tokens[role] = accounts.add_token(who, "test", role, None, clock())
        guard = make_app(opened, clock, time.monotonic, with_pages=False)
        return Served(home, opened, guard, accounts, clock, tokens)

    yield start
    for opened in running:
        opened.close()


@pytest.fixture
def served(serve) -> Served:
    """A fleet without devices."""
    return serve(None)
