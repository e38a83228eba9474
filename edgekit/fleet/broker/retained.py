"""What the broker keeps of devices that are no more: cleared, so that nobody hears it again."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edgekit.fleet.broker.accounts import locked
from edgekit.fleet.home import FleetHome
from edgekit.fleet.publisher import BrokerAddress, Connection, Publication
from edgekit.wire.topics import Leaf, topic

if TYPE_CHECKING:
    from sqlalchemy import Engine

KEPT: tuple[Leaf, ...] = ("state", "hello", "reported", "desired")
# The broker hangs up on a device that is removed, and says its will then.
QUIET_S = 0.5
_DEVICES_AT_ONCE = 500


def forget(
    address: BrokerAddress, fleet: str, devices: Sequence[str], quiet_s: float = QUIET_S
) -> int:
    """Clear what the broker keeps of devices, and what comes of them until they are silent.

    Args:
        address: The broker, and as whom: one who may write what devices write.
        fleet: Name of the fleet.
        devices: That are no more.
        quiet_s: They are silent when nothing came for so long.

    Returns:
        How many messages were cleared.

    Raises:
        DeviceError: The broker cannot be reached, or does not take them.
        TrustError: A name may not stand in a topic.
    """
    count = 0
    for start in range(0, len(devices), _DEVICES_AT_ONCE):
        part = devices[start : start + _DEVICES_AT_ONCE]
        hears = [topic(fleet, device, leaf) for device in part for leaf in KEPT]
        heard: queue.SimpleQueue[str] = queue.SimpleQueue()

        def on_message(where: str, payload: bytes, heard: queue.SimpleQueue[str] = heard) -> None:
            if payload:
                heard.put(where)

        with Connection(address, hears=hears, on_message=on_message) as connection:
            while True:
                try:
                    where = heard.get(timeout=quiet_s)
                except queue.Empty:
                    break
                connection.publish([Publication(where, b"", retain=True)])
                count += 1
    return count


def forget_removed(
    home: FleetHome, engine: Engine, forget_them: Callable[[Sequence[str]], object]
) -> None:
    """Clear what the broker still keeps of devices that were removed while it did not run.

    Args:
        home: The fleet.
        engine: Of its store.
        forget_them: Clears what the broker keeps of devices.
    """
    import sqlalchemy as sa

    from edgekit.fleet.store.schema import devices

    # None of them can be registered again meanwhile.
    with locked(home):
        query = sa.select(devices.c.name).where(devices.c.removed_s.is_not(None))
        with engine.connect() as connection:
            names = connection.scalars(query).all()
        if names:
            forget_them(names)
