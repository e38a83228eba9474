"""Models as the agent serves them: a verified bundle in the engine, timed in the model itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgekit.agent.engine import Engine, info_of
from edgekit.agent.telemetry import Meter
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
    """

    sha256: str
    serial: int
    meter: Meter = field(default_factory=Meter)


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
        # Calls under way: when each began, by its model and thread.
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
        loaded = load_pipeline(manifest, bundle.read)
        timed = Pipeline(loaded.task, self._timed(model, sha256, loaded.run))
        self.engine.serve(info_of(manifest, model), timed)
        with self._lock:
            self._served[model] = Serving(sha256, manifest.serial)

    def remove(self, model: str) -> None:
        """Serve a model no more."""
        with self._lock:
            was_served = self._served.pop(model, None)
        if was_served is not None:
            self.engine.remove(model)

    def oldest_call_s(self, model: str) -> float | None:
        """Return for how long the oldest call under way has been in a model, if there is one."""
        with self._lock:
            began = [at for (name, _), at in self._under_way.items() if name == model]
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
        for label, score in answered_classes(prediction):
            serving.meter.saw_class(label, score)

    def _timed(self, model: str, sha256: str, run: Run) -> Run:
        def timed(feeds: Mapping[str, Array]) -> dict[str, Array]:
            key = (model, threading.get_ident())
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
                self._on_call(model, sha256, (self._clock() - began) * 1e3, failed)
            return answer

        return timed


def answered_classes(prediction: Prediction | None) -> list[tuple[str, float | None]]:
    """Return the labels that a prediction states, with their scores.

    A classifier states its best class, a detector the class of each box; other tasks none.
    """
    if not prediction:
        return []
    rows = prediction.get("top") or ()
    rows = rows[:1] if rows else prediction.get("boxes", ())
    found = []
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, Mapping) and row.get("label", row.get("index")) is not None:
            score = row.get("score")
            label = row["label"] if row.get("label") is not None else row["index"]
            found.append((str(label), float(score) if isinstance(score, int | float) else None))
    return found
