"""Orders to many devices, and what becomes of each: one pure function, and the order's signature.

1. An order is published to a device when nothing else is under way there: each device has one place
   for orders. A newer order for the same model takes the place of an older one.
2. What the device reports under the order's id moves it on: fetching, self-test, trial, and then
   confirmed, reverted, refused or dropped. Reports may be lost or come twice; none leads back out
   of an end, but for ``confirmed``: a device that says so does run it.
3. An order that ends is cleared at the broker, so that no device hears it again.
4. One that expires ends: the device drops what is under way by its own clock.

Waves and gates fit in between: a device is ``planned`` until its wave begins, and ``_may_send``
alone decides that.

    rollout, actions = step(rollout, facts, now_s)       # actions: Publish, TakeBack, Clear
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypeAlias

from edgekit.wire.desired import Desired


class Phase(StrEnum):
    """Where an order to one device stands."""

    PLANNED = "planned"  # not published yet
    WAITING = "waiting"  # published; the device has not answered
    FETCHING = "fetching"
    SELF_TEST = "self-test"
    TRIAL = "trial"
    CONFIRMED = "confirmed"
    REVERTED = "reverted"  # it failed there; what ran before runs again
    REFUSED = "refused"  # the device did not take it
    DROPPED = "dropped"  # given up without blame: another order came, or it could not be fetched
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    REPLACED = "replaced"  # by a newer order for the same model


UNDER_WAY = frozenset({Phase.FETCHING, Phase.SELF_TEST, Phase.TRIAL})
OPEN = UNDER_WAY | {Phase.PLANNED, Phase.WAITING}
# The device's words for it; see edgekit.runtime.trial_events.Report.
REPORTED: Mapping[str, Phase] = {
    "accepted": Phase.FETCHING,
    "staged": Phase.SELF_TEST,
    "trial": Phase.TRIAL,
    "confirmed": Phase.CONFIRMED,
    "already": Phase.CONFIRMED,
    "reverted": Phase.REVERTED,
    "refused": Phase.REFUSED,
    "dropped": Phase.DROPPED,
}
# How far an order has come; a report that came late does not lead back.
_ORDER = (Phase.PLANNED, Phase.WAITING, Phase.FETCHING, Phase.SELF_TEST, Phase.TRIAL)
# By then a device has told that its order has expired, or it is away.
EXPIRY_GRACE_S = 120.0


@dataclass(frozen=True)
class DeviceOrder:
    """An order to one device.

    Attributes:
        device: Its name.
        phase: Where the order stands.
        since_s: Unix time in seconds since when.
        detail: For people: why it was refused.
        before: Digest of the bundle that served the model before; None where none did.
        wave: 0 is sent first.
    """

    device: str
    phase: Phase = Phase.PLANNED
    since_s: float = 0.0
    detail: str = ""
    before: str | None = None
    wave: int = 0

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to come."""
        return self.phase not in OPEN


@dataclass(frozen=True)
class Rollout:
    """One order to some devices.

    Attributes:
        order_id: Names it in the devices' answers.
        sha256: Of the bundle.
        model: The slot.
        serial: Of the bundle.
        size_bytes: Of the bundle.
        url: Where devices fetch it.
        created_s: Unix time in seconds.
        expires_s: Likewise, whole; from then on the order does not count.
        devices: In the order of their names.
        cancelled: Somebody has called it back.
    """

    order_id: str
    sha256: str
    model: str
    serial: int
    size_bytes: int
    url: str
    created_s: float
    expires_s: int
    devices: tuple[DeviceOrder, ...]
    cancelled: bool = False

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to come from any device."""
        return all(order.is_over for order in self.devices)

    @property
    def back_id(self) -> str:
        """Name of the order for what ran before, by which this one is called back."""
        return f"{self.order_id}-back"

    @property
    def counts(self) -> dict[str, int]:
        """Devices by phase, in the order of the phases."""
        found = {
            phase.value: sum(order.phase is phase for order in self.devices) for phase in Phase
        }
        return {phase: count for phase, count in found.items() if count}

    @property
    def failed(self) -> tuple[DeviceOrder, ...]:
        """Devices on which it ended in another way than confirmed."""
        return tuple(o for o in self.devices if o.is_over and o.phase is not Phase.CONFIRMED)


@dataclass(frozen=True)
class Fact:
    """What is known of one device.

    Attributes:
        order_id: Of the order that its last report is about.
        phase: The report's word.
        detail: The report's reason.
        refusal: Why it refused an order unread, if it has since this one was published: not
            trusted, expired by its clock, for another device.
        running: Model to the digest of the bundle that serves it.
        busy: Another order is under way there.
        newer: A newer order for the same model was given.
        exists: It is still registered.
    """

    order_id: str | None = None
    phase: str = ""
    detail: str = ""
    refusal: str = ""
    running: Mapping[str, str] = field(default_factory=dict)
    busy: bool = False
    newer: bool = False
    exists: bool = True


@dataclass(frozen=True)
class Publish:
    """Publish the order to a device, retained."""

    device: str


@dataclass(frozen=True)
class TakeBack:
    """Order the bundle that ran before, so that the device drops this one."""

    device: str
    before: str


@dataclass(frozen=True)
class Clear:
    """Clear the order at the broker."""

    device: str


Action: TypeAlias = Publish | TakeBack | Clear


def step(
    rollout: Rollout, facts: Mapping[str, Fact], now_s: float
) -> tuple[Rollout, tuple[Action, ...]]:
    """Decide where an order stands on each device, and what is to be done.

    Args:
        rollout: The order.
        facts: By device; one that is missing has said nothing.
        now_s: Unix time in seconds, by the server.

    Returns:
        The order, to be kept once the actions are done: each may be done twice.
    """
    devices: list[DeviceOrder] = []
    actions: list[Action] = []
    for order in rollout.devices:
        after, action = (order, None)
        if not order.is_over or order.phase is not Phase.CONFIRMED:
            after, action = _one(rollout, order, facts.get(order.device, Fact()), now_s)
        devices.append(after)
        if action is not None:
            actions.append(action)
    return replace(rollout, devices=tuple(devices)), tuple(actions)


def cancel(
    rollout: Rollout,
    offered: frozenset[str],
    now_s: float,
    taken: frozenset[str] = frozenset(),
) -> tuple[Rollout, tuple[Action, ...]]:
    """Call an order back: devices that have not begun forget it, others go back where they can.

    Args:
        rollout: The order.
        offered: Digests of the bundles that can be ordered.
        now_s: Unix time in seconds.
        taken: Devices whose place for orders another one has.

    Returns:
        As :func:`step`. A device that was under way tells that it has dropped the order; one that
        has nothing to go back to goes on to the end.
    """
    devices: list[DeviceOrder] = []
    actions: list[Action] = []
    for order in rollout.devices:
        if order.phase in {Phase.PLANNED, Phase.WAITING}:
            devices.append(_moved(order, Phase.CANCELLED, "", now_s))
            if order.device not in taken:
                actions.append(Clear(order.device))
        elif order.phase in UNDER_WAY and order.before in offered and order.before:
            devices.append(replace(order, detail="called back"))
            actions.append(TakeBack(order.device, order.before))
        elif order.phase in UNDER_WAY:
            devices.append(replace(order, detail="cannot be called back: nothing to go back to"))
        else:
            devices.append(order)
    return replace(rollout, devices=tuple(devices), cancelled=True), tuple(actions)


def reminders(rollout: Rollout, offered: frozenset[str]) -> tuple[Action, ...]:
    """Return what the broker must hold for devices that have not answered; it may have lost it.

    Args:
        rollout: The order.
        offered: Digests of the bundles that can be ordered.
    """
    found: list[Action] = []
    for order in rollout.devices:
        if order.phase is Phase.WAITING:
            found.append(Publish(order.device))
        elif rollout.cancelled and order.phase in UNDER_WAY and order.before in offered:
            found.append(TakeBack(order.device, str(order.before)))
    return tuple(found)


def _one(
    rollout: Rollout, order: DeviceOrder, fact: Fact, now_s: float
) -> tuple[DeviceOrder, Action | None]:
    if order.is_over:
        # It is late news, but it is what the device runs.
        late = fact.order_id == rollout.order_id and REPORTED.get(fact.phase) is Phase.CONFIRMED
        return (_moved(order, Phase.CONFIRMED, "", now_s) if late else order), None
    after = _followed(rollout, order, fact, now_s)
    if after.phase is Phase.PLANNED and _may_send(rollout, after, fact):
        return _moved(after, Phase.WAITING, "", now_s), Publish(order.device)
    if after.is_over:
        # What has taken its place must stay.
        return after, None if fact.newer or fact.busy else Clear(order.device)
    return after, None


def _followed(rollout: Rollout, order: DeviceOrder, fact: Fact, now_s: float) -> DeviceOrder:
    reported = REPORTED.get(fact.phase) if fact.order_id == rollout.order_id else None
    if rollout.cancelled and (fact.order_id, fact.phase) == (rollout.back_id, "already"):
        # It has heard the call a second time; that hides what it said at the first.
        return _moved(order, Phase.CANCELLED, "the order was taken back", now_s)
    if reported is not None and reported not in OPEN:
        called_back = reported is Phase.DROPPED and rollout.cancelled
        end = Phase.CANCELLED if called_back else reported
        return _moved(order, end, fact.detail, now_s)
    if reported is not None and _ORDER.index(reported) > _ORDER.index(order.phase):
        order = _moved(order, reported, fact.detail, now_s)
    ended = _ended(rollout, order, fact, now_s)
    return order if ended is None else _moved(order, *ended, now_s)


def _ended(
    rollout: Rollout, order: DeviceOrder, fact: Fact, now_s: float
) -> tuple[Phase, str] | None:
    """Say how an order ended that its device has not told the end of; None where it goes on."""
    if not fact.exists:
        return Phase.CANCELLED, "the device was removed"
    if fact.newer:
        return Phase.REPLACED, "a newer order was given"
    if order.phase is Phase.WAITING and fact.refusal:
        return Phase.REFUSED, fact.refusal
    under_way = order.phase in UNDER_WAY
    if now_s >= rollout.expires_s + (EXPIRY_GRACE_S if under_way else 0.0):
        why = "it was not heard of" if under_way else "the device did not answer"
        return Phase.EXPIRED, why
    return None


def _may_send(rollout: Rollout, order: DeviceOrder, fact: Fact) -> bool:
    """Tell whether an order may go to a device now."""
    return not fact.busy and not rollout.cancelled and order.wave == _wave(rollout)


def _wave(rollout: Rollout) -> int:
    """Return the wave that is under way: the first that is not over."""
    return min((order.wave for order in rollout.devices if not order.is_over), default=0)


def _moved(order: DeviceOrder, phase: Phase, detail: str, now_s: float) -> DeviceOrder:
    if (order.phase, order.detail) == (phase, detail):
        return order
    since_s = order.since_s if order.phase is phase else now_s
    return replace(order, phase=phase, detail=detail, since_s=since_s)


def desired(rollout: Rollout, fleet: str, device: str) -> Desired:
    """Return the order as one device reads it, not yet signed."""
    return Desired(
        bundle_sha256=rollout.sha256,
        url=rollout.url,
        size_bytes=rollout.size_bytes,
        serial=rollout.serial,
        order_id=rollout.order_id,
        expires=rollout.expires_s,
        model=rollout.model,
        device=f"{fleet}/{device}",
    )


def expiry(now_s: float, lifetime_s: float, earlier: Iterable[int]) -> int:
    """Return when a new order expires.

    A device takes an order for newer than another if it expires later, and refuses an older one: so
    a new order outlives every earlier one to the same device, however short it was asked to live.

    Args:
        now_s: Unix time in seconds.
        lifetime_s: As asked for.
        earlier: Expiries of earlier orders to any of its devices.
    """
    return max([int(now_s + lifetime_s), *(at_s + 1 for at_s in earlier)])
