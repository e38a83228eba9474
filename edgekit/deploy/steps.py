"""A deployment: one step after the other, each of which looks first and changes only what differs.

    look         what the board is, and what is on it
    upload       the files that are not there yet, from where an earlier try stopped
    environment  a new one beside the one that runs
    self-test    of the bundle, in the new environment
    agent        settings, environment and process change together, or stay as they were

Until the last step nothing that runs is touched. A step whose connection breaks is taken again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.deploy.decide import (
    ENVIRONMENT_BYTES,
    Order,
    SentFile,
    Way,
    check_board,
    check_space,
    choose_way,
    environment_id,
    with_extras,
)
from edgekit.deploy.events import Board, StepEvent
from edgekit.deploy.settings import Wanted, changes, merge
from edgekit.deploy.ssh_errors import LostError
from edgekit.wire.canonical import canonical_json
from edgekit.wire.errors import DeviceError, EdgekitError, GateError
from edgekit.wire.selftest import SelfTestResult, parse_self_test
from edgekit.wire.strict import parse_object

_RETRY_S = (1.0, 2.0, 5.0, 10.0, 20.0)
_CHUNK_BYTES = 1 << 18
_MAX_RESULT = 1 << 20


@dataclass(frozen=True)
class Result:
    """What a deployment came to.

    Attributes:
        steps: The last event of each step.
        changed: Whether anything on the board changed, or would.
        way: Who runs the agent there.
        environment: Name of its environment.
        phase: Of the model's slot; None where nothing was changed.
        self_test: What it said; None where the bundle serves already.
    """

    steps: tuple[StepEvent, ...]
    changed: bool
    way: Way
    environment: str
    phase: str | None = None
    self_test: SelfTestResult | None = None


class Deployment:
    """One deployment to one board.

    Args:
        board: Carries requests.
        order: What is to be deployed.
        host: The board's name in messages.
        on_event: Gets what happens.
        dry_run: Look only.
        sleep: Waits some seconds.
        clock: Seconds that never jump.
    """

    def __init__(
        self,
        board: Board,
        order: Order,
        host: str,
        on_event: Callable[[StepEvent], None],
        *,
        dry_run: bool = False,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._board = board
        self._order = order
        self._host = host
        self._on_event = on_event
        self._dry_run = dry_run
        self._sleep = sleep
        self._clock = clock
        self._began = clock()
        self._steps: list[StepEvent] = []

    def run(self) -> Result:
        """Take all steps.

        Raises:
            DeviceError: The board cannot be reached, lacks something, or a step failed.
            GateError: The self-test says no; nothing that runs was touched.
            ConfigError: The settings on the board are wrong, or for another target.
        """
        probe, way, found = self._look()
        self._order = order = with_extras(self._order, found["extras"])
        environment = environment_id(order, probe["python"])
        is_complete = environment in found["complete"]
        settings = merge(
            found["settings"],
            self._wanted(),
            hostname=probe["hostname"],
            state_dir=str(way.state_dir),
        )
        self._upload(probe, is_complete=is_complete)
        self._make_environment(environment, is_complete=is_complete)
        serves = found["serves"].get(order.model) == order.bundle.sha256
        runs = found["current"] == environment and serves
        tested = self._self_test(environment, found, settings, runs=runs)
        phase = self._activate(environment, way, found, settings, runs=runs)
        changed = any(step.outcome in ("done", "would") for step in self._steps[1:])
        return Result(tuple(self._steps), changed, way, environment, phase, tested)

    def _look(self) -> tuple[dict[str, Any], Way, dict[str, Any]]:
        self._begin("look")
        order = self._order
        prefix = str(order.prefix)
        probe = self._board.call({"do": "probe", "prefix": prefix})
        check_board(probe, order, self._host)
        way = choose_way(probe, order.prefix, self._host, service=order.service)
        self._board.as_root = way.as_root
        asked = {"do": "look", "prefix": prefix, "config": str(way.config)}
        found = self._call(asked | {"state_dir": str(way.state_dir)})
        if found["is_foreign"]:
            raise DeviceError(
                f"{prefix} holds files that edgekit did not put there",
                hint="another --prefix, or empty that folder",
                where=self._host,
            )
        who = "systemd runs the agent" if way.service else f"started directly: {way.why}"
        what = f"{probe['system']}, {probe['machine']}, Python {probe['python']}; {who}"
        self._end("look", "unchanged", what)
        return probe, way, found

    def _wanted(self) -> Wanted:
        order = self._order
        return Wanted(order.model, order.target, order.bundle_path, order.key_pem, order.overlay)

    def _upload(self, probe: Mapping[str, Any], *, is_complete: bool) -> None:
        self._begin("upload")
        order = self._order
        packages = () if is_complete else (order.wheel, *(order.wheels or ()))
        files = (*packages, order.bundle)
        left = self._left(files)
        size_bytes = sum(left)
        environment_bytes = 0 if is_complete else ENVIRONMENT_BYTES
        check_space(probe, size_bytes + environment_bytes, self._host)
        count = sum(part > 0 for part in left)
        what = f"{count} of {len(files)} files, {size_bytes / 2**20:.1f} MiB"
        if not count:
            self._end("upload", "unchanged", f"{len(files)} files are there")
        elif self._dry_run:
            self._end("upload", "would", what)
        else:
            self._again(lambda: self._put(files))
            self._end("upload", "done", what)

    def _left(self, files: Sequence[SentFile]) -> list[int]:
        asked = {"do": "have", "prefix": str(self._order.prefix)}
        have = self._call(asked | {"files": [file.to_json() for file in files]})["have"]
        return [file.size_bytes - int(part) for file, part in zip(files, have, strict=True)]

    def _put(self, files: Sequence[SentFile]) -> None:
        left = [(f, part) for f, part in zip(files, self._left(files), strict=True) if part > 0]
        total, done = sum(part for _, part in left), 0

        def on_event(event: Mapping[str, Any]) -> None:
            nonlocal done
            done += int(event.get("done") or 0)
            self._tell("upload", "running", str(event.get("name") or ""), done=done, total=total)

        asked = [file.to_json() | {"offset": file.size_bytes - part} for file, part in left]
        request = {"do": "put", "prefix": str(self._order.prefix), "files": asked}
        self._board.call(request, payload=_content(left), on_event=on_event)

    def _make_environment(self, environment: str, *, is_complete: bool) -> None:
        self._begin("environment")
        order = self._order
        if is_complete:
            self._end("environment", "unchanged", environment)
            return
        from_where = "packages from the index" if order.wheels is None else "packages from here"
        what = f"{environment}: edgekit{_bracketed(order.extras)}, {from_where}"
        if self._dry_run:
            self._end("environment", "would", what)
            return
        request = {
            "do": "environment",
            "prefix": str(order.prefix),
            "environment": environment,
            "wheel": order.wheel.to_json(),
            "wheels": [wheel.to_json() for wheel in order.wheels or ()],
            "offline": order.wheels is not None,
            "extras": list(order.extras),
        }
        result = self._call(
            request,
            lambda event: self._tell("environment", "running", str(event.get("say"))[:200]),
        )
        self._end("environment", "done" if result["changed"] else "unchanged", what)

    def _self_test(
        self, environment: str, found: Mapping[str, Any], settings: str, *, runs: bool
    ) -> SelfTestResult | None:
        self._begin("self-test")
        order = self._order
        if runs and not changes(found["settings"], settings):
            self._end("self-test", "unchanged", "the agent serves the bundle already")
            return None
        if self._dry_run:
            self._end("self-test", "would", f"of {order.model} for {order.target}")
            return None
        request = {
            "do": "self-test",
            "prefix": str(order.prefix),
            "environment": environment,
            "bundle": order.bundle.to_json(),
            "key": order.key_raw,
            "where": "board",
        }
        document = self._call(request)["document"]
        result = read_self_test(document, self._host)
        if not result.passed:
            raise GateError(
                f"the self-test says no: {result.reason}",
                hint="nothing that runs there was touched; the report of the build shows the same "
                "samples on this host",
                where=self._host,
            )
        self._end("self-test", "done", _passed(result))
        return result

    def _activate(
        self,
        environment: str,
        way: Way,
        found: Mapping[str, Any],
        settings: str,
        *,
        runs: bool,
    ) -> str | None:
        self._begin("agent")
        order = self._order
        differing = changes(found["settings"], settings)
        if self._dry_run:
            same = runs and not differing
            what = (
                "new settings"
                if found["settings"] is None
                else f"settings: {', '.join(differing) or 'as they are'}"
            )
            self._end("agent", "unchanged" if same else "would", what)
            return None
        request = {
            "do": "activate",
            "prefix": str(order.prefix),
            "environment": environment,
            "config": str(way.config),
            "state_dir": found["state_dir"],
            "user": order.user if way.service else None,
            "settings": settings,
            "model": order.model,
            "sha256": order.bundle.sha256,
            "bundle_name": order.bundle.name,
            "wait_s": order.wait_s,
        }
        result = self._call(request)
        if not result["changed"]:
            self._end("agent", "unchanged", f"serves {order.model}")
            return None
        phase = str(result["phase"])
        what = "written" if found["settings"] is None else f"changed: {', '.join(differing)}"
        was = f"; settings {what}" if differing else ""
        self._end("agent", "done", f"serves {order.model}, {phase}{was}")
        return phase

    def _call(
        self,
        request: Mapping[str, Any],
        on_event: Callable[[Mapping[str, Any]], None] = lambda _event: None,
    ) -> dict[str, Any]:
        result: dict[str, Any] = self._again(lambda: self._board.call(request, on_event=on_event))
        return result

    def _again(self, work: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever the work returns
        """Do it again where the connection broke: every request may be repeated."""
        for wait_s in _RETRY_S:
            try:
                return work()
            except LostError as error:
                self._tell(self._step, "again", f"{error.message}; again in {wait_s:.0f} s")
                self._sleep(wait_s)
        return work()

    def _begin(self, step: str) -> None:
        self._step = step
        self._began = self._clock()
        self._tell(step, "running")

    def _end(self, step: str, outcome: str, detail: str) -> None:
        event = StepEvent(step, outcome, detail, self._clock() - self._began)
        self._steps.append(event)
        self._on_event(event)

    def _tell(
        self, step: str, outcome: str, detail: str = "", *, done: int = 0, total: int = 0
    ) -> None:
        self._on_event(StepEvent(step, outcome, detail, None, done, total))


def read_self_test(document: object, host: str) -> SelfTestResult:
    """Read what a board says of a self-test, strictly.

    Raises:
        DeviceError: It is no result.
    """
    try:
        data = canonical_json(document)
        return parse_self_test(parse_object(data, "self-test", most_bytes=_MAX_RESULT))
    except (EdgekitError, ValueError, TypeError) as error:
        raise DeviceError(f"no result of a self-test: {error}", where=host) from error


def _passed(result: SelfTestResult) -> str:
    samples = f"{result.golden.samples} golden samples" if result.golden else ""
    found = {m.metric: m.value for m in result.measurements}
    p95 = found.get("latency_p95_ms")
    return f"{samples} as built" + (f", p95 {p95:.3g} ms measured on the board" if p95 else "")


def _bracketed(extras: Sequence[str]) -> str:
    return f"[{','.join(extras)}]" if extras else ""


def _content(left: Sequence[tuple[SentFile, int]]) -> Iterator[bytes]:
    for file, part in left:
        with file.path.open("rb") as stream:
            stream.seek(file.size_bytes - part)
            while chunk := stream.read(_CHUNK_BYTES):
                yield chunk
