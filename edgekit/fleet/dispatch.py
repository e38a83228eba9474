"""Orders at work: kept in the store, published by MQTT, followed by what devices report.

Any number of processes may follow the same orders, one after the other: the decisions are the same,
a message that is published twice changes nothing, and an order is kept only once its messages are
out.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edgekit.fleet.bundles import Offer
from edgekit.fleet.orders import (
    Action,
    Clear,
    DeviceOrder,
    Fact,
    Phase,
    Publish,
    Rollout,
    TakeBack,
    cancel,
    desired,
    expiry,
    reminders,
    step,
)
from edgekit.fleet.publisher import Publication
from edgekit.wire.desired import Desired, sign_desired
from edgekit.wire.errors import RolloutError
from edgekit.wire.signing import PrivateKey
from edgekit.wire.topics import topic

log = logging.getLogger(__name__)

# A broker that is killed, or keeps nothing, has lost what devices that are away are to hear.
REMIND_S = 600.0


@dataclass(frozen=True)
class Report:
    """What a device said last.

    Attributes:
        order_id: Of the order that it is about.
        phase: Its word.
        detail: Its reason.
        running: Model to the digest of the bundle that serves it.
        refusal: Why it refused an order unread, the last time that it did.
        refused_s: When the server heard of that.
    """

    order_id: str | None = None
    phase: str = ""
    detail: str = ""
    running: Mapping[str, str] = field(default_factory=dict)
    refusal: str = ""
    refused_s: float = 0.0


class OrderStore(Protocol):
    """What orders need of the store."""

    def save(self, rollout: Rollout) -> None:
        """Keep an order, new or changed."""
        ...

    def open_rollouts(self) -> Sequence[Rollout]:
        """Return the orders that are not over, oldest first."""
        ...

    def rollout(self, order_id: str) -> Rollout | None:
        """Return one order."""
        ...

    def reports(self, devices: Sequence[str]) -> Mapping[str, Report]:
        """Return what devices said last; those that are not registered are missing."""
        ...

    def expiries(self, devices: Sequence[str]) -> Sequence[int]:
        """Return when the orders that these devices ever had expire."""
        ...


@dataclass(frozen=True)
class Wish:
    """What is to be ordered.

    Attributes:
        offer: The bundle.
        url: Where devices fetch it.
        devices: Their names.
        lifetime_s: For how long it counts.
    """

    offer: Offer
    url: str
    devices: Sequence[str]
    lifetime_s: float


class Dispatch:
    """Gives orders and follows them.

    Args:
        fleet: Name of the fleet.
        key: Signs orders.
        store: Keeps them.
        publish: Publishes messages; raises where the broker does not take them.
        offer: Returns an offered bundle by its digest, or None.
        url: Returns where devices fetch a bundle, by its digest.
    """

    def __init__(
        self,
        fleet: str,
        key: PrivateKey,
        store: OrderStore,
        publish: Callable[[Sequence[Publication]], None],
        offer: Callable[[str], Offer | None],
        url: Callable[[str], str],
    ) -> None:
        self._fleet = fleet
        self._key = key
        self._store = store
        self._publish = publish
        self._offer = offer
        self._url = url
        self._reminded_s = 0.0

    def give(self, wish: Wish, now_s: float, token: str) -> Rollout:
        """Keep a new order; :meth:`tick` sends it.

        Args:
            wish: What is wanted.
            now_s: Unix time in seconds.
            token: A few random hex digits, for the order's name.

        Raises:
            RolloutError: No device is meant.
            TrustError: No device would read the order, for the URL in it.
        """
        names = sorted(set(wish.devices))
        if not names:
            raise RolloutError("no device is meant", hint="`edgekit fleet devices` lists them")
        reports = self._store.reports(names)
        offer = wish.offer
        rollout = Rollout(
            order_id=f"{dt.datetime.fromtimestamp(now_s, dt.UTC):%Y%m%d-%H%M%S}-{token}",
            sha256=offer.sha256,
            model=offer.model,
            serial=offer.serial,
            size_bytes=offer.size_bytes,
            url=wish.url,
            created_s=now_s,
            expires_s=expiry(now_s, wish.lifetime_s, self._store.expiries(names)),
            devices=tuple(
                DeviceOrder(
                    name,
                    since_s=now_s,
                    before=reports.get(name, Report()).running.get(offer.model),
                )
                for name in names
            ),
        )
        # What no device would read would stop every other order later.
        sign_desired(desired(rollout, self._fleet, names[0]), self._key)
        self._store.save(rollout)
        self._reminded_s = now_s
        return rollout

    def tick(self, now_s: float) -> None:
        """Follow every order that is not over.

        Raises:
            DeviceError: The broker does not take what is to be sent; nothing is forgotten.
        """
        rollouts = {rollout.order_id: rollout for rollout in self._store.open_rollouts()}
        names = sorted({order.device for r in rollouts.values() for order in r.devices})
        reports = self._store.reports(names)
        is_time = not 0 <= now_s - self._reminded_s < REMIND_S
        for order_id in list(rollouts):
            old = rollouts[order_id]
            new, actions = step(old, facts_of(old, rollouts.values(), reports), now_s)
            if is_time:
                done = {action.device for action in actions}
                again = reminders(new, self._offered(new) if new.cancelled else frozenset())
                actions = (*actions, *(action for action in again if action.device not in done))
            self._send(new, actions)
            if new != old:
                self._store.save(new)
                rollouts[order_id] = new
        if is_time:
            self._reminded_s = now_s

    def cancel(self, order_id: str, now_s: float) -> Rollout:
        """Call an order back.

        Raises:
            RolloutError: There is no such order, or it is over.
            DeviceError: The broker does not take what is to be sent; nothing is changed.
        """
        rollout = self._store.rollout(order_id)
        if rollout is None:
            raise RolloutError(
                f"no order is named {order_id[:80]!r}",
                hint="`edgekit fleet deploy --list` shows all",
            )
        if rollout.is_over:
            raise RolloutError(f"the order {order_id} is over; there is nothing to call back")
        facts = facts_of(rollout, self._store.open_rollouts(), {})
        taken = frozenset(name for name, fact in facts.items() if fact.busy)
        new, actions = cancel(rollout, self._offered(rollout), now_s, taken)
        self._send(new, actions)
        self._store.save(new)
        self._reminded_s = now_s
        return new

    def _offered(self, rollout: Rollout) -> frozenset[str]:
        befores = {order.before for order in rollout.devices if order.before}
        return frozenset(sha256 for sha256 in befores if self._offer(sha256) is not None)

    def _send(self, rollout: Rollout, actions: Sequence[Action]) -> None:
        if actions:
            self._publish([self._publication(rollout, action) for action in actions])

    def _publication(self, rollout: Rollout, action: Action) -> Publication:
        place = topic(self._fleet, action.device, "desired")
        match action:
            case Publish(device):
                order = desired(rollout, self._fleet, device)
            case TakeBack(device, before):
                order = self._take_back(rollout, device, before)
            case Clear():
                return Publication(place, b"", retain=True)
        return Publication(place, sign_desired(order, self._key), retain=True)

    def _take_back(self, rollout: Rollout, device: str, before: str) -> Desired:
        offer = self._offer(before)
        if offer is None:
            raise RolloutError(f"the bundle {before[:12]} is not offered any more")
        return dataclasses.replace(
            desired(rollout, self._fleet, device),
            bundle_sha256=offer.sha256,
            url=self._url(offer.sha256),
            size_bytes=offer.size_bytes,
            serial=offer.serial,
            order_id=rollout.back_id,
            expires=rollout.expires_s + 1,
        )


def facts_of(
    rollout: Rollout, others: Iterable[Rollout], reports: Mapping[str, Report]
) -> dict[str, Fact]:
    """Return what is known of the devices of an order.

    Args:
        rollout: The order.
        others: All orders that are not over.
        reports: By device; those that are not registered are missing.
    """
    busy: set[str] = set()
    newer: set[str] = set()
    for other in others:
        if other.order_id == rollout.order_id:
            continue
        for order in other.devices:
            if order.is_over:
                continue
            if order.phase is not Phase.PLANNED:
                busy.add(order.device)
            is_later = (other.created_s, other.order_id) > (rollout.created_s, rollout.order_id)
            if is_later and other.model == rollout.model and not other.cancelled:
                newer.add(order.device)
    facts = {}
    for order in rollout.devices:
        report = reports.get(order.device)
        facts[order.device] = Fact(
            order_id=report.order_id if report else None,
            phase=report.phase if report else "",
            detail=report.detail if report else "",
            refusal=report.refusal if report and report.refused_s >= order.since_s else "",
            running=report.running if report else {},
            busy=order.device in busy,
            newer=order.device in newer,
            exists=report is not None,
        )
    return facts
