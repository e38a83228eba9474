"""Simulated devices under a virtual clock: a day in seconds, and the same one for the same seed."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable
from typing import Protocol

from edgekit.runtime.batches import unpack
from edgekit.sim.device import Publish, SimDevice
from edgekit.sim.summary import Summary
from edgekit.wire.errors import TrustError
from edgekit.wire.messages import acks_for
from edgekit.wire.topics import Leaf

START_S = 1_795_000_000.0
_TICK_S = 1.0


class Fleet(Protocol):
    """The other side: takes what devices say, answers to the same device."""

    def __call__(
        self, device: SimDevice, publish: Publish, now_s: float
    ) -> Iterable[tuple[Leaf, bytes]]:
        """Return what the fleet says to it."""
        ...


class VirtualRun:
    """Devices and a fleet with nothing but a function call between them.

    Args:
        devices: The devices; each has its own randomness.
        fleet: Answers them.
        start_s: Unix time at which it begins.

    Attributes:
        now_s: Unix time now.
        summary: Of what happened.
    """

    def __init__(
        self, devices: Iterable[SimDevice], fleet: Fleet, start_s: float = START_S
    ) -> None:
        self.devices = {device.name: device for device in devices}
        self.now_s = self._start_s = start_s
        self.summary = Summary()
        self._fleet = fleet
        self._digest = hashlib.sha256()
        self._online: set[str] = set()
        self._retained: dict[str, bytes] = {}
        self._due: list[tuple[float, str, str]] = []
        for index, device in enumerate(self.devices.values()):
            offset_s = device.plan.batch_s * (index + 1) / len(self.devices)
            heapq.heappush(self._due, (start_s, device.name, "tick"))
            heapq.heappush(self._due, (start_s + offset_s, device.name, "measure"))

    @property
    def digest(self) -> str:
        """Of all that was ever said, in its order: equal for runs that are equal."""
        return self._digest.hexdigest()

    def order(self, device: str, payload: bytes) -> None:
        """Publish an order, retained."""
        self._retained[device] = payload
        if device in self._online:
            self._hear(self.devices[device], [("desired", payload)])

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> Summary:
        """Let time pass.

        Args:
            seconds: So much of it.
            until: Ends it early; is asked after each step.
        """
        end_s = self.now_s + seconds
        while self._due and self._due[0][0] <= end_s and not until():
            self.now_s, name, what = heapq.heappop(self._due)
            device = self.devices[name]
            if what == "measure":
                device.measure(self.now_s)
                again_s = device.plan.batch_s
            else:
                self._connect(device)
                if device.slots.is_busy:
                    device.tick(self.now_s)
                again_s = _TICK_S
            if name in self._online:
                self._say(device, device.send(self.now_s))
            heapq.heappush(self._due, (self.now_s + again_s, name, what))
        if not until():
            self.now_s = end_s
        self.summary.online = len(self._online)
        self.summary.count(self.devices.values())
        return self.summary

    def _connect(self, device: SimDevice) -> None:
        offline = device.wants_offline(self.now_s - self._start_s)
        if offline and device.name in self._online:
            self._online.remove(device.name)
            self.summary.disconnects += 1
            self._say(device, [device.will(self.now_s)])
        elif not offline and device.name not in self._online:
            self._online.add(device.name)
            self._say(device, device.connected(self.now_s))
            if device.name in self._retained:
                self._hear(device, [("desired", self._retained[device.name])])

    def _say(self, device: SimDevice, said: Iterable[Publish]) -> None:
        for publish in said:
            self._digest.update(f"{self.now_s} {device.name} {publish.leaf} ".encode())
            self._digest.update(publish.payload)
            self._hear(device, self._fleet(device, publish, self.now_s))

    def _hear(self, device: SimDevice, words: Iterable[tuple[Leaf, bytes]]) -> None:
        for leaf, payload in words:
            self._say(device, device.receive(leaf, payload, self.now_s))


def take_all(
    device: SimDevice,  # noqa: ARG001 - as of Fleet
    publish: Publish,
    now_s: float,  # noqa: ARG001
) -> list[tuple[Leaf, bytes]]:
    """Be a fleet that commits every batch at once."""
    if publish.leaf != "telemetry":
        return []
    try:
        batch = unpack(publish.payload)
    except TrustError:
        return []
    return [("ack", ack.to_bytes()) for ack in acks_for(batch.messages)]
