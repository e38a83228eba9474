"""A fleet's folder, opened: its settings, its store, and what orders and alerts need of them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from edgekit.fleet.broker import Role, credentials
from edgekit.fleet.client import to_plain
from edgekit.fleet.dispatch import Report
from edgekit.fleet.home import FleetHome
from edgekit.fleet.office import Known, Office, Place
from edgekit.fleet.publisher import BrokerAddress
from edgekit.fleet.settings import load_settings
from edgekit.fleet.sql import Answer, Source, run_query
from edgekit.wire.errors import MissingToolError
from edgekit.wire.signing import load_private_key

if TYPE_CHECKING:
    from edgekit.fleet.alerts.store import StoreFacts

# What a device refused before that is of an order that nobody follows any more.
_REFUSALS_S = 31 * 86_400.0
_NAMES_AT_ONCE = 5000
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class Opened:
    """A fleet's folder on this machine; use it in a ``with``.

    Args:
        folder: Of the fleet.

    Attributes:
        home: Its places.
        settings: Of ``fleet.toml``.
        reader: For :mod:`edgekit.fleet.store.queries`.

    Raises:
        ConfigError: It is no fleet, or its store cannot be opened.
        MissingToolError: The extra ``[fleet]`` is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self.home = FleetHome.open(folder)
        self.settings = load_settings(self.home)
        try:
            from edgekit.fleet.store import open_store
            from edgekit.fleet.store.queries import Reader

            self.engine = open_store(self.home.database)
        except ImportError as error:
            raise MissingToolError(
                f"the fleet needs {error.name}", hint="pip install 'edgekit[fleet]'"
            ) from error
        self._stack = ExitStack()
        self._stack.callback(self.engine.dispose)
        self.reader = Reader(self.engine, self.home.raw)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the store."""
        self._stack.close()

    @property
    def alerts(self) -> StoreFacts:
        """Alerts, silences, and what alerts know."""
        from edgekit.fleet.alerts.store import StoreFacts

        return StoreFacts(self.home, self.reader)

    @property
    def bundles_stay_here(self) -> bool:
        """Whether devices reach the broker from elsewhere, but not the bundles."""
        host = urlsplit(self.settings.base_url).hostname or ""
        return bool(self.settings.broker_listen) and host in _LOOPBACK

    def address(self, role: Role) -> BrokerAddress:
        """Return the fleet's broker, and as whom to connect."""
        username, password = credentials(self.home, role)
        settings = self.settings
        return BrokerAddress(settings.broker_host, settings.broker_port, username, password)

    def source(self) -> Source:
        """Return what a query sees."""
        files = [Path(name) for name in self.reader.files()]
        return Source(self.home.database, self.home.raw, files)

    def office(self) -> Office:
        """Return what gives orders.

        Raises:
            TrustError: The key of the orders cannot be read.
        """
        settings = self.settings
        place = Place(
            fleet=settings.name,
            bundles=self.home.bundles,
            base_url=settings.base_url,
            broker=self.address("web"),
            key=load_private_key(self.home.keys / "orders.pem"),
        )
        return Office(place, self.engine, self.reports, self.known)

    def known(self) -> dict[str, Known]:
        """Return all devices that are registered, by name."""
        import sqlalchemy as sa

        from edgekit.fleet.store.schema import devices, last_state

        d, s = devices.c, last_state.c
        joined = devices.outerjoin(last_state, d.name == s.device)
        query = sa.select(d.name, d.labels, s.online).select_from(joined)
        with self.engine.connect() as connection:
            rows = connection.execute(query.where(d.removed_s.is_(None))).all()
        return {name: Known(labels, online) for name, labels, online in rows}

    def reports(self, devices: Sequence[str]) -> Mapping[str, Report]:
        """Return what devices said last; those that are not registered are missing."""
        found: dict[str, Report] = {}
        for start in range(0, len(devices), _NAMES_AT_ONCE):
            found.update(self._reports(devices[start : start + _NAMES_AT_ONCE]))
        return found

    def _reports(self, names: Sequence[str]) -> Iterator[tuple[str, Report]]:
        import sqlalchemy as sa

        from edgekit.fleet.store.schema import devices, events, last_state

        d, s, e = devices.c, last_state.c, events.c
        joined = devices.outerjoin(last_state, d.name == s.device)
        query = sa.select(d.name, s.reported).select_from(joined)
        is_refusal = sa.func.json_extract(e["values"], "$.what") == "order-refused"
        since_s = time.time() - _REFUSALS_S
        newest = (
            sa.select(sa.func.max(e.id))
            .where(e.device.in_(names), e.received_s >= since_s, is_refusal)
            .group_by(e.device)
        )
        with self.engine.connect() as connection:
            rows = connection.execute(query.where(d.removed_s.is_(None), d.name.in_(names))).all()
            refusals = {
                device: (str(_object(values).get("why", "")), float(received_s))
                for device, values, received_s in connection.execute(
                    sa.select(e.device, e["values"], e.received_s).where(e.id.in_(newest))
                )
            }
        for name, reported in rows:
            said = _object(reported)
            why, at_s = refusals.get(name, ("", 0.0))
            yield (
                name,
                Report(
                    order_id=said.get("order_id"),
                    phase=said.get("phase", ""),
                    detail=said.get("detail", ""),
                    running=said.get("running", {}),
                    refusal=why,
                    refused_s=at_s,
                ),
            )


class Home:
    """A fleet's folder as rows; see :class:`edgekit.fleet.client.Backend`.

    Args:
        folder: Of the fleet.
    """

    def __init__(self, folder: Path) -> None:
        self.opened = Opened(folder)

    def get(self, what: str, **asked: Any) -> Any:  # noqa: ANN401 - JSON
        """Return rows."""
        from edgekit.fleet.store import queries

        leading = [asked.pop(key) for key in _LEADING.get(what, ())]
        return to_plain(getattr(queries, what)(self.opened.reader, *leading, **asked))

    def query(self, sql: str, rows: int, timeout_s: float) -> Answer:
        """Run one SELECT."""
        return run_query(self.opened.source(), sql, rows=rows, timeout_s=timeout_s)

    def close(self) -> None:
        """Let go of the store."""
        self.opened.close()


# Arguments that the store's queries take by place.
_LEADING = {"device": ("name",), "series": ("device", "metric", "since_s", "until_s")}


def _object(text: str | None) -> dict[str, Any]:
    found = json.loads(text) if text else {}
    return found if isinstance(found, dict) else {}
