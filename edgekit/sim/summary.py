"""What a simulation comes to: counts that add up, and how long acknowledgements took."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from edgekit.runtime.sketches import LatencyHistogram
from edgekit.sim.device import SimDevice
from edgekit.wire.canonical import Json


@dataclass
class Summary:
    """Of all devices.

    Attributes:
        devices: How many.
        online: How many are connected.
        messages: Made, of all kinds.
        acked: Committed, by the fleet's word.
        held: Still in an outbox.
        dropped: That an outbox had no room for.
        resent: Batches that were sent once more.
        refused: Words of the fleet that are none.
        disconnects: Connections that ended.
        lag: From a batch's only publish to its acknowledgement.
    """

    devices: int = 0
    online: int = 0
    messages: int = 0
    acked: int = 0
    held: int = 0
    dropped: int = 0
    resent: int = 0
    refused: int = 0
    disconnects: int = 0
    lag: LatencyHistogram = field(default_factory=LatencyHistogram)

    def count(self, devices: Iterable[SimDevice]) -> None:
        """Count what the devices have now; lags are taken from them."""
        self.devices = self.messages = self.acked = self.held = 0
        self.dropped = self.resent = self.refused = 0
        for device in devices:
            self.devices += 1
            self.messages += device.seq
            self.held += device.outbox.messages
            self.dropped += sum(device.outbox.drops.values())
            self.resent += device.resent
            self.refused += device.refused
            lags, device.lags_s = device.lags_s, []
            for lag_s in lags:
                self.lag.add(1000 * lag_s)
        self.acked = self.messages - self.held - self.dropped

    def to_json(self) -> dict[str, Json]:
        """Return the JSON form."""
        values: dict[str, Json] = {k: v for k, v in vars(self).items() if k != "lag"}
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0)):
            found = self.lag.percentile_ms(share)
            if found is not None:
                values[f"lag_{name}_ms"] = round(found, 1)
        return values
