"""Giving orders to a fleet: a bundle is put aside, devices are chosen, an order is followed."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.fleet.bundles import Offer, bundle_path, bundle_url, put_bundle, read_offer
from edgekit.fleet.dispatch import Dispatch, Report, Wish
from edgekit.fleet.order_store import Orders
from edgekit.fleet.publisher import BrokerAddress, Publication, publish
from edgekit.wire.errors import EdgekitError, RolloutError, UsageError, did_you_mean
from edgekit.wire.signing import PrivateKey, PublicKey

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from edgekit.fleet.orders import Rollout


@dataclass(frozen=True)
class Place:
    """What an office needs of a fleet.

    Attributes:
        fleet: Name of the fleet.
        bundles: Folder of the bundles that are offered.
        base_url: The fleet's HTTP address as devices reach it.
        broker: The broker, and as whom to connect.
        key: Signs orders.
    """

    fleet: str
    bundles: Path
    base_url: str
    broker: BrokerAddress
    key: PrivateKey


@dataclass(frozen=True)
class Known:
    """A device as an office knows it.

    Attributes:
        labels: Of the device.
        online: By the broker; None where it was never seen.
    """

    labels: Mapping[str, str]
    online: bool | None


class Office:
    """Gives orders to a fleet and follows them.

    Args:
        place: The fleet.
        engine: Of its store.
        reports: Returns what devices said last, of those that are registered.
        known: Returns all devices that are registered, by name.
    """

    def __init__(
        self,
        place: Place,
        engine: Engine,
        reports: Callable[[Sequence[str]], Mapping[str, Report]],
        known: Callable[[], Mapping[str, Known]],
    ) -> None:
        self._place = place
        self._known = known
        self._database = engine.url.database
        self._orders = Orders(engine, reports)
        self._dispatch = Dispatch(
            place.fleet, place.key, self._orders, self._publish, self._offer, self._url
        )

    def choose(self, labels: Mapping[str, str], names: Sequence[str]) -> list[str]:
        """Return the devices that are meant.

        Args:
            labels: That a device must have; none means all, where no names are given.
            names: By name.

        Raises:
            UsageError: No device has the labels, or one of the names is not registered.
        """
        known = self._known()
        found = sorted(
            name
            for name, device in known.items()
            if all(device.labels.get(key) == value for key, value in labels.items())
        )
        if names:
            for name in names:
                if name not in found:
                    close = did_you_mean(name, found)
                    raise UsageError(
                        f"no device is named {name[:80]!r}",
                        hint=f"did you mean {close}?" if close else "edgekit fleet devices",
                    )
            return sorted(set(names))
        if not found:
            raise _nobody(labels, known.values())
        return found

    def give(
        self,
        bundle: Path,
        keys: Sequence[PublicKey],
        devices: Sequence[str],
        lifetime_s: float,
        *,
        now_s: float,
        token: str,
    ) -> Rollout:
        """Verify a bundle, put it where devices fetch it, and keep the order.

        Args:
            bundle: The file.
            keys: Of which one must have signed it.
            devices: Their names.
            lifetime_s: For how long the order counts.
            now_s: Unix time in seconds.
            token: A few random hex digits.

        Raises:
            TrustError: The bundle does not verify.
            RolloutError: No device is meant.
        """
        offer = put_bundle(self._place.bundles, bundle, keys)
        wish = Wish(offer, self._url(offer.sha256), devices, lifetime_s)
        with self._alone():
            return self._dispatch.give(wish, now_s, token)

    def tick(self, now_s: float) -> None:
        """Follow every order; see :meth:`Dispatch.tick`."""
        with self._alone():
            self._dispatch.tick(now_s)

    def cancel(self, order_id: str, now_s: float) -> Rollout:
        """Call an order back; see :meth:`Dispatch.cancel`."""
        with self._alone():
            return self._dispatch.cancel(order_id, now_s)

    def rollout(self, order_id: str) -> Rollout:
        """Return one order.

        Raises:
            RolloutError: There is none of that name.
        """
        found = self._orders.rollout(order_id)
        if found is None:
            raise RolloutError(
                f"no order is named {order_id[:80]!r}",
                hint="`edgekit fleet deploy --list` shows all",
            )
        return found

    def last_rollouts(self, limit: int) -> list[Rollout]:
        """Return the last orders, the newest first."""
        return self._orders.last_rollouts(limit)

    def online(self, rollout: Rollout) -> dict[str, bool | None]:
        """Return whether the devices of an order are connected."""
        known = self._known()
        names = (order.device for order in rollout.devices)
        return {name: known[name].online for name in names if name in known}

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep others from orders: who decides on what he read before would undo what they did."""
        with Path(str(self._database)).with_name("orders.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _url(self, sha256: str) -> str:
        return bundle_url(self._place.base_url, sha256)

    def _offer(self, sha256: str) -> Offer | None:
        try:
            return read_offer(bundle_path(self._place.bundles, sha256), None)
        except EdgekitError:
            return None

    def _publish(self, messages: Sequence[Publication]) -> None:
        publish(self._place.broker, messages)


def _nobody(labels: Mapping[str, str], devices: Iterable[Known]) -> UsageError:
    """Return the error that no device has these labels, with one that is like a mistyped one."""
    there = {f"{key}={value}" for device in devices for key, value in device.labels.items()}
    asked = [f"{key}={value}" for key, value in labels.items()]
    strange = next((label for label in asked if label not in there), None)
    close = did_you_mean(strange, there) if strange else None
    return UsageError(
        f"no device has {' '.join(asked)}" if asked else "the fleet has no devices",
        hint=f"did you mean {close}?" if close else "`edgekit fleet devices` shows their labels",
    )
