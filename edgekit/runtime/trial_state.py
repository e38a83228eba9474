"""What one model slot remembers: one frozen value with one JSON form.

The names of bundles (``current``, ``previous``, ``next``) are a function of this value and stand
nowhere else, so that writing it swaps them all at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from edgekit.wire.canonical import Json
from edgekit.wire.desired import MAX_URL, Desired
from edgekit.wire.errors import TrustError
from edgekit.wire.storedzip import MAX_ARCHIVE_BYTES
from edgekit.wire.strict import Fields

SCHEMA = "edgekit.slot/1"
MAX_REASON = 300
# The oldest is forgotten first: its order has long been replaced.
MAX_REFUSED = 16


class Phase(StrEnum):
    """Where a slot is."""

    IDLE = "idle"  # nothing has ever been confirmed
    FETCHING = "fetching"  # an order was accepted, its bundle is not here yet or not verified
    STAGED = "staged"  # the bundle is here and verified: it is `next`
    SELF_TEST = "self-test"  # its golden samples run in a process of their own
    TRIAL = "trial"  # it serves: it is `current`, and `previous` waits
    CONFIRMED = "confirmed"  # `current` has stood its trial
    REVERTED = "reverted"  # the last bundle failed; what was confirmed before it serves again


RESTING = (Phase.IDLE, Phase.CONFIRMED, Phase.REVERTED)


@dataclass(frozen=True)
class Order:
    """Which bundle is wanted, and until when; its signature has been checked.

    Attributes:
        order_id: The fleet's id of it.
        sha256: Of the whole bundle.
        serial: Of the bundle's model.
        size_bytes: Of the whole bundle.
        expires_s: Unix time. An order counts as newer than another if it expires later.
        url: Where the bundle can be had; empty where it lies on this device.
    """

    order_id: str
    sha256: str
    serial: int
    size_bytes: int
    expires_s: float
    url: str = ""

    @property
    def is_local(self) -> bool:
        """Whether the device's own settings name the bundle, and no fleet."""
        return not self.url

    @classmethod
    def of(cls, desired: Desired) -> Order:
        """Take over a fleet's order that :func:`~edgekit.wire.desired.open_desired` has checked."""
        return cls(
            order_id=desired.order_id,
            sha256=desired.bundle_sha256,
            serial=desired.serial,
            size_bytes=desired.size_bytes,
            expires_s=float(desired.expires),
            url=desired.url,
        )


@dataclass(frozen=True)
class Release:
    """A bundle that has stood its trial here."""

    sha256: str
    serial: int


@dataclass(frozen=True)
class Refusal:
    """A bundle that failed here.

    Attributes:
        sha256: Of the bundle.
        expires_s: Of the order that brought it: only one that expires later brings it again.
        reason: Why.
    """

    sha256: str
    expires_s: float
    reason: str


@dataclass(frozen=True)
class Counts:
    """What a trial has seen.

    Attributes:
        started: The bundle has been loaded by this process and takes requests.
        loading_s: For how long it has been loading, where it has not started.
        requests: Requests that it answered, or failed to.
        errors: Those that it failed.
        slow: Answers that took longer than the contract's 95th percentile may be.
    """

    started: bool = False
    loading_s: float = 0.0
    requests: int = 0
    errors: int = 0
    slow: int = 0


@dataclass(frozen=True)
class State:
    """One model slot.

    Attributes:
        phase: Where it is.
        confirmed: What has stood its trial last.
        previous: What was confirmed before that.
        order: What is under way; None where the slot rests.
        latency_p95_max_ms: The contract's limit for it, where the contract has one.
        counts: Of its trial.
        restarts: Starts of the process in this phase that no clean stop preceded.
        clean_stop: The process is about to end because it was told to.
        elapsed_s: Time in this phase, powered on; in a trial, the time that its bundle has served.
        ticked_s: Monotonic time of the last tick; None before the first.
        saved_s: ``elapsed_s`` when the state was last kept.
        reason: Why the slot is in this phase, for people; empty where there is nothing to say.
        floor_serial: Highest serial that was ever confirmed: nothing below is taken.
        newest_expires_s: Expiry of the newest order of the fleet that was accepted; an older one is
            stale.
        newest_local_s: The same of the device's own orders.
        refused: What failed here.
    """

    phase: Phase = Phase.IDLE
    confirmed: Release | None = None
    previous: Release | None = None
    order: Order | None = None
    latency_p95_max_ms: float | None = None
    counts: Counts = Counts()
    restarts: int = 0
    clean_stop: bool = False
    elapsed_s: float = 0.0
    ticked_s: float | None = None
    saved_s: float = 0.0
    reason: str = ""
    floor_serial: int = 0
    newest_expires_s: float = 0.0
    newest_local_s: float = 0.0
    refused: tuple[Refusal, ...] = ()

    @property
    def current(self) -> str | None:
        """Digest of the bundle that serves: on trial, or confirmed."""
        if self.phase is Phase.TRIAL and self.order is not None:
            return self.order.sha256
        return self.confirmed.sha256 if self.confirmed else None

    @property
    def fallback(self) -> str | None:
        """Digest of what serves if `current` fails; called ``previous``."""
        release = self.confirmed if self.phase is Phase.TRIAL else self.previous
        return release.sha256 if release else None

    @property
    def next(self) -> str | None:
        """Digest of the verified bundle that waits for its self-test, or is in it."""
        waiting = self.phase in (Phase.STAGED, Phase.SELF_TEST)
        return self.order.sha256 if waiting and self.order else None

    @property
    def held(self) -> frozenset[str]:
        """Digests of all bundles, whole or on their way, that may not be thrown away."""
        named = (self.confirmed, self.previous, self.order)
        return frozenset(item.sha256 for item in named if item is not None)

    def refusal(self, sha256: str) -> Refusal | None:
        """Return how a bundle failed here, if it did."""
        return next((r for r in self.refused if r.sha256 == sha256), None)

    def to_json(self) -> dict[str, Json]:
        """Return the JSON form; absent values are left out."""
        document: dict[str, Json] = {
            "schema": SCHEMA,
            "phase": self.phase.value,
            "counts": dict(vars(self.counts)),
            "restarts": self.restarts,
            "clean_stop": self.clean_stop,
            "elapsed_s": self.elapsed_s,
            "saved_s": self.saved_s,
            "reason": self.reason,
            "floor_serial": self.floor_serial,
            "newest_expires_s": self.newest_expires_s,
            "newest_local_s": self.newest_local_s,
            "refused": [dict(vars(refusal)) for refusal in self.refused],
        }
        for name in ("confirmed", "previous", "order"):
            item = getattr(self, name)
            if item is not None:
                document[name] = dict(vars(item))
        for name in ("latency_p95_max_ms", "ticked_s"):
            if getattr(self, name) is not None:
                document[name] = getattr(self, name)
        return document


def parse_state(document: Mapping[str, Json], where: str = "state.json") -> State:
    """Read the JSON form.

    Args:
        document: What :meth:`State.to_json` returns.
        where: Its name in messages.

    Raises:
        TrustError: Anything is not exactly in that form, or does not fit together.
    """
    fields = Fields(dict(document), where)
    if fields.text("schema") != SCHEMA:
        raise TrustError(
            f"not a slot of {SCHEMA}: written by a newer edgekit",
            hint="update edgekit on this device",
            where=where,
        )
    state = State(
        phase=Phase(fields.choice("phase", tuple(phase.value for phase in Phase))),
        confirmed=_release(fields, "confirmed"),
        previous=_release(fields, "previous"),
        order=_order(fields.object("order")) if fields.has("order") else None,
        latency_p95_max_ms=_optional(fields, "latency_p95_max_ms"),
        counts=_counts(fields.object("counts")),
        restarts=fields.integer("restarts"),
        clean_stop=fields.boolean("clean_stop"),
        elapsed_s=fields.number("elapsed_s", 0.0),
        ticked_s=_optional(fields, "ticked_s"),
        saved_s=fields.number("saved_s", 0.0),
        reason=fields.text("reason", most=MAX_REASON),
        floor_serial=fields.integer("floor_serial"),
        newest_expires_s=fields.number("newest_expires_s", 0.0),
        newest_local_s=_optional(fields, "newest_local_s") or 0.0,
        refused=tuple(_refusal(item) for item in fields.objects("refused", most=MAX_REFUSED)),
    )
    fields.close()
    if (state.order is None) != (state.phase in RESTING):
        raise TrustError(f"phase {state.phase} and its order do not fit together", where=where)
    if state.phase is Phase.CONFIRMED and state.confirmed is None:
        raise TrustError("confirmed, but nothing is", where=where)
    return state


def plain(text: str) -> str:
    """Cut a reason that strangers had a part in to what a state can hold: printable, short."""
    shown = "".join(c if c.isprintable() else " " for c in text[: MAX_REASON * 2])
    return shown[:MAX_REASON]


def check_order(order: Order) -> str | None:
    """Say what is wrong with an order's fields; None where a state can hold it."""
    try:
        _order(Fields(dict(vars(order)), "order"))
    except TrustError as error:
        return error.message
    return None


def _order(fields: Fields) -> Order:
    order = Order(
        order_id=fields.text("order_id"),
        sha256=fields.sha256("sha256"),
        serial=fields.integer("serial"),
        size_bytes=fields.integer("size_bytes", 1, MAX_ARCHIVE_BYTES),
        expires_s=fields.number("expires_s", 0.0),
        url=fields.text("url", most=MAX_URL),
    )
    fields.close()
    return order


def _release(fields: Fields, name: str) -> Release | None:
    if not fields.has(name):
        return None
    inner = fields.object(name)
    release = Release(sha256=inner.sha256("sha256"), serial=inner.integer("serial"))
    inner.close()
    return release


def _refusal(fields: Fields) -> Refusal:
    refusal = Refusal(
        sha256=fields.sha256("sha256"),
        expires_s=fields.number("expires_s", 0.0),
        reason=fields.text("reason", most=MAX_REASON),
    )
    fields.close()
    return refusal


def _counts(fields: Fields) -> Counts:
    counts = Counts(
        started=fields.boolean("started"),
        loading_s=fields.number("loading_s", 0.0),
        requests=fields.integer("requests"),
        errors=fields.integer("errors"),
        slow=fields.integer("slow"),
    )
    fields.close()
    if max(counts.errors, counts.slow) > counts.requests:
        raise TrustError("more errors or slow answers than requests", where=fields.name)
    return counts


def _optional(fields: Fields, name: str) -> float | None:
    return fields.number(name) if fields.has(name) else None
