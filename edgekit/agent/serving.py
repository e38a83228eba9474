"""Models as the agent serves them: a verified bundle in the engine, timed in the model itself."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgekit.agent.engine import Engine, info_of
from edgekit.agent.telemetry import Meter, ModelReference
from edgekit.runtime.reference import Calibrated, observe_answer, observe_call
from edgekit.runtime.reference import load as load_reference
from edgekit.wire.bundle import Bundle

if TYPE_CHECKING:
    from edgekit.runtime.session import Array, Run
    from edgekit.runtime.tasks import Prediction

# Told of every call of a model: digest, milliseconds in it, and whether it failed.
OnCall = Callable[[str, str, float, bool], None]


@dataclass
class Serving:
    """One served bundle.

    Attributes:
        sha256: Its digest.
        serial: Of its model.
        meter: What it did since the last sample of telemetry.
        reference: What it saw and answered at calibration.
    """

    sha256: str
    serial: int
    meter: Meter = field(default_factory=Meter)
    reference: Calibrated = field(default_factory=Calibrated)


class Models:
    """What serves; safe to use from several threads.

    Args:
        engine: Gets the pipelines.
        on_call: Told of every call of a model.
        clock: Seconds that never jump.
    """

    def __init__(
        self, engine: Engine, on_call: OnCall, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.engine = engine
        self._on_call = on_call
        self._clock = clock
        self._lock = threading.Lock()
        self._served: dict[str, Serving] = {}
        # Calls under way: when each began, by its bundle and thread.
        self._under_way: dict[tuple[str, int], float] = {}

    @property
    def served(self) -> Mapping[str, Serving]:
        """What serves, by the model's name."""
        with self._lock:
            return dict(self._served)

    def load(self, model: str, bundle: Bundle, sha256: str) -> None:
        """Load a bundle and let it serve in place of what did.

        Args:
            model: The name to serve it under.
            bundle: Verified.
            sha256: Its digest.

        Raises:
            BuildError: onnxruntime does not load the model.
            ConfigError: Its task is unknown to this agent.
            MissingToolError: A package that its task needs is not installed.
        """
        from edgekit.runtime.pipeline import Pipeline, load_pipeline

        manifest = bundle.manifest
        reference = load_reference(manifest, bundle.read)
        meter = Meter(ModelReference(reference.values, reference.classes))
        serving = Serving(sha256, manifest.serial, meter, reference)
        loaded = load_pipeline(manifest, bundle.read)
        self.engine.serve(
            info_of(manifest, model),
            Pipeline(loaded.task, self._watched(model, serving, loaded.run)),
        )
        with self._lock:
            self._served[model] = serving
        return_memory()

    def remove(self, model: str) -> None:
        """Serve a model no more."""
        with self._lock:
            was_served = self._served.pop(model, None)
        if was_served is not None:
            self.engine.remove(model)

    def oldest_call_s(self, model: str) -> float | None:
        """Return for how long the oldest call under way has been in a model, if there is one.

        A call that hangs never leaves: in a bundle that serves no more, it is of no account.
        """
        with self._lock:
            serving = self._served.get(model)
            sha256 = serving.sha256 if serving is not None else ""
            began = [at for (bundle, _), at in self._under_way.items() if bundle == sha256]
        return self._clock() - min(began) if began else None

    def count(
        self, model: str, latency_s: float, is_ok: bool, prediction: Prediction | None
    ) -> None:
        """Count a request for telemetry; the engine's listener."""
        serving = self.served.get(model)
        if serving is None:
            return  # a pipeline, or a model that has just gone
        if not is_ok:
            serving.meter.failed()
            return
        serving.meter.answered(latency_s * 1e3)
        seen = observe_answer(serving.reference, prediction)
        for label, score in seen.classes:
            serving.meter.saw_class(label, score)
        for name, value in seen.values:
            serving.meter.saw_value(name, value)

    def _watched(self, model: str, serving: Serving, run: Run) -> Run:
        """Time a model's calls, and compare what it sees with what it saw at calibration."""

        def watched(feeds: Mapping[str, Array]) -> dict[str, Array]:
            key = (serving.sha256, threading.get_ident())
            began = self._clock()
            with self._lock:
                self._under_way[key] = began
            failed = True
            try:
                answer = run(feeds)
                failed = False
            finally:
                with self._lock:
                    self._under_way.pop(key, None)
                self._on_call(model, serving.sha256, (self._clock() - began) * 1e3, failed)
            for name, value in observe_call(serving.reference, feeds, answer):
                serving.meter.saw_value(name, value)
            return answer

        return watched


def return_memory() -> None:
    """Give the system back what loading took and has let go: the allocator keeps it (malloc(3))."""
    import ctypes
    import gc

    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)
