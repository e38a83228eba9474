"""A fleet's folder, opened: its settings, its store, and what orders and alerts need of them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from edgekit.fleet.broker import Role, credentials
from edgekit.fleet.bundles import bundle_path, read_offer
from edgekit.fleet.client import to_plain
from edgekit.fleet.dispatch import Report
from edgekit.fleet.home import FleetHome
from edgekit.fleet.office import Known, Office, Place
from edgekit.fleet.publisher import BrokerAddress
from edgekit.fleet.settings import load_settings
from edgekit.fleet.sql import Answer, Source, run_query
from edgekit.wire.errors import EdgekitError, MissingToolError, UsageError
from edgekit.wire.signing import load_private_key

if TYPE_CHECKING:
    from edgekit.fleet.alerts.rows import AlertRows

_EVENTS = 50


def _part(name: str) -> Any:  # noqa: ANN401 - a module
    try:
        return importlib.import_module(f"edgekit.fleet.{name}")
    except ImportError as error:
        raise MissingToolError(
            f"this part of the fleet is not installed: {error.name or name}",
            hint="pip install 'edgekit[fleet]'",
        ) from error


class Opened:
    """A fleet's folder on this machine; use it in a ``with``.

    Args:
        folder: Of the fleet.

    Attributes:
        home: Its places.
        settings: Of ``fleet.toml``.
        reader: For :mod:`edgekit.fleet.store.queries`.

    Raises:
        ConfigError: It is no fleet.
        MissingToolError: The extra ``[fleet]`` is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self.home = FleetHome.open(folder)
        self.settings = load_settings(self.home)
        store = _part("store")
        self.queries = _part("store.queries")
        self._stack = ExitStack()
        self.engine = store.open_store(self.home.database)
        self._stack.callback(self.engine.dispose)
        self.reader = self.queries.Reader(self.engine, self.home.raw)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the store."""
        self._stack.close()

    @property
    def alerts(self) -> AlertRows:
        """Alerts and silences."""
        from edgekit.fleet.alerts.rows import AlertRows

        return AlertRows(self.engine)

    def address(self, role: Role) -> BrokerAddress:
        """Return the fleet's broker, and as whom to connect.

        Args:
            role: ``ingest``, ``web`` or ``alerts``.
        """
        username, password = credentials(self.home, role)
        settings = self.settings
        return BrokerAddress(settings.broker_host, settings.broker_port, username, password)

    def source(self) -> Source:
        """Return what a query sees."""
        files = sorted(self.home.raw.rglob("*.parquet"))
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
        page = self.queries.devices(self.reader, limit=1_000_000)
        return {row.name: Known(row.labels, row.online) for row in page.rows}

    def reports(self, devices: Sequence[str]) -> Mapping[str, Report]:
        """Return what devices said last; those that are not registered are missing."""
        found: dict[str, Report] = {}
        for name in devices:
            try:
                detail = to_plain(self.queries.device(self.reader, name))
            except UsageError:
                continue
            said = detail.get("reported") or {}
            refusals = [
                event
                for event in to_plain(self.queries.events(self.reader, device=name, limit=_EVENTS))
                if event["values"].get("what") == "order-refused"
            ]
            found[name] = Report(
                said.get("order_id"),
                said.get("phase", ""),
                said.get("detail", ""),
                said.get("running", {}),
                str(refusals[0]["values"].get("why", "")) if refusals else "",
                float(refusals[0]["received_s"]) if refusals else 0.0,
            )
        return found

    def p95_limit_ms(self, sha256: str) -> float | None:
        """Return the contract's p95 limit of a bundle that is offered, where it has one."""
        try:
            return read_offer(bundle_path(self.home.bundles, sha256), None).p95_limit_ms
        except EdgekitError:
            return None


class Home:
    """A fleet's folder as rows; see :class:`edgekit.fleet.client.Backend`.

    Args:
        folder: Of the fleet.
    """

    def __init__(self, folder: Path) -> None:
        self.opened = Opened(folder)

    def get(self, what: str, **asked: Any) -> Any:  # noqa: ANN401 - JSON
        """Return rows."""
        if what == "alerts":
            return to_plain(self.opened.alerts.list(is_open=asked["is_open"]))
        leading = [asked.pop(key) for key in _LEADING.get(what, ())]
        return to_plain(getattr(self.opened.queries, what)(self.opened.reader, *leading, **asked))

    def query(self, sql: str, rows: int, timeout_s: float) -> Answer:
        """Run one SELECT."""
        return run_query(self.opened.source(), sql, rows=rows, timeout_s=timeout_s)

    def close(self) -> None:
        """Let go of the store."""
        self.opened.close()


# Arguments that the store's queries take by place.
_LEADING = {"device": ("name",), "series": ("device", "metric", "since_s", "until_s")}
