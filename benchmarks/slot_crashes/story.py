"""A device's whole life with one model: bundles that stand their trial, and some that do not.

The story is the same in every run, so that "point 217" is the same moment in each of them.
"""

# the signatures are those of `Hands`
# ruff: noqa: ARG002
from __future__ import annotations

import contextlib
import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.agent.disk import Disk, FullDiskError
from edgekit.agent.lifecycle import Lifecycle, verified
from edgekit.agent.slots import Limits, Trust, open_slots
from edgekit.runtime import trial_events as on
from edgekit.runtime.trial_rules import TrialRules
from edgekit.runtime.trial_state import RESTING, Order, Phase, State
from edgekit.toolchain.pack import write_bundle
from edgekit.wire.errors import DeviceError
from edgekit.wire.manifest import (
    BundleTarget,
    Golden,
    Manifest,
    Pipeline,
    SessionOptions,
    Tolerance,
)
from edgekit.wire.measurement import Requirement
from edgekit.wire.signing import PrivateKey

MODEL = "small"
KEY = PrivateKey(bytes(range(32)), "story")
TRUST = Trust((KEY.public,), target="rpi5", family="arm64")
LIMITS = Limits(max_bytes=1 << 20, spare_bytes=0)
RULES = TrialRules(duration_s=2, min_requests=2, max_duration_s=9, early_requests=2)
CHUNK_BYTES = 3000
CONTRACT = (Requirement("latency_p95_ms", maximum=50.0),)


@dataclass(frozen=True)
class Chapter:
    """One order and what becomes of it.

    Attributes:
        release: Number of the bundle, and its serial.
        fate: ``good``, ``self-test`` (fails it), ``hang``, ``crash`` (in every start of its trial),
            ``slow``, ``cut`` (the connection ends once while it is fetched).
    """

    release: int
    fate: str = "good"


STORY = (
    Chapter(1),
    Chapter(2, "cut"),
    Chapter(3, "hang"),
    Chapter(4, "self-test"),
    Chapter(5),
    Chapter(6, "crash"),
    Chapter(7, "slow"),
    Chapter(8),
)
LAST = Chapter(99)


def make_releases(folder: Path, releases: Sequence[int]) -> dict[int, bytes]:
    """Write one small signed bundle a release; return their bytes by number."""
    found = {}
    for number in releases:
        path = folder / f"{number}.ekb"
        write_bundle(path, _manifest(number), {"model.onnx": bytes([number]) * 9000}, KEY)
        found[number] = path.read_bytes()
    return found


class Life:
    """A device that lives through the story.

    Args:
        root: The folder of its slots.
        releases: Bundles by number.
        disk: What changes files.
    """

    def __init__(self, root: Path, releases: dict[int, bytes], disk: Disk) -> None:
        self._releases = releases
        self._by_sha256 = {order_of(n, data).sha256: n for n, data in releases.items()}
        self._now_s = 0.0
        self._work: deque[tuple[str, str]] = deque()
        self.serves: str | None = None
        self.reports: list[on.Report] = []
        self.slots = open_slots(root, TRUST, limits=LIMITS, disk=disk)
        self.lifecycle = Lifecycle(self.slots, self, self._clock, RULES)

    def start(self) -> None:
        """Start the process anew."""
        self._work.clear()
        self.serves = None
        self.lifecycle = Lifecycle(self.slots, self, self._clock, RULES)
        self.lifecycle.start()

    def live(self, chapters: Sequence[Chapter] = STORY) -> None:
        """Live through some chapters."""
        for chapter in chapters:
            self.chapter(chapter)

    def chapter(self, chapter: Chapter) -> None:
        """Live through one: from its order until the slot rests."""
        order = order_of(chapter.release, self._releases[chapter.release])
        self.lifecycle.handle(MODEL, on.OrderReceived(order))
        cut = chapter.fate == "cut"
        for _ in range(60):
            self._do_work(chapter, order, cut=cut)
            cut = False
            on_trial = self.state.phase is Phase.TRIAL
            oldest_s = 99.0 if chapter.fate == "hang" and on_trial else None
            self.lifecycle.tick({MODEL: on.Tick(oldest_request_s=oldest_s)})
            if self.state.phase in RESTING and not self._work:
                return

    @property
    def state(self) -> State:
        """The slot."""
        return self.lifecycle.states.get(MODEL, State())

    def _do_work(self, chapter: Chapter, order: Order, *, cut: bool) -> None:
        work, self._work = self._work, deque()
        for what, sha256 in work:
            if what == "fetch":
                self._fetch(sha256, cut=cut)
            elif what == "self-test":
                failed = chapter.fate == "self-test" and sha256 == order.sha256
                event = on.SelfTestFailed(sha256, "off") if failed else on.SelfTestPassed(sha256)
                self.lifecycle.handle(MODEL, event)
            elif what == "serve":
                self._started(chapter, sha256, ours=sha256 == order.sha256)

    def _fetch(self, sha256: str, *, cut: bool) -> None:
        data = self._releases[self._by_sha256[sha256]]

        def source(offset: int, *, cut: bool = False) -> Iterator[bytes]:
            for start in range(offset, len(data), CHUNK_BYTES):
                if cut and start > CHUNK_BYTES:
                    raise ConnectionError("cut")
                yield data[start : start + CHUNK_BYTES]

        try:
            if cut:
                with contextlib.suppress(ConnectionError):
                    self.slots.receive(sha256, len(data), lambda at: source(at, cut=True))
            self.slots.receive(sha256, len(data), source)
        except DeviceError as error:
            full = isinstance(error, FullDiskError)
            self.lifecycle.handle(MODEL, on.FetchFailed(sha256, str(error), full))
        else:
            self.lifecycle.handle(MODEL, on.Fetched(sha256))

    def _started(self, chapter: Chapter, sha256: str, *, ours: bool) -> None:
        if chapter.fate == "crash" and ours:
            self.start()
            return
        self.lifecycle.handle(MODEL, on.Started(sha256))
        for _ in range(2):
            latency_ms = 99.0 if chapter.fate == "slow" and ours else 9.0
            self.lifecycle.handle(MODEL, on.RequestServed(sha256, latency_ms))

    def _clock(self) -> on.Instant:
        self._now_s += 1.0
        return on.Instant(self._now_s, self._now_s)

    def fetch(self, model: str, order: Order) -> None:
        """Part of ``Hands``."""
        self._work.append(("fetch", order.sha256))

    def verify(self, model: str, sha256: str) -> None:
        """Part of ``Hands``."""
        self.lifecycle.handle(model, verified(self.slots, model, sha256))

    def self_test(self, model: str, sha256: str, path: Path) -> None:
        """Part of ``Hands``."""
        self._work.append(("self-test", sha256))

    def cancel(self, model: str, sha256: str) -> None:
        """Part of ``Hands``."""

    def serve(self, model: str, sha256: str | None) -> None:
        """Part of ``Hands``: whatever serves has to be there, whole and verified."""
        self.serves = sha256
        if sha256 is not None:
            with self.slots.open(MODEL, sha256) as bundle:
                if bundle.path.read_bytes() != self._releases[self._by_sha256[sha256]]:
                    raise AssertionError(f"what serves is not {sha256}")
            self._work.append(("serve", sha256))

    def probe(self, model: str, sha256: str) -> None:
        """Part of ``Hands``."""

    def report(self, model: str, report: on.Report) -> None:
        """Part of ``Hands``."""
        self.reports.append(report)


def order_of(number: int, data: bytes) -> Order:
    """Return the order of a release; a later one expires later."""
    digest = hashlib.sha256(data).hexdigest()
    return Order(f"o-{number}", digest, number, len(data), 1e6 + number)


def _manifest(serial: int) -> Manifest:
    return Manifest(
        model=MODEL,
        title="A small one",
        serial=serial,
        license="Apache-2.0",
        target=BundleTarget("rpi5", "arm64", "arm64", "1.31", 17, 1),
        precision="fp32",
        pipeline=Pipeline("tensors", {}, {}),
        inputs=(),
        outputs=(),
        session=SessionOptions("all", 1),
        contract=CONTRACT,
        placement=(),
        golden=Golden("fp32", Tolerance(True, 0.0, 1.0, 1.0), 0, "arm64"),
        plan_sha256="0" * 64,
        tools={"edgekit": "0.1.0", "onnx": "1", "onnxruntime": "1"},
    )
