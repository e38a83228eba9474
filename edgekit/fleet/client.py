"""A fleet from Python: its folder on this machine, or its server with a token.

    from edgekit.fleet.client import Fleet

    with Fleet("fleet") as fleet:                              # or Fleet("https://…", token)
        hot = [d["name"] for d in fleet.devices() if (d["temp_c"] or 0) > 70]
        fleet.query("SELECT device, count(*) FROM telemetry GROUP BY ALL").rows

Both give the same rows, as plain JSON values.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from edgekit.fleet.sql import Answer
from edgekit.wire.errors import ConfigError, DeviceError, EdgekitError, TrustError, UsageError

if TYPE_CHECKING:
    from edgekit.fleet.opened import Opened

Row = dict[str, Any]
PAGE = 500
MAX_ANSWER_BYTES = 256 << 20
TIMEOUT_S = 60.0
_API = "/api/v1"


class Backend(Protocol):
    """Where a fleet's rows come from."""

    def get(self, what: str, **asked: Any) -> Any:  # noqa: ANN401 - JSON
        """Return rows of ``devices``, ``summary``, ``device``, ``series``, ``events`` and so on."""
        ...

    def query(self, sql: str, rows: int, timeout_s: float) -> Answer:
        """Run one SELECT."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...


class Fleet:
    """One fleet, for reading.

    Args:
        place: The fleet's folder, or the URL of its server.
        token: For the server; see `edgekit fleet up`.
        backend: In place of either; for tests.

    Raises:
        ConfigError: The folder is no fleet.
    """

    def __init__(
        self,
        place: str | Path = "fleet",
        token: str | None = None,
        *,
        backend: Backend | None = None,
    ) -> None:
        self.place = str(place)
        if backend is None:
            is_url = self.place.startswith(("http://", "https://"))
            if is_url:
                backend = Web(self.place, token)
            else:
                from edgekit.fleet.opened import Home

                backend = Home(Path(place))
        self._backend = backend

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of files and connections."""
        self._backend.close()

    def opened(self) -> Opened:
        """Return the fleet's folder, for what a server does not offer.

        Raises:
            UsageError: The fleet is a server.
        """
        from edgekit.fleet.opened import Home

        if not isinstance(self._backend, Home):
            raise UsageError("this needs the fleet's folder", hint="--home DIR, on its server")
        return self._backend.opened

    def devices(
        self,
        *,
        search: str = "",
        labels: Mapping[str, str] | None = None,
        state: str | None = None,
        model: str | None = None,
        sort: str = "name",
        descending: bool = False,
        limit: int | None = None,
    ) -> list[Row]:
        """Return devices.

        Args:
            search: Part of a name.
            labels: That a device must have.
            state: ``online``, ``offline`` or ``never``.
            model: That it must serve.
            sort: A column.
            descending: The other way round.
            limit: Most; None for all.
        """
        found: list[Row] = []
        for page in self._pages(search, labels or {}, state, model, sort, descending):
            found += page
            if limit is not None and len(found) >= limit:
                return found[:limit]
        return found

    def _pages(
        self,
        search: str,
        labels: Mapping[str, str],
        state: str | None,
        model: str | None,
        sort: str,
        descending: bool,
    ) -> Iterator[list[Row]]:
        offset = 0
        while True:
            page = self._backend.get(
                "devices",
                search=search,
                labels=dict(labels),
                state=state,
                model=model,
                sort=sort,
                descending=descending,
                offset=offset,
                limit=PAGE,
            )
            yield page["rows"]
            offset += len(page["rows"])
            if not page["rows"] or offset >= page["total"]:
                return

    def summary(self) -> Row:
        """Return how many devices are online, offline, never seen, and more."""
        found: Row = self._backend.get("summary")
        return found

    def device(self, name: str) -> Row:
        """Return everything about one device.

        Raises:
            UsageError: There is none of this name.
        """
        found: Row = self._backend.get("device", name=name)
        return found

    def series(
        self, device: str, metric: str, since_s: float, until_s: float
    ) -> list[tuple[float, float]]:
        """Return a device's values of a metric (``temp_c``) over time, oldest first."""
        found = self._backend.get(
            "series", device=device, metric=metric, since_s=since_s, until_s=until_s
        )
        return [(float(at_s), float(value)) for at_s, value in found]

    def latency(
        self,
        *,
        since_s: float,
        until_s: float,
        device: str | None = None,
        model: str | None = None,
    ) -> list[Row]:
        """Return p50, p95, p99 and n over time, from merged histograms."""
        found: list[Row] = self._backend.get(
            "latency", device=device, model=model, since_s=since_s, until_s=until_s
        )
        return found

    def events(
        self, device: str | None = None, *, since_s: float = 0.0, limit: int = 200
    ) -> list[Row]:
        """Return events, the newest first."""
        found: list[Row] = self._backend.get("events", device=device, since_s=since_s, limit=limit)
        return found

    def models(self) -> list[Row]:
        """Return the models that any device serves."""
        found: list[Row] = self._backend.get("models")
        return found

    def alerts(self, *, is_open: bool = True) -> list[Row]:
        """Return alerts, the newest first."""
        found: list[Row] = self._backend.get("alerts", is_open=is_open)
        return found

    def query(self, sql: str, *, rows: int = 1000, timeout_s: float = 30.0) -> Answer:
        """Run one SELECT over the telemetry and the store.

        Raises:
            UsageError: Not one SELECT, malformed, or over its time.
        """
        return self._backend.query(sql, rows, timeout_s)


class _NoRedirects(HTTPRedirectHandler):
    """A token is for the server that was named."""

    def redirect_request(self, *_: Any) -> None:  # noqa: ANN401 - urllib's
        return None


class Web:
    """A fleet's server.

    Args:
        url: Of the server.
        token: Sent as ``Authorization: Bearer``.

    Raises:
        ConfigError: No URL.
    """

    def __init__(self, url: str, token: str | None) -> None:
        if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname:
            raise ConfigError("no http or https URL", where=url[:200])
        self._url = url.rstrip("/")
        self._token = token
        self._opener = build_opener(_NoRedirects())

    def get(self, what: str, **asked: Any) -> Any:  # noqa: ANN401 - JSON
        """Return rows."""
        path = what
        if what == "device":
            path = f"devices/{quote(asked.pop('name'), safe='')}"
        elif what == "series":
            device, metric = (quote(asked.pop(key), safe="") for key in ("device", "metric"))
            path = f"devices/{device}/series/{metric}"
        pairs = [(key, value) for key, given in asked.items() for value in _as_text(given)]
        return self._ask(f"{path}?{urlencode(pairs)}" if pairs else path)

    def query(self, sql: str, rows: int, timeout_s: float) -> Answer:
        """Run one SELECT."""
        asked = json.dumps({"sql": sql, "rows": rows, "timeout_s": timeout_s}).encode()
        found = self._ask("query", asked, timeout_s + 10.0)
        return Answer(tuple(found["columns"]), tuple(map(tuple, found["rows"])), found["truncated"])

    def close(self) -> None:
        """Nothing is held."""

    def _ask(self, path: str, data: bytes | None = None, timeout_s: float = TIMEOUT_S) -> Any:  # noqa: ANN401 - JSON
        request = Request(f"{self._url}{_API}/{path}", data=data)  # noqa: S310 - the scheme was checked
        request.add_header("Accept", "application/json")
        if data is not None:
            request.add_header("Content-Type", "application/json")
        if self._token is not None:
            request.add_unredirected_header("Authorization", f"Bearer {self._token}")
        try:
            with self._opener.open(request, timeout=timeout_s) as answer:
                body = answer.read(MAX_ANSWER_BYTES + 1)
        except HTTPError as error:
            with error:
                raise _refused(error.code, error.read(1 << 16), self._url) from error
        except (URLError, OSError) as error:
            raise DeviceError(
                "the fleet's server cannot be reached", hint="is it up?", where=self._url
            ) from error
        if len(body) > MAX_ANSWER_BYTES:
            raise DeviceError("the answer is too large", hint="ask for less", where=self._url)
        try:
            return json.loads(body)
        except ValueError as error:
            raise DeviceError("the answer is no JSON", where=self._url) from error


def _refused(code: int, body: bytes, where: str) -> EdgekitError:
    try:
        document = json.loads(body)
        message, hint = str(document["message"])[:300], document.get("hint")
    except (ValueError, KeyError, TypeError, AttributeError):
        message, hint = f"the server answered {code}", None
    if code in {401, 403}:
        return TrustError(message, hint=hint or "give a token with --token-file", where=where)
    if code in {400, 404, 422}:
        return UsageError(message, hint=hint, where=where)
    return DeviceError(message, hint=hint, where=where)


def _as_text(given: Any) -> list[str]:  # noqa: ANN401 - a query's value
    if given is None or given == "":
        return []
    if isinstance(given, bool):
        return [str(given).lower()]
    if isinstance(given, dict):
        return [f"{key}={value}" for key, value in given.items()]
    return [str(given)]


def to_plain(value: Any) -> Any:  # noqa: ANN401 - rows of any kind
    """Return rows as plain JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            item.name: to_plain(getattr(value, item.name)) for item in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_plain(item) for item in value]
    return value
