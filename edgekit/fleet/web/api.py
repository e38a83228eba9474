"""REST: what the pages show, for programs. ``GET /api/v1/openapi.json`` describes it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated, Any

import sqlalchemy as sa
from fastapi import Depends, FastAPI, Query, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from pydantic import Field
from starlette.exceptions import HTTPException

import edgekit
from edgekit.fleet.store import queries
from edgekit.fleet.web import order_rows
from edgekit.fleet.web.accounts import Identity, Role
from edgekit.fleet.web.api_rows import (
    Alert,
    ApiError,
    AuditEntry,
    Device,
    DevicePage,
    Event,
    FleetSummary,
    Ingest,
    Latency,
    Model,
    ModelDetails,
    Order,
    QueryAnswer,
    QueryAsked,
    SilenceAsked,
    SilenceMade,
    plain,
)
from edgekit.fleet.web.guard import identity_of
from edgekit.fleet.web.shared import Web
from edgekit.wire.errors import EdgekitError, RolloutError, TrustError, UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)
MOST_ROWS = 500
MOST_POINTS = 200_000
MOST_SPAN_S = 31 * 86_400.0
_MOST_TIME = 1e11
_ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ApiError, "description": words}
    for code, words in {
        400: "what was asked for makes no sense",
        401: "nobody knows you",
        403: "your role may not do that",
        404: "there is no such thing",
        422: "a value is malformed or out of bounds",
        429: "you ask too often; wait as long as Retry-After says",
        503: "the store is busy or cannot be read",
    }.items()
}

Limit = Annotated[int, Query(ge=1, le=MOST_ROWS)]
Time = Annotated[float, Query(ge=0, le=_MOST_TIME, allow_inf_nan=False)]
Text = Annotated[str, Query(max_length=200)]
# A tuple would be described in a way that OpenAPI 3.1 does not know.
Pair = Annotated[list[float], Field(min_length=2, max_length=2, description="time and value")]
MaybeText = Annotated[str | None, Query(max_length=200)]


class Refused(Exception):  # noqa: N818 - an answer, not an error of ours
    """An answer other than the one that was asked for."""

    def __init__(self, status: int, message: str, hint: str) -> None:
        super().__init__(message)
        self.status, self.message, self.hint = status, message, hint


def needs(role: Role) -> Callable[[Request], Identity]:
    """Return a dependency that lets through who has at least this role."""

    def check(request: Request) -> Identity:
        identity = identity_of(request.scope)
        if identity is None or identity.role < role:
            raise Refused(403, f"this needs the role {role.word}", "ask an admin of the fleet")
        return identity

    return check


def knows_parameters(request: Request) -> None:
    """Refuse a parameter that there is none of: a filter with a typing error would filter nothing.

    Raises:
        UsageError: There is one.
    """
    known = {field.alias for field in request.scope["route"].dependant.query_params}
    for name in request.query_params:
        if name not in known:
            close = did_you_mean(name, known)
            there = f"there are: {', '.join(sorted(known)) or 'none'}"
            hint = f"did you mean {close}?" if close else there
            raise UsageError(f"there is no parameter {name[:80]!r}", hint=hint)


Operator = Annotated[Identity, Depends(needs(Role.OPERATOR))]
Admin = Annotated[Identity, Depends(needs(Role.ADMIN))]


def make_api(web: Web) -> FastAPI:
    """Return the application for ``/api/v1``.

    Args:
        web: The fleet.
    """
    api = FastAPI(
        title=f"edgekit fleet {web.name}",
        version=edgekit.__version__,
        description="Times are Unix seconds of the server, unless a name says that they are the "
        "device's. Lists are bounded; `total` says how many there are.",
        docs_url=None,
        redoc_url=None,
        responses=_ERRORS,
        dependencies=[
            Security(HTTPBearer(auto_error=False, description="`edgekit_…`")),
            Depends(knows_parameters),
        ],
    )
    _add_devices(api, web)
    _add_lists(api, web)
    _add_changes(api, web)
    add_errors(api)
    return api


def _add_devices(api: FastAPI, web: Web) -> None:
    @api.get("/summary")
    def summary() -> FleetSummary:
        """Return how many devices are online, offline and never seen, and more."""
        return plain(FleetSummary, web.summary())

    @api.get("/devices")
    def devices(
        search: Text = "",
        labels: Annotated[list[str] | None, Query(max_length=20, description="key=value")] = None,
        state: Annotated[str | None, Query(description="online, offline or never")] = None,
        model: MaybeText = None,
        sort: Text = "name",
        *,
        descending: bool = False,
        offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
        limit: Limit = 100,
    ) -> DevicePage:
        """Return devices, by page."""
        page = queries.devices(
            web.reader, search=search, labels=labels_of(labels or []), state=state, model=model,
            sort=sort, descending=descending, offset=offset, limit=limit,
        )  # fmt: skip
        return DevicePage([plain(Device, row) for row in page.rows], page.total)

    @api.get("/devices/{name}")
    def device(name: str) -> dict[str, Any]:
        """Return everything about one device."""
        from edgekit.fleet.client import to_plain

        found: dict[str, Any] = to_plain(_known(lambda: queries.device(web.reader, name)))
        return found

    @api.get("/devices/{name}/series/{metric}")
    def series(name: str, metric: str, since_s: Time, until_s: Time) -> list[Pair]:
        """Return a device's values of one of its vitals (`temp_c`), oldest first."""
        _check_span(since_s, until_s)
        found = queries.series(web.reader, name, metric, since_s, until_s)
        if len(found) > MOST_POINTS:
            raise UsageError(f"that is over {MOST_POINTS} points", hint="ask for less time")
        return [list(pair) for pair in found]

    @api.get("/latency")
    def latency(
        since_s: Time, until_s: Time, device: MaybeText = None, model: MaybeText = None
    ) -> list[Latency]:
        """Return p50, p95, p99 in ms and n by five minutes, from merged histograms."""
        _check_span(since_s, until_s)
        found = queries.latency(
            web.reader, since_s=since_s, until_s=until_s, device=device, model=model
        )
        return [plain(Latency, point) for point in found]


def _add_lists(api: FastAPI, web: Web) -> None:
    @api.get("/events")
    def events(device: MaybeText = None, since_s: Time = 0.0, limit: Limit = 200) -> list[Event]:
        """Return events, the newest first."""
        found = queries.events(web.reader, device=device, since_s=since_s, limit=limit)
        return [plain(Event, row) for row in found]

    @api.get("/models")
    def models() -> list[Model]:
        """Return the models that any device serves, with the sums of the last day."""
        return [plain(Model, row) for row in web.models()]

    @api.get("/models/{name}")
    def model(name: str) -> ModelDetails:
        """Return a model over the fleet: self-tests and drift by device."""
        return plain(ModelDetails, _known(lambda: queries.model(web.reader, name)))

    @api.get("/alerts")
    def alerts(
        *, is_open: bool = True, device: MaybeText = None, limit: Limit = 200
    ) -> list[Alert]:
        """Return alerts, the newest first."""
        found = web.alert_rows.list(is_open=is_open, device=device, limit=limit)
        return [plain(Alert, row) for row in found]

    @api.get("/orders")
    def orders(limit: Limit = 50) -> list[Order]:
        """Return the last orders, with their devices counted by phase."""
        return [plain(Order, row) for row in order_rows.orders(web.reader, limit)]

    @api.get("/ingest")
    def ingest() -> Ingest | None:
        """Return how ingest is; null where it never ran."""
        found = web.ingest()
        return None if found is None else plain(Ingest, found)

    @api.get("/audit")
    def audit(_admin: Admin, limit: Limit = 200) -> list[AuditEntry]:
        """Return what people did, the latest first. For admins."""
        return [plain(AuditEntry, row) for row in queries.audit(web.reader, limit=limit)]


def _add_changes(api: FastAPI, web: Web) -> None:
    @api.post("/query")
    def query(asked: QueryAsked, who: Operator) -> QueryAnswer:
        """Run one SELECT over the telemetry and the store, one at a time. For operators."""
        from edgekit.fleet.sql import run_query

        if not web.heavy.acquire(blocking=False):
            raise Refused(503, "another query runs", "try again in a moment")
        try:
            web.note(who, "query", detail=asked.sql)
            found = run_query(
                web.opened.source(), asked.sql, rows=asked.rows, timeout_s=asked.timeout_s
            )
        finally:
            web.heavy.release()
        return QueryAnswer(list(found.columns), [list(row) for row in found.rows], found.truncated)

    @api.post("/silences")
    def silence(asked: SilenceAsked, who: Operator) -> SilenceMade:
        """Tell nobody of some alerts for a while. For operators."""
        made = asked.made(web.clock())
        number = web.alert_rows.add_silence(made, web.clock())
        web.note(who, "silence", f"{made.rule} {made.device}", made.reason)
        return SilenceMade(number)

    @api.delete("/silences/{number}")
    def end_silence(number: int, who: Operator) -> SilenceMade:
        """End a silence. For operators."""
        if not 0 < number < 2**53:
            raise Refused(404, f"no silence has the number {number}", "GET /alerts")
        _known(lambda: web.alert_rows.end_silence(number))
        web.note(who, "end-silence", str(number))
        return SilenceMade(number)

    @api.post("/orders/{order_id}/cancel")
    def cancel(order_id: str, who: Operator) -> dict[str, int]:
        """Call an order back; returns its devices by phase. For operators."""
        office = web.opened.office()
        _known(lambda: office.rollout(order_id))
        found = office.cancel(order_id, web.clock())
        web.note(who, "cancel", order_id)
        return found.counts


def add_errors(app: FastAPI) -> None:
    """Have an application answer every error as JSON with a hint."""

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        return _answer(error.status, error.message, error.hint)

    @app.exception_handler(EdgekitError)
    async def ours(_: Request, error: EdgekitError) -> JSONResponse:
        status = 403 if isinstance(error, TrustError) else 503
        status = 400 if isinstance(error, UsageError | RolloutError) else status
        return _answer(status, error.message, error.hint)

    @app.exception_handler(sa.exc.SQLAlchemyError)
    async def store(_: Request, error: sa.exc.SQLAlchemyError) -> JSONResponse:
        log.warning("the store: %s", error)
        return _answer(503, "the store cannot be read", "edgekit fleet status")

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return _answer(422, f"{where}: {first['msg']}"[:300], "GET /api/v1/openapi.json")

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        return _answer(
            error.status_code, str(error.detail).lower(), "GET /api/v1/openapi.json", error.headers
        )


def labels_of(texts: list[str]) -> dict[str, str]:
    """Read labels that are given as ``key=value``.

    Raises:
        UsageError: One is not.
    """
    found = {}
    for text in texts:
        key, is_pair, value = text.partition("=")
        if not is_pair or not key:
            raise UsageError(f"no label: {text[:80]!r}", hint="key=value")
        found[key] = value
    return found


def _known(ask: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever it returns
    try:
        return ask()
    except (UsageError, RolloutError) as error:
        raise Refused(404, error.message, error.hint or "") from error


def _check_span(since_s: float, until_s: float) -> None:
    if not 0 <= until_s - since_s <= MOST_SPAN_S:
        raise UsageError("the time is over 31 days, or ends before it begins", hint="ask for less")


def _answer(
    status: int,
    message: str,
    hint: str | None,
    headers: Any = None,  # noqa: ANN401 - Starlette's
) -> JSONResponse:
    return JSONResponse({"message": message, "hint": hint}, status, headers)
