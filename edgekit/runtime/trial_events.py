"""What can happen to a model slot, and what it can ask for: plain values, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from edgekit.runtime.trial_state import Order

# November 2023: a clock below was not set since power came on.
CLOCK_SET_S = 1_700_000_000.0


@dataclass(frozen=True)
class Instant:
    """A moment, by two clocks.

    Attributes:
        monotonic_s: Of a clock that only goes forward while the machine runs; measures time.
        unix_s: Of the calendar; decides whether an order has expired. None where the clock has
            not been set since power came on.
    """

    monotonic_s: float
    unix_s: float | None


@dataclass(frozen=True)
class ProcessStarted:
    """The agent's process has started and has read the state back; the first event of all."""


@dataclass(frozen=True)
class Stopping:
    """The process was told to end: the next start is no sign of a crash."""


@dataclass(frozen=True)
class OrderReceived:
    """The fleet, or somebody at the device, wants a bundle. The signature has been checked."""

    order: Order


@dataclass(frozen=True)
class Fetched:
    """The bundle's bytes are here and have the order's digest."""

    sha256: str


@dataclass(frozen=True)
class FetchFailed:
    """The bundle cannot be had.

    Attributes:
        disk_full: There was no space for it.
    """

    sha256: str
    reason: str
    disk_full: bool = False


@dataclass(frozen=True)
class Verified:
    """The bundle is genuine, for this device, and lies in its slot.

    Attributes:
        serial: Of its manifest.
        latency_p95_max_ms: Of its contract; None where that has none.
    """

    sha256: str
    serial: int
    latency_p95_max_ms: float | None


@dataclass(frozen=True)
class VerifyFailed:
    """The bundle is not to be trusted, or not for this device."""

    sha256: str
    reason: str


@dataclass(frozen=True)
class SelfTestPassed:
    """Golden samples, latency and placement are as the bundle says."""

    sha256: str


@dataclass(frozen=True)
class SelfTestFailed:
    """They are not, or the process of the self-test crashed or hung."""

    sha256: str
    reason: str


@dataclass(frozen=True)
class Started:
    """The bundle is loaded and takes requests."""

    sha256: str


@dataclass(frozen=True)
class StartFailed:
    """The bundle does not verify any more, or cannot be loaded."""

    sha256: str
    reason: str


@dataclass(frozen=True)
class RequestServed:
    """A bundle has answered a request or failed to.

    Attributes:
        sha256: The bundle that did.
        latency_ms: Time in the model, without queue, pre- and post-processing.
        error: The bundle's own fault; what a client did wrong is none.
    """

    sha256: str
    latency_ms: float
    error: bool = False


@dataclass(frozen=True)
class Tick:
    """Time has passed; about once a second.

    Attributes:
        ready: The device is fit for a self-test: not throttled, no other test under way.
        oldest_request_s: For how long the oldest unanswered request has been in the model.
    """

    ready: bool = True
    oldest_request_s: float | None = None


@dataclass(frozen=True)
class OperatorConfirm:
    """Somebody ends the trial: the bundle is good."""


@dataclass(frozen=True)
class OperatorReject:
    """Somebody ends whatever is under way: the bundle is not wanted."""

    reason: str


Event: TypeAlias = (
    ProcessStarted
    | Stopping
    | OrderReceived
    | Fetched
    | FetchFailed
    | Verified
    | VerifyFailed
    | SelfTestPassed
    | SelfTestFailed
    | Started
    | StartFailed
    | RequestServed
    | Tick
    | OperatorConfirm
    | OperatorReject
)


@dataclass(frozen=True)
class Persist:
    """Keep the new state on disk before any later action."""


@dataclass(frozen=True)
class Fetch:
    """Get the bundle; try again on a bad network until told to stop."""

    order: Order


@dataclass(frozen=True)
class Verify:
    """Check the fetched bundle and put it into its slot."""

    sha256: str


@dataclass(frozen=True)
class RunSelfTest:
    """Run its self-test in a process of its own, with a deadline."""

    sha256: str


@dataclass(frozen=True)
class Cancel:
    """Stop fetching or testing this bundle."""

    sha256: str


@dataclass(frozen=True)
class Start:
    """Load this bundle and let it serve: the process is new."""

    sha256: str


@dataclass(frozen=True)
class Swap:
    """Load this bundle and let it serve in place of what serves now."""

    sha256: str


@dataclass(frozen=True)
class Revert:
    """Let what was confirmed before serve again, now.

    Attributes:
        sha256: Digest of it; None where nothing was ever confirmed.
        failed: Digest of the bundle that serves no longer.
        reason: Why.
    """

    sha256: str | None
    failed: str
    reason: str


@dataclass(frozen=True)
class Probe:
    """Too few requests come in: send one golden sample through the serving bundle as a request."""

    sha256: str


@dataclass(frozen=True)
class Report:
    """Tell the fleet.

    Attributes:
        what: One word: ``accepted``, ``refused``, ``already``, ``staged``, ``trial``,
            ``confirmed``, ``reverted``, ``dropped``.
        sha256: The bundle it is about.
        reason: For people.
    """

    what: str
    sha256: str
    reason: str = ""


Action: TypeAlias = (
    Persist | Fetch | Verify | RunSelfTest | Cancel | Start | Swap | Revert | Probe | Report
)
