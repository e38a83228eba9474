"""The agent: ``python -m edgekit.agent.main --config /etc/edgekit/agent.json``.

One thread decides: it takes events from a queue, lets time pass once a second, and keeps status
and telemetry. What takes long happens elsewhere and comes back as an event. It says hello before
numpy and onnxruntime are imported: a board that is short of memory is still heard.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import queue
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from edgekit import __version__
from edgekit.agent import vitals
from edgekit.agent.config import Config, load_config
from edgekit.agent.desk import Desk
from edgekit.agent.engine import Engine
from edgekit.agent.flows import Flows, make_flow
from edgekit.agent.hands import AgentHands
from edgekit.agent.jobs import UnknownModelError
from edgekit.agent.lifecycle import Lifecycle
from edgekit.agent.link import Link
from edgekit.agent.logbook import Logbook, log_to_stderr
from edgekit.agent.notify import notify
from edgekit.agent.outbox import Outbox
from edgekit.agent.selftest import SelfTestSettings
from edgekit.agent.serve.server import HttpServer, HttpSettings
from edgekit.agent.serving import Models
from edgekit.agent.session import Address, Protocol, Tls
from edgekit.agent.signatures import apart
from edgekit.agent.slots import Trust, open_slots
from edgekit.agent.status import status_document, write_status
from edgekit.agent.telemetry import Collector, Queue, Served
from edgekit.runtime import trial_events as on
from edgekit.runtime.trial_events import CLOCK_SET_S, Event, Instant
from edgekit.wire.canonical import Json
from edgekit.wire.errors import EdgekitError
from edgekit.wire.messages import Hello

if TYPE_CHECKING:
    from edgekit.agent.mappings.chosen import Mappings

log = logging.getLogger(__name__)

TICK_S = 1.0
# A quick model runs in the server's own thread, which nothing can take out of it again.
HTTP_HANGS_S = 30.0


@dataclass(frozen=True)
class Clocks:
    """Where time comes from.

    Attributes:
        monotonic_s: Seconds that never jump.
        unix_s: Unix time in seconds.
        speed: How many of these seconds pass in one of the kernel's, by which we wait.
    """

    monotonic_s: Callable[[], float] = time.monotonic
    unix_s: Callable[[], float] = time.time
    speed: float = 1.0

    def now(self) -> Instant:
        """Return this moment by both clocks."""
        unix_s = self.unix_s()
        return Instant(self.monotonic_s(), unix_s if unix_s > CLOCK_SET_S else None)


class Agent:
    """All parts of an agent, put together.

    Args:
        config: The settings.
        clocks: Where time comes from.

    Raises:
        DeviceError: Another agent has the state folder, or it cannot be written.
    """

    def __init__(self, config: Config, clocks: Clocks | None = None) -> None:
        config = replace(config, trusted_keys=apart(config.trusted_keys))
        self.config = config
        self._clocks = clocks or Clocks()
        self.boot_id = secrets.token_hex(8)
        self._started_s = self._clocks.monotonic_s()
        self.logbook = Logbook()
        logging.getLogger().addHandler(self.logbook)
        self._events: queue.SimpleQueue[tuple[str, Event] | None] = queue.SimpleQueue()
        config.state_dir.mkdir(parents=True, exist_ok=True)
        trust = Trust(config.trusted_keys, config.target)
        self.slots = open_slots(config.state_dir / "slots", trust)
        self.outbox = Outbox(
            config.state_dir / "outbox.db", config.outbox_bytes, self.boot_id, self._clocks.unix_s
        )
        if self.slots.damage:
            self.outbox.put("event", {"what": "slots-damaged", "why": self.slots.damage})
        self.engine = Engine(self._count, self._clocks.monotonic_s)
        self.flows = Flows(self.engine, self._clocks.unix_s, self._flow_ended)
        self.models = Models(self.engine, self._called, self._clocks.monotonic_s)
        self.desk = Desk(
            config, self.boot_id, self.outbox, self._clocks.unix_s, self.post, self._vitals()
        )
        where = SelfTestSettings(where=config.device)
        self.hands = AgentHands(
            self.slots, self.models, config.trusted_keys, self.post, self.desk.tell, where
        )
        self.lifecycle = Lifecycle(self.slots, self.hands, self._clocks.now, config.trial)
        self._mappings: Mappings | None = None
        self.link = self._make_link()
        self.http = HttpServer(
            self.engine,
            HttpSettings(**vars(config.http)),
            healthy=lambda: not self.flows.stopping.is_set(),
        )
        self.collector = Collector(
            self._vitals(),
            self._served,
            self.outbox.stats,
            self._clocks.monotonic_s,
        )
        # Pipelines whose models do not all serve yet.
        self._pipelines = dict(config.pipelines)

    def post(self, model: str, event: Event) -> None:
        """Hand in an event, from any thread."""
        self._events.put((model, event))

    def stop(self) -> None:
        """End :meth:`run`, from any thread or a signal's handler."""
        self._events.put(None)

    def run(self) -> None:
        """Do everything until :meth:`stop`.

        Raises:
            ConfigError: The settings of a flow or of the server will not do.
            MissingToolError: A package that they need is not installed.
        """
        try:
            # First of all: wrong settings must not look like a bundle that crashes.
            flows = [make_flow(flow, self._clocks.monotonic_s) for flow in self.config.flows]
            if self.link is not None:
                self.link.start()
            if self._mappings is not None:
                self._mappings.start()
            self.http.start()
            log.info("edgekit %s serves %s", __version__, self.http.url)
            self.lifecycle.start()
            # Bundles of the settings are read from end to end before they are ordered.
            threading.Thread(
                target=self.desk.order_local, args=(self.hands,), name="orders", daemon=True
            ).start()
            self.flows.start(flows)
            notify("READY=1")
            self._loop()
        finally:
            notify("STOPPING=1")
            self._close()

    def _loop(self) -> None:
        clock = self._clocks.monotonic_s
        next_tick = next_sample = clock()
        while True:
            left_s = max(0.0, min(next_tick, next_sample) - clock())
            try:
                item = self._events.get(timeout=left_s / self._clocks.speed)
            except queue.Empty:
                item = ("", on.Tick())
            if item is None:
                return
            model, event = item
            if model:
                self.lifecycle.handle(model, event)
            now = clock()
            if now >= next_tick:
                next_tick = now + TICK_S
                self._tick()
            if now >= next_sample:
                next_sample = now + self.config.period_s
                sample = self.collector.sample()
                self.outbox.put("sample", sample)
                if self._mappings is not None:
                    self._mappings.take(sample)

    def _tick(self) -> None:
        ticks = {
            model: on.Tick(oldest_request_s=self.models.oldest_call_s(model))
            for model in self.lifecycle.states
        }
        self.lifecycle.tick(ticks)
        self._serve_pipelines()
        self.desk.serves(self.models.served)
        write_status(self.config.state_dir, self.status())
        if self.http.silent_s() < HTTP_HANGS_S:
            notify("WATCHDOG=1")
        else:
            log.error("the HTTP server hangs: the watchdog may end this process")

    def _serve_pipelines(self) -> None:
        """Serve each pipeline of the settings once all of its models do."""
        for name, document in tuple(self._pipelines.items()):
            from edgekit.agent.chains import serve_chain

            try:
                serve_chain(self.engine, name, document, where=f"pipelines.{name}")
            except UnknownModelError:
                continue
            except EdgekitError as error:
                log.error("pipeline %s cannot be served: %s", name, error)  # noqa: TRY400
                event = {"what": "pipeline-refused", "model": name, "why": error.message}
                self.outbox.put("event", event)
            del self._pipelines[name]

    def status(self) -> dict[str, Json]:
        """Return what `edgekit agent status` shows."""
        return status_document(
            config=self.config,
            boot_id=self.boot_id,
            uptime_s=self._clocks.monotonic_s() - self._started_s,
            http=self.http.url,
            states=self.lifecycle.states,
            served={name: s.sha256 for name, s in self.models.served.items()},
            link=self.link.status if self.link is not None else None,
            outbox=self.outbox.stats(),
            self_tests=dict(self.hands.results),
        )

    def _close(self) -> None:
        self.flows.stopping.set()
        self.hands.stop()
        self.lifecycle.stop()
        self.http.stop()
        self.engine.close()
        self.flows.join()
        if self._mappings is not None:
            self._mappings.stop()
        if self.link is not None:
            self.link.stop()
        self.outbox.close()
        self.slots.close()
        logging.getLogger().removeHandler(self.logbook)
        write_status(self.config.state_dir, {**self.status(), "running": False})

    def _vitals(self) -> Callable[[], dict[str, Json]]:
        # One each: a rate is the difference to the reader's own last reading.
        return vitals.reader(psutil, Path("/"), self.config.state_dir, self._clocks.monotonic_s)

    def _called(self, model: str, sha256: str, latency_ms: float, failed: bool) -> None:
        # Requests of confirmed models decide nothing: thousands a second need not queue here.
        if self.lifecycle.is_on_trial(model):
            self.post(model, on.RequestServed(sha256, latency_ms, failed))

    def _count(self, model: str, latency_s: float, ok: bool, prediction: object) -> None:
        self.models.count(model, latency_s, ok, prediction)  # type: ignore[arg-type]

    def _served(self) -> dict[str, Served]:
        return {
            name: Served(serving.sha256, serving.meter, self._queue(name))
            for name, serving in self.models.served.items()
        }

    def _queue(self, name: str) -> Queue | None:
        try:
            stats = self.engine.stats(name)
        except UnknownModelError:
            return None  # it has just gone
        return Queue(stats.queued, stats.rejected + stats.dropped)

    def _make_link(self) -> Link | None:
        broker = self.config.broker
        if broker is None:
            return None
        tls = None if broker.tls is None else Tls(**vars(broker.tls))
        address = Address(
            broker.host,
            broker.port,
            self.config.fleet,
            self.config.device,
            broker.username,
            broker.password,
            tls,
        )
        self._mappings = self._make_mappings(address)
        link = Link(
            address,
            self.outbox,
            hello=self._hello,
            commands=self.desk.commands(
                self.models, self.slots, self.status, self._capture, self.logbook.answer
            ),
            on_desired=self.desk.desired,
            mapping=self._mappings.publications if self._mappings is not None else None,
        )
        self.desk.reports_to(link.report)
        return link

    def _make_mappings(self, address: Address) -> Mappings | None:
        if self.config.home_assistant is None and self.config.sparkplug is None:
            return None
        from edgekit.agent.mappings.chosen import Mappings

        def protocol() -> Protocol | None:
            return self.link.status.protocol if self.link is not None else None

        def expected() -> set[str]:
            slots = self.lifecycle.states.items()
            return {model for model, slot in slots if slot.confirmed or slot.order}

        last_class = self.engine.last_class
        return Mappings(self.config, address, last_class, expected, protocol, self._clocks)

    def _capture(self, args: Mapping[str, Json]) -> Json:
        from edgekit.agent.capture import FOLDER, Captures

        assert self.link is not None  # noqa: S101 - commands come over it
        folder, publish = self.config.state_dir / FOLDER, self.link.publish_output
        return Captures(self.config.capture, folder, self.engine, publish, self._clocks.unix_s).run(
            args
        )

    def _hello(self) -> Hello:
        return Hello(
            boot_id=self.boot_id,
            time_s=self._clocks.unix_s(),
            version=__version__,
            target=self.config.target,
            arch=platform.machine(),
            commands=self.link.command_names if self.link is not None else (),
            facts={"python": platform.python_version(), "kernel": platform.release()},
        )

    def _flow_ended(self, model: str, why: str) -> None:
        self.outbox.put("event", {"what": "flow-ended", "model": model, "why": why})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the agent until SIGTERM or SIGINT; what a service calls.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="edgekit-agent", description="Run the edgekit agent.")
    parser.add_argument("--config", type=Path, required=True, help="the settings, agent.json")
    parser.add_argument("--verbose", action="store_true", help="log details")
    arguments = parser.parse_args(argv)
    log_to_stderr(verbose=arguments.verbose)
    try:
        run_until_stopped(arguments.config)
    except EdgekitError as error:
        log.error("%s%s", error, f"\n  hint: {error.hint}" if error.hint else "")  # noqa: TRY400
        return int(error.exit_code)
    except Exception:
        log.exception("the agent failed")
        return 1
    return 0


def run_until_stopped(config: Path) -> dict[str, Json]:
    """Run the agent with the settings of a file until SIGTERM or SIGINT.

    Args:
        config: agent.json.

    Returns:
        Its last status.

    Raises:
        EdgekitError: The settings will not do, or another agent has the state folder.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    agent = Agent(load_config(config))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: agent.stop())
    agent.run()
    return agent.status()


if __name__ == "__main__":
    sys.exit(main())
