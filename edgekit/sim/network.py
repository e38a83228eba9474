"""Simulated devices on real sockets: one event loop, one connection a device."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import random
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edgekit.sim.device import Publish, SimDevice
from edgekit.sim.mqtt import Connection, Login, text
from edgekit.sim.summary import Summary
from edgekit.wire.topics import LEAVES, NAMED, TO_DEVICE, Leaf, topic

CONNECTS_PER_S = 500.0
BACKOFF_S = 1.0
BACKOFF_MAX_S = 30.0
_STEP_S = 0.02
_TICK_S = 1.0
_SWEEP_S = 5.0
_NOTE_S = 10.0
_SPARE_FILES = 64


@dataclass(frozen=True)
class Broker:
    """Where the broker is, and as whom devices connect.

    Attributes:
        host: Name or address.
        port: TCP port.
        passwords: Of each device; the user name is the device's. A device without: anonymous.
    """

    host: str
    port: int
    passwords: Mapping[str, str] = field(default_factory=dict, repr=False)


class _Client:
    """A device and its connection."""

    def __init__(self, device: SimDevice, run: NetworkRun) -> None:
        self.device = device
        self.connection: Connection | None = None
        self.is_ready = False
        self.attempts = 0
        self._run = run
        plan = device.plan
        self._topics: dict[Leaf, bytes] = {
            leaf: text(topic(plan.fleet, device.name, leaf)) for leaf in LEAVES if leaf not in NAMED
        }
        self._heard: dict[str, Leaf] = {
            topic(plan.fleet, device.name, leaf): leaf for leaf in TO_DEVICE if leaf not in NAMED
        }

    async def connect(self, broker: Broker) -> None:
        """Open the connection; what comes of it is told to the run."""
        device, plan = self.device, self.device.plan
        will = device.will(self._run.now_s())
        password = broker.passwords.get(device.name)
        login = Login(
            client_id=f"edgekit-{plan.fleet}-{device.name}",
            will_topic=topic(plan.fleet, device.name, "state"),
            will=will.payload,
            username=None if password is None else device.name,
            password=password,
        )
        connection = Connection(
            login, list(self._heard), self._ready, self._receive, self._lost, time.monotonic
        )
        self.connection = connection
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: connection, broker.host, broker.port)
        except OSError as error:
            self._lost(str(error))

    def say(self, said: Sequence[Publish]) -> None:
        """Publish, where there is a connection."""
        if self.connection is not None and self.is_ready:
            for publish in said:
                leaf = self._topics[publish.leaf]
                self.connection.publish(leaf, publish.payload, retain=publish.retain)

    def _ready(self) -> None:
        self.is_ready, self.attempts = True, 0
        self._run.summary.online += 1
        self.say(self.device.connected(self._run.now_s()))

    def _receive(self, topic_: str, payload: bytes) -> None:
        leaf = self._heard.get(topic_)
        if leaf is not None:
            self.say(self.device.receive(leaf, payload, self._run.now_s()))
            self._run.woken(self)

    def _lost(self, reason: str) -> None:
        self._run.summary.online -= self.is_ready
        self.connection, self.is_ready = None, False
        self._run.lost(self, reason)


class NetworkRun:
    """Many devices at a real broker.

    Args:
        devices: The devices.
        broker: Where it is.
        generator: Spreads connections and reconnections.
        unix_s: The calendar's clock; read once.
        monotonic_s: A clock that never jumps.

    Attributes:
        summary: Of what happened.
        problem: Why the last connection was lost.
    """

    def __init__(
        self,
        devices: Sequence[SimDevice],
        broker: Broker,
        generator: random.Random,
        unix_s: Callable[[], float] = time.time,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.summary = Summary()
        self.problem = ""
        self._broker = broker
        self._random = generator.random
        self._monotonic_s = monotonic_s
        self._offset_s = unix_s() - monotonic_s()
        self._began_s = monotonic_s()
        self.clients = [_Client(device, self) for device in devices]
        self._due: list[tuple[float, int, str]] = []
        self._busy: set[_Client] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._index = {client: n for n, client in enumerate(self.clients)}
        self._is_over = False
        ramp_s = max(len(devices) / CONNECTS_PER_S, 0.01)
        for n, client in enumerate(self.clients):
            begins_s = self._began_s + ramp_s * n / len(devices)
            first_s = begins_s + client.device.plan.batch_s * (n + 1) / len(devices)
            heapq.heappush(self._due, (begins_s, n, "connect"))
            heapq.heappush(self._due, (first_s, n, "measure"))

    def now_s(self) -> float:
        """Return the Unix time, by a clock that never jumps."""
        return self._offset_s + self._monotonic_s()

    def count(self) -> Summary:
        """Return how it stands."""
        self.summary.count(client.device for client in self.clients)
        return self.summary

    def woken(self, client: _Client) -> None:
        """Note that time may matter to a device's slot."""
        if client.device.slots.is_busy:
            self._busy.add(client)

    def lost(self, client: _Client, reason: str) -> None:
        """Note that a connection is over; it is opened again after a random wait."""
        if self._is_over:
            return
        self.problem = reason
        self.summary.disconnects += 1
        most_s = min(BACKOFF_MAX_S, BACKOFF_S * 2.0 ** min(client.attempts, 10))
        client.attempts += 1
        again_s = self._monotonic_s() + 0.1 + self._random() * most_s
        heapq.heappush(self._due, (again_s, self._index[client], "connect"))

    async def run(self, seconds: float | None, drain_s: float = 60.0) -> Summary:
        """Run, then wait until everything is acknowledged; then say that the devices stop.

        Args:
            seconds: How long devices measure; None until the task is cancelled.
            drain_s: How long to wait for the last acknowledgements at most.
        """
        end_s = None if seconds is None else self._began_s + seconds
        tick_s = sweep_s = self._monotonic_s()
        try:
            while True:
                now_s = self._monotonic_s()
                if end_s is not None and now_s >= end_s:
                    self._due = [due for due in self._due if due[2] == "connect"]
                    heapq.heapify(self._due)
                    held = any(client.device.outbox.held for client in self.clients)
                    if not held or now_s >= end_s + drain_s:
                        break
                self._do_due(now_s)
                if now_s >= tick_s:
                    tick_s = now_s + _TICK_S
                    self._tick()
                if now_s >= sweep_s:
                    sweep_s = now_s + _SWEEP_S
                    self._sweep(now_s)
                await asyncio.sleep(_STEP_S)
        finally:
            await self._stop()
        return self.count()

    def _do_due(self, now_s: float) -> None:
        while self._due and self._due[0][0] <= now_s:
            due_s, index, what = heapq.heappop(self._due)
            client = self.clients[index]
            if what == "connect":
                if client.device.wants_offline(now_s - self._began_s):
                    heapq.heappush(self._due, (now_s + _TICK_S, index, what))
                    continue
                task = asyncio.get_running_loop().create_task(client.connect(self._broker))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                continue
            device = client.device
            device.measure(self.now_s())
            # Never more than one batch late: a process that stood still does not catch up.
            again_s = max(due_s, now_s - device.plan.batch_s) + device.plan.batch_s
            heapq.heappush(self._due, (again_s, index, what))
            if client.is_ready and client.connection and not client.connection.is_behind:
                client.say(device.send(self.now_s()))

    def _tick(self) -> None:
        for client in list(self._busy):
            client.device.tick(self.now_s())
            if client.is_ready:
                client.say(client.device.send(self.now_s()))
            if not client.device.slots.is_busy:
                self._busy.discard(client)

    def _sweep(self, now_s: float) -> None:
        for client in self.clients:
            if client.connection is None or not client.is_ready:
                continue
            if client.device.wants_offline(now_s - self._began_s):
                client.connection.abort("a fault")
                continue
            client.connection.keep_alive(now_s)
            if client.device.outbox.held and not client.connection.is_behind:
                client.say(client.device.send(self.now_s()))

    async def _stop(self) -> None:
        self._is_over = True
        for client in self.clients:
            client.say([client.device.farewell(self.now_s())])
            if client.connection is not None:
                client.connection.close()
        for task in list(self._tasks):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0.2)


def allow_files(connections: int) -> int:
    """Raise this process's limit of open files to what the system allows; return what it is.

    Args:
        connections: That are to be opened.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _SPARE_FILES
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


def run_until_interrupted(
    make: Callable[[random.Random], NetworkRun],
    seconds: float | None,
    seed: int,
    note: Callable[[str], None],
    drain_s: float = 60.0,
) -> Summary:
    """Run devices until their time is over, or somebody presses Ctrl-C.

    Args:
        make: Makes the run from the randomness of its connections.
        seconds: As of :meth:`NetworkRun.run`.
        seed: Of that randomness.
        note: Is told every ten seconds how it stands.
        drain_s: As of :meth:`NetworkRun.run`.
    """
    run = make(random.Random(seed))  # noqa: S311 - a simulation
    allow_files(len(run.clients))

    async def whole() -> Summary:
        telling = asyncio.create_task(_tell(run, note))
        try:
            return await run.run(seconds, drain_s)
        finally:
            telling.cancel()

    try:
        return asyncio.run(whole())
    except KeyboardInterrupt:
        return run.count()


async def _tell(run: NetworkRun, note: Callable[[str], None]) -> None:
    while True:
        await asyncio.sleep(_NOTE_S)
        now = run.count()
        problem = f", last problem: {run.problem}" if now.online < now.devices else ""
        note(f"{now.online} of {now.devices} online, {now.acked} of {now.messages} acked{problem}")
