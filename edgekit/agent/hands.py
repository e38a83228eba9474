"""The hands of the lifecycle: fetching, verifying, self-tests, loading, probes, each in a thread.

Every call returns at once; what comes of it is posted as an event. A bundle that serves is opened
and checked again at every load.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from edgekit.agent.disk import FullDiskError
from edgekit.agent.lifecycle import verified
from edgekit.agent.selftest import SelfTest, SelfTestSettings
from edgekit.agent.serving import Models
from edgekit.agent.slots import Slots
from edgekit.runtime import trial_events as on
from edgekit.runtime.trial_events import Event
from edgekit.runtime.trial_state import Order
from edgekit.wire.errors import DeviceError, EdgekitError
from edgekit.wire.signing import PublicKey

if TYPE_CHECKING:
    from edgekit.wire.selftest import SelfTestResult

log = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 18
_TIMEOUT_S = 30.0
_RETRY_S = (1.0, 5.0, 30.0, 120.0, 300.0)
_SCHEMES = ("http", "https")

Post = Callable[[str, Event], None]


class AgentHands:
    """Does the lifecycle's work.

    Args:
        slots: Where bundles lie.
        models: Where they serve.
        keys: Whom the device trusts.
        post: Takes an event, from any thread.
        on_report: Told what the fleet is to know: model and report.
        settings: Of self-tests.
        random: Gives numbers in 0..1, so that a fleet does not fetch again in step.
    """

    def __init__(
        self,
        slots: Slots,
        models: Models,
        keys: Sequence[PublicKey],
        post: Post,
        on_report: Callable[[str, on.Report], None],
        settings: SelfTestSettings | None = None,
        *,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._slots = slots
        self._models = models
        self._keys = keys
        self._post = post
        self._on_report = on_report
        self._settings = settings or SelfTestSettings()
        self._random = random
        self._local: dict[str, Path] = {}
        self._stops: dict[tuple[str, str], threading.Event] = {}
        # One writes into a bundle's file at a time: one that was stopped may still be reading.
        self._receiving: dict[str, threading.Lock] = {}
        self._tests: dict[tuple[str, str], SelfTest] = {}
        # Loads happen one after the other: two at once would take twice the memory.
        self._loading = threading.Lock()
        # And so do verifications, for they move the bundle that they have read.
        self._verifying = threading.Lock()
        self._wanted: dict[str, str | None] = {}
        self.results: dict[str, SelfTestResult] = {}

    def offer(self, sha256: str, path: Path) -> None:
        """Say where a bundle lies that need not be fetched over a network."""
        self._local[sha256] = path

    def fetch(self, model: str, order: Order) -> None:
        """Get a bundle's bytes, trying again on a bad network until told to stop."""
        stop = self._stops[model, order.sha256] = threading.Event()
        self._run("fetch", lambda: self._fetch(model, order, stop))

    def verify(self, model: str, sha256: str) -> None:
        """Read a fetched bundle from end to end: gigabytes, from a slow card, take minutes."""
        stop = self._stops[model, sha256] = threading.Event()
        self._run("verify", lambda: self._verify(model, sha256, stop))

    def self_test(self, model: str, sha256: str, path: Path) -> None:
        """Run the self-test in a process of its own."""
        try:
            test = SelfTest(path, sha256, self._keys, settings=self._settings)
        except DeviceError as error:
            self._post(model, on.SelfTestFailed(sha256, str(error)))
            return
        self._tests[model, sha256] = test

        def wait() -> None:
            result = test.wait()
            if self._tests.pop((model, sha256), None) is None:
                return  # cancelled: nothing is to come back
            self.results[model] = result
            self._post(
                model,
                on.SelfTestPassed(sha256)
                if result.passed
                else on.SelfTestFailed(sha256, result.reason),
            )

        self._run("self-test", wait)

    def cancel(self, model: str, sha256: str) -> None:
        """Stop fetching, verifying or testing a bundle."""
        stop = self._stops.pop((model, sha256), None)
        if stop is not None:
            stop.set()
        test = self._tests.pop((model, sha256), None)
        if test is not None:
            test.cancel()

    def serve(self, model: str, sha256: str | None) -> None:
        """Load a bundle and let it serve in place of what does."""
        self._wanted[model] = sha256
        self._run("load", lambda: self._serve(model, sha256))

    def probe(self, model: str, sha256: str) -> None:
        """Send one golden sample through the serving bundle."""
        self._run("probe", lambda: self._probe(model, sha256))

    def report(self, model: str, report: on.Report) -> None:
        """Tell the fleet."""
        self._on_report(model, report)

    def stop(self) -> None:
        """Stop what is under way: the process ends."""
        for model, sha256 in [*self._stops, *self._tests]:
            self.cancel(model, sha256)

    def _run(self, name: str, work: Callable[[], None]) -> None:
        threading.Thread(target=work, name=name, daemon=True).start()

    def _fetch(self, model: str, order: Order, stop: threading.Event) -> None:
        attempt = 0
        came = 0

        def source(offset: int) -> Iterator[bytes]:
            nonlocal came
            for chunk in self._bytes(order, offset, stop):
                came += len(chunk)
                yield chunk

        while not stop.is_set():
            try:
                with self._receiving.setdefault(order.sha256, threading.Lock()):
                    self._slots.receive(order.sha256, order.size_bytes, source)
            except FullDiskError as error:
                event: Event = on.FetchFailed(order.sha256, str(error), disk_full=True)
            except DeviceError as error:
                event = on.FetchFailed(order.sha256, str(error))
            except (OSError, ValueError, HTTPException) as error:
                # A line that breaks off again and again, but gets on, is not given longer waits.
                attempt, came = (0 if came else attempt), 0
                wait_s = _RETRY_S[min(attempt, len(_RETRY_S) - 1)] * (0.5 + self._random() / 2)
                log.info("%s: fetching failed, again in %.0f s: %r", model, wait_s, error)
                attempt += 1
                stop.wait(wait_s)
                continue
            else:
                event = on.Fetched(order.sha256)
            self._tell(model, order.sha256, stop, event)
            return

    def _tell(self, model: str, sha256: str, stop: threading.Event, event: Event) -> None:
        """Post what came of a piece of work, unless it was cancelled or begun anew meanwhile."""
        if self._stops.get((model, sha256)) is stop:
            self._stops.pop((model, sha256), None)
            self._post(model, event)

    def _bytes(self, order: Order, offset: int, stop: threading.Event) -> Iterator[bytes]:
        local = self._local.get(order.sha256)
        if local is not None:
            with local.open("rb") as file:
                file.seek(offset)
                while chunk := file.read(_CHUNK_BYTES):
                    yield chunk
            return
        if urlsplit(order.url).scheme not in _SCHEMES:
            raise DeviceError(f"the order {order.order_id} names no place to fetch from")
        # 1 MB that an agent without a fleet does not need.
        from urllib.request import Request, urlopen

        request = Request(  # noqa: S310 - the scheme was checked
            order.url, headers={"Range": f"bytes={offset}-"} if offset else {}
        )
        with urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
            # A server that knows no ranges sends all of it: what is here already is skipped.
            skip = offset if offset and answer.status != 206 else 0  # noqa: PLR2004
            left = order.size_bytes - (0 if skip else offset)
            while (chunk := answer.read(_CHUNK_BYTES)) and not stop.is_set():
                left -= len(chunk)
                yield chunk[skip:]
                skip = max(0, skip - len(chunk))
            if stop.is_set():
                raise OSError("stopped")
            # To http.client a line that breaks looks like the end.
            if answer.length or (answer.length is None and left > 0):
                raise OSError("the connection ended before the bundle did")

    def _verify(self, model: str, sha256: str, stop: threading.Event) -> None:
        with self._verifying:
            if stop.is_set():
                return
            event = verified(self._slots, model, sha256)
        self._tell(model, sha256, stop, event)

    def _serve(self, model: str, sha256: str | None) -> None:
        with self._loading:
            if self._wanted.get(model) != sha256:
                return  # another one has been asked for meanwhile
            if sha256 is None:
                self._models.remove(model)
                return
            try:
                with self._slots.open(model, sha256) as bundle:
                    self._models.load(model, bundle, sha256)
            except EdgekitError as error:
                event: Event = on.StartFailed(sha256, str(error))
            except Exception as error:  # a bundle must not end the agent
                log.exception("%s does not load", model)
                event = on.StartFailed(sha256, f"{type(error).__name__}: {error}")
            else:
                event = on.Started(sha256)
        self._post(model, event)

    def _probe(self, model: str, sha256: str) -> None:
        from edgekit.runtime.golden import from_members

        try:
            with self._slots.open(model, sha256) as bundle:
                sample, _ = from_members(0, bundle.manifest.members, bundle.read)
            self._models.engine.predict(model, sample, wait=True)
        except EdgekitError as error:
            log.info("%s: a probe failed: %s", model, error)
