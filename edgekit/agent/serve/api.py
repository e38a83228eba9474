"""What the agent answers to which request; knows nothing of sockets.

========================================  =====================================================
``GET /``                                 the live page
``GET /live``                             what it shows, as JSON
``GET /live/NAME/picture``                the last input, where it is a picture
``GET /metrics``                          Prometheus text format
``GET /v2``, ``/v2/health/live|ready``    server metadata and health, Open Inference Protocol v2
``GET /v2/models``                        the names that are served
``GET /v2/models/NAME[/ready]``           metadata and health of one model
``POST /v2/models/NAME/infer``            tensors in, tensors out
``POST /infer/NAME``                      a picture, a sound, a text in, a prediction out
========================================  =====================================================

An error is ``{"error": "...", "hint": "..."}``, whatever it is.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgekit import __version__
from edgekit.agent.engine import Engine, predicting
from edgekit.agent.jobs import Job, ModelInfo
from edgekit.agent.serve import metrics
from edgekit.agent.serve.live import live_document, picture_kind
from edgekit.agent.serve.messages import (
    LENGTH_HEADER,
    Request,
    Response,
    error_response,
    json_response,
    problem,
)
from edgekit.wire.errors import EdgekitError

log = logging.getLogger(__name__)

Reply = Callable[[Response], None]
DEADLINE_HEADER = b"edgekit-deadline-ms"
_POLICY = (
    b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src blob:; "
    b"connect-src 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_PAGE_HEADERS = ((b"content-security-policy", _POLICY), (b"referrer-policy", b"no-referrer"))
_ROUTES = (
    "GET / /live /metrics /v2 /v2/models /v2/models/NAME; POST /infer/NAME /v2/models/NAME/infer"
)
_INFERRING = "infer"
# A body that is parsed in well under a millisecond.
SMALL_BYTES = 32 << 10


class Api:
    """The agent's answers.

    Args:
        engine: What is served.
        token: Every request but for the bare page and health must carry it as a bearer token.
        hosts: Names that a request's Host header may have; None allows all. A page on the web can
            make a browser ask a server on loopback under the page's own name; this stops it.
        healthy: Whether the agent as a whole is well.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        token: str | None = None,
        hosts: frozenset[str] | None = None,
        healthy: Callable[[], bool] = lambda: True,
    ) -> None:
        self.engine = engine
        self._expected = None if token is None else b"Bearer " + token.encode()
        self._hosts = hosts
        self._healthy = healthy
        self._page: bytes | None = None

    def gate(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> Response | None:
        """Decide by the head alone whether a request is refused; its body is not read then."""
        if self._hosts is not None and not self._host_is_ours(headers.get(b"host")):
            return problem(
                421,
                "this server does not answer to that host name",
                "use the address that it listens on",
            )
        parts = split(path)
        if (
            self._expected is not None
            and parts not in (("",), ("v2", "health", "live"), ("v2", "health", "ready"))
            and not hmac.compare_digest(headers.get(b"authorization", b""), self._expected)
        ):
            return problem(
                401,
                "this server needs a token",
                "Authorization: Bearer TOKEN",
                (b"www-authenticate", b"Bearer"),
            )
        wanted = _methods(parts)
        if wanted is None:
            return problem(404, f"nothing at {path[:200]}", f"there is: {_ROUTES}")
        if method not in wanted:
            allow = ", ".join(wanted)
            return problem(
                405,
                f"{method[:20]} does not work here",
                f"this path takes {allow}",
                (b"allow", allow.encode()),
            )
        if _is_inference(parts) and _model(parts) not in self.engine.names():
            return self._unknown(_model(parts))
        version = _version(path)
        return None if version is None else self._other_version(parts[2], version)

    def handle(self, request: Request, reply: Reply) -> Job | None:
        """Answer a request that :meth:`gate` has let through.

        Args:
            request: With its body.
            reply: Called once with the answer, now or later, by this thread or another.

        Returns:
            The job that will reply; None where the reply has been given.
        """
        parts = split(request.path)
        try:
            if _is_inference(parts):
                return self._infer(parts, request, reply)
            reply(self._look(parts))
        except EdgekitError as error:
            reply(error_response(error))
        return None

    def _infer(self, parts: tuple[str, ...], request: Request, reply: Reply) -> Job | None:
        name, headers, body = _model(parts), request.headers, request.body
        if not body:
            reply(problem(400, "the request has no body", "send the input as the body"))
            return None
        deadline_s = _deadline_s(headers.get(DEADLINE_HEADER))
        if parts[0] == "v2":
            # numpy comes with the first model, not with the server.
            from edgekit.agent.serve.tensors import inferring

            work = inferring(body, headers.get(LENGTH_HEADER))
            return self.engine.submit(
                name,
                work,
                lambda job: reply(_tensor_response(job)),
                deadline_s=deadline_s,
                here="quick" if len(body) <= SMALL_BYTES else "never",
            )
        return self.engine.submit(
            name,
            predicting(body),
            lambda job: reply(_prediction_response(job)),
            deadline_s=deadline_s,
            sample=body,
        )

    def _look(self, parts: tuple[str, ...]) -> Response:  # noqa: PLR0911 - a table of routes
        engine = self.engine
        match parts:
            case ("",):
                return self._show_page()
            case ("live",):
                return json_response(live_document(engine, self._healthy()))
            case ("live", name, "picture"):
                last = engine.last(name)
                if last is None or last.sample is None:
                    return problem(404, f"{name} has no picture to show", "send it one")
                return Response(200, last.sample, picture_kind(last.sample), _PAGE_HEADERS)
            case ("metrics",):
                text = metrics.render(engine, rss_bytes()).encode()
                return Response(200, text, b"text/plain; version=0.0.4; charset=utf-8")
            case ("v2",):
                extensions = ["binary_tensor_data"]
                return json_response(
                    {"name": "edgekit", "version": __version__, "extensions": extensions}
                )
            case ("v2", "health", "live"):
                return json_response({"live": True})
            case ("v2", "health", "ready"):
                ready = self._healthy() and bool(engine.names())
                return json_response({"ready": ready}, 200 if ready else 503)
            case ("v2", "models"):
                return json_response({"models": engine.names()})
            case ("v2", "models", name, *rest):
                return _model_response(engine.info(name), rest)
        return problem(404, "nothing here", f"there is: {_ROUTES}")

    def _show_page(self) -> Response:
        if self._page is None:
            self._page = files("edgekit.agent").joinpath("page.html").read_bytes()
        return Response(200, self._page, b"text/html; charset=utf-8", _PAGE_HEADERS)

    def _unknown(self, name: str) -> Response:
        try:
            self.engine.info(name)
        except EdgekitError as error:
            return error_response(error)
        return problem(404, "the model has just gone", "ask again")

    def _other_version(self, name: str, asked: str) -> Response | None:
        """Refuse a version that does not serve: who names one wants no other."""
        try:
            served = self.engine.info(name).version
        except EdgekitError as error:
            return error_response(error)
        if asked == served:
            return None
        return problem(404, f"no version {asked[:20]} of {name}", f"served here: version {served}")

    def _host_is_ours(self, header: bytes | None) -> bool:
        if header is None:
            return True  # browsers always send one
        name = header.decode("latin-1").lower()
        name = name[: name.find("]") + 1] if name.startswith("[") else name.partition(":")[0]
        return self._hosts is None or name in self._hosts


def split(path: str) -> tuple[str, ...]:
    """Split a path into its parts, but for a version: see :func:`_version`."""
    parts = path[1:].split("/")
    if _version(path) is not None:
        parts[3:5] = []
    return tuple(parts)


def _version(path: str) -> str | None:
    """Return the version that a path names: 3 in ``/v2/models/a/versions/3/infer``."""
    match path[1:].split("/"):
        case ["v2", "models", _, "versions", version, *_]:
            return version
    return None


def rss_bytes() -> int | None:
    """Return this process's resident memory; None where the system does not say."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):
        return None
    import resource

    return int(pages) * resource.getpagesize()


def _methods(parts: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the methods that a path takes; None where there is nothing."""
    match parts:
        case ("infer", _) | ("v2", "models", _, "infer"):
            return ("POST",)
        case (
            ("",)
            | ("live",)
            | ("live", _, "picture")
            | ("metrics",)
            | ("v2",)
            | ("v2", "health", "live" | "ready")
            | ("v2", "models")
            | ("v2", "models", _)
            | ("v2", "models", _, "ready")
        ):
            return ("GET", "HEAD")
    return None


def _is_inference(parts: tuple[str, ...]) -> bool:
    return parts[-1] == _INFERRING or parts[0] == _INFERRING


def _model(parts: tuple[str, ...]) -> str:
    return parts[2] if parts[0] == "v2" else parts[1]


def _model_response(info: ModelInfo, rest: list[str]) -> Response:
    if rest == ["ready"]:
        return json_response({"name": info.name, "ready": True})
    from edgekit.agent.serve.tensors import metadata

    return json_response(metadata(info))


def _deadline_s(header: bytes | None) -> float | None:
    if header is None or not header.isdigit() or len(header) > 9:  # noqa: PLR2004
        return None
    return max(1, int(header)) / 1000


def _tensor_response(job: Job) -> Response:
    if job.error is not None:
        return error_response(job.error)
    response: Response = job.result
    return response


def _prediction_response(job: Job) -> Response:
    if job.error is not None:
        return error_response(job.error)
    prediction: dict[str, Any] = job.result
    try:
        return json_response(prediction)
    except ValueError:
        return problem(422, "the prediction is not finite", "look at the input's values")
