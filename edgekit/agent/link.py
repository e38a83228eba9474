"""The link: keeps the device connected to its broker, and everything moving while it is.

One thread owns the connection and all of this object's bookkeeping; another does commands, which
may take minutes. Other threads hand over what is to be said (:meth:`Link.report`,
:meth:`Link.publish_output`) and read :attr:`Link.status`. A broker that is away for a week costs
outbox bytes and a connection attempt every few minutes, nothing else.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from edgekit.agent.commands import Commands, Handler, failed
from edgekit.agent.inbox import MAX_PACKET_BYTES, Inbox, Receivers
from edgekit.agent.mappings import Publication
from edgekit.agent.outbox import Outbox
from edgekit.agent.session import Address, Protocol, Session
from edgekit.agent.window import Pace, Window
from edgekit.wire.errors import TrustError
from edgekit.wire.messages import Command, Hello, Reported, State
from edgekit.wire.topics import Leaf, topic

MAX_OUTGOING = 64
MAX_WAITING_COMMANDS = 16
_STEP_S = 0.2

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Backoff:
    """How long to wait before the next attempt: exponential, with full jitter.

    ``random() * min(cap, base * 2 ** attempt)``, so that a fleet does not come back in step
    (Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015).

    A connection that was made but did not hold counts as a failure, too. A broker that lets a
    device in and then drops it (another client with its id, an overload that the fleet's return
    has made) would otherwise be asked again every second, by all at once. One short connection
    costs a wait of a second at most; what it sent and heard has had its effect.

    Attributes:
        base_s: Upper bound of the first wait.
        cap_s: Upper bound of all.
        stable_s: A connection that has held this long starts the count anew.
        ready_within_s: A broker that has not taken the device by then is given up.
    """

    base_s: float = 1.0
    cap_s: float = 300.0
    stable_s: float = 30.0
    ready_within_s: float = 10.0

    def wait_s(self, attempt: int, random: Callable[[], float]) -> float:
        """Return the wait after some attempts in a row have failed.

        Args:
            attempt: 0 after the first.
            random: Gives numbers in 0..1.
        """
        return random() * min(self.cap_s, self.base_s * 2.0 ** min(attempt, 60))


@dataclass(frozen=True)
class LinkStatus:
    """How the link stands.

    Attributes:
        connected: Whether the broker has taken the device and its subscriptions.
        protocol: Version of MQTT; None where not connected.
        problem: Why the last connection ended or failed; empty while connected.
        attempts: Connection attempts that failed in a row.
        connections: Connections that were made, in all.
        refused: Messages from the network that were refused, in all.
    """

    connected: bool = False
    protocol: Protocol | None = None
    problem: str = ""
    attempts: int = 0
    connections: int = 0
    refused: int = 0


@dataclass(frozen=True)
class Clocks:
    """Where time and chance come from.

    Attributes:
        unix_s: Unix time in seconds.
        monotonic_s: Seconds that never jump.
        random: Numbers in 0..1.
    """

    unix_s: Callable[[], float] = time.time
    monotonic_s: Callable[[], float] = time.monotonic
    random: Callable[[], float] = field(default_factory=lambda: random.SystemRandom().random)


class Link:
    """Connects, reconnects, and carries messages both ways.

    Args:
        address: The broker, and who the device is.
        outbox: What is to be sent.
        hello: Says what the device is, at each connection.
        commands: Name to what does it; ``ping`` is there already. Run one after the other.
        on_desired: Gets the bytes of each order, neither checked nor always new; returns at once.
        inputs: Pipeline to what takes its payloads; returns at once.
        mapping: Says what else is due; told whether the connection has just been made.
        pace: How the outbox is emptied.
        backoff: How long to wait between attempts.
        clocks: Where time and chance come from.
    """

    def __init__(
        self,
        address: Address,
        outbox: Outbox,
        *,
        hello: Callable[[], Hello],
        commands: Mapping[str, Handler] | None = None,
        on_desired: Callable[[bytes], object] = lambda _payload: None,
        inputs: Mapping[str, Callable[[bytes], object]] | None = None,
        mapping: Callable[[bool], Iterable[Publication]] | None = None,
        pace: Pace | None = None,
        backoff: Backoff | None = None,
        clocks: Clocks | None = None,
    ) -> None:
        self._address = address
        self._outbox = outbox
        self._hello = hello
        self._backoff = backoff or Backoff()
        self._clocks = clocks or Clocks()
        self._commands = Commands(commands or {})
        self._inputs = dict(inputs or {})
        self._mapping = mapping
        self._window = Window(outbox, pace or Pace(), self._clocks.random)
        receivers = Receivers(self._window.acknowledge, self._command, on_desired, self._inputs)
        self._inbox = Inbox(address.fleet, address.device, receivers)
        self._jobs: queue.Queue[Command] = queue.Queue(MAX_WAITING_COMMANDS)
        self._done: deque[tuple[str, bytes]] = deque()
        self._replies: deque[bytes] = deque(maxlen=MAX_OUTGOING)
        self._outputs: deque[tuple[str, bytes]] = deque(maxlen=MAX_OUTGOING)
        self._reported: bytes | None = None
        self._report_due = False
        self._protocol: Protocol = "5"
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._status = LinkStatus()

    @property
    def status(self) -> LinkStatus:
        """How the link stands now."""
        return replace(self._status, refused=self._inbox.refused)

    @property
    def command_names(self) -> tuple[str, ...]:
        """The commands that the device takes, for its hello."""
        return self._commands.names

    def start(self) -> None:
        """Start the two threads."""
        for name, target in (("link", self.run), ("commands", self._work)):
            thread = threading.Thread(target=target, name=f"edgekit-{name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Say goodbye and end the threads; a command that is being done is not waited for.

        Args:
            timeout_s: Waits this long for the goodbye.
        """
        self._stop.set()
        for thread in self._threads[:1]:
            thread.join(timeout_s)

    def report(self, reported: Reported) -> None:
        """Say what the device runs, now and at each new connection. From any thread."""
        self._reported = reported.to_bytes()
        self._report_due = True

    def publish_output(self, pipeline: str, payload: bytes) -> None:
        """Publish a result at QoS 0; dropped where there is no connection. From any thread.

        Raises:
            TrustError: The pipeline's name may not stand in a topic, or the payload is over 1 MiB.
        """
        if len(payload) > MAX_PACKET_BYTES:
            raise TrustError(f"an output of over {MAX_PACKET_BYTES} bytes")
        place = self._topic("output", pipeline)
        if self._status.connected:
            self._outputs.append((place, payload))

    def run(self) -> None:
        """Stay connected until :meth:`stop`; what :meth:`start` runs in a thread."""
        attempt = 0
        while not self._stop.is_set():
            began_s = self._clocks.monotonic_s()
            session = self._new_session()
            try:
                session.connect()
                self._drive(session, began_s)
            except (OSError, ValueError) as error:
                session.problem = session.problem or str(error) or type(error).__name__
            except Exception as error:  # a bug here must not take the device off the network
                log.exception("the link failed")
                session.problem = f"{type(error).__name__}: {error}"
            session.close(self._goodbye() if self._stop.is_set() else None)
            held_s = self._clocks.monotonic_s() - began_s
            attempt = 0 if session.ready and held_s >= self._backoff.stable_s else attempt + 1
            self._ended(session, attempt)
            if not self._stop.is_set():
                self._stop.wait(self._backoff.wait_s(max(attempt - 1, 0), self._clocks.random))

    def _new_session(self) -> Session:
        state = State("offline", self._outbox.boot_id, self._clocks.unix_s(), "lost")
        hears = [(self._topic(leaf), 1) for leaf in ("ack", "command", "desired")]
        hears += [(self._topic("input", name), 0) for name in self._inputs]
        return Session(
            self._address,
            self._protocol,
            (self._topic("state"), state.to_bytes()),
            hears,
            lambda place, payload, kept: self._inbox.receive(place, payload, retained=kept),
        )

    def _drive(self, session: Session, began_s: float) -> None:
        """Work one connection until it is over."""
        greeted = False
        while not self._stop.is_set() and session.step(0.0 if self._busy() else _STEP_S):
            now_s = self._clocks.monotonic_s()
            if not session.ready:
                if now_s - began_s > self._backoff.ready_within_s:
                    # amqtt says nothing to a CONNECT of MQTT 5, and does not hang up either.
                    session.bad_version = True
                    session.problem = "the broker does not answer"
                    return
            elif not greeted:
                greeted = True
                self._greet(session, now_s)
            else:
                self._send(session, now_s)

    def _busy(self) -> bool:
        return self._status.connected and bool(self._outputs or self._done)

    def _greet(self, session: Session, now_s: float) -> None:
        state = State("online", self._outbox.boot_id, self._clocks.unix_s(), "connected")
        session.publish(self._topic("state"), state.to_bytes(), retain=True)
        session.publish(self._topic("hello"), self._hello().to_bytes(), retain=True)
        self._report_due = self._reported is not None
        self._publish_mapped(session, fresh=True)
        self._window.restart(now_s)
        connections = self._status.connections + 1
        self._status = LinkStatus(True, session.protocol, connections=connections)
        log.info("connected to %s by MQTT %s", self._address.host, session.protocol)

    def _send(self, session: Session, now_s: float) -> None:
        while self._done:
            command_id, reply = self._done.popleft()
            self._commands.remember(command_id, reply)
            self._replies.append(reply)
        if self._report_due and self._reported is not None:
            self._report_due = False
            session.publish(self._topic("reported"), self._reported, retain=True)
        while self._replies and not session.problem:
            session.publish(self._topic("reply"), self._replies.popleft())
        while self._outputs and not session.problem:
            place, payload = self._outputs.popleft()
            session.publish(place, payload, qos=0)
        self._publish_mapped(session, fresh=False)
        batch = None if session.problem else self._window.next_payload(now_s)
        if batch is not None:
            session.publish(self._topic("telemetry"), batch)

    def _publish_mapped(self, session: Session, *, fresh: bool) -> None:
        for due in self._mapping(fresh) if self._mapping is not None else ():
            if not session.problem:
                session.publish(due.topic, due.payload, qos=due.qos, retain=due.retain)

    def _ended(self, session: Session, attempt: int) -> None:
        was = self._status
        if session.bad_version and not session.accepted:
            self._protocol = "3.1.1" if session.protocol == "5" else "5"
        if not self._stop.is_set() and (was.connected or session.problem != was.problem):
            log.warning("not connected to %s: %s", self._address.host, session.problem)
        self._status = LinkStatus(
            problem=session.problem, attempts=attempt, connections=was.connections
        )

    def _command(self, payload: bytes) -> None:
        answer = self._commands.accept(payload)
        if isinstance(answer, bytes):
            self._replies.append(answer)
        elif answer is not None:
            try:
                self._jobs.put_nowait(answer)
            except queue.Full:
                self._commands.forget(answer.id)
                busy = failed(answer.id, "too many commands are waiting", "ask again later")
                self._replies.append(busy)

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                job = self._jobs.get(timeout=_STEP_S)
            except queue.Empty:
                continue
            self._done.append((job.id, self._commands.run(job)))

    def _goodbye(self) -> tuple[str, bytes]:
        state = State("offline", self._outbox.boot_id, self._clocks.unix_s(), "stopped")
        return self._topic("state"), state.to_bytes()

    def _topic(self, leaf: Leaf, name: str = "") -> str:
        return topic(self._address.fleet, self._address.device, leaf, name)
