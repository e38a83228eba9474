"""Flows: samples from an input through a model to outputs, each flow in a thread of its own."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgekit.agent.config import FlowSettings
from edgekit.agent.engine import Engine
from edgekit.agent.inputs import Input, Sample
from edgekit.agent.outputs import Output, Result
from edgekit.wire.errors import EdgekitError

_WAIT_S = 0.2
# A program of an input is given 2 s to end, an output up to 5 s to send what waits.
_JOIN_S = 8.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Flow:
    """From where, through what, to where.

    Attributes:
        source: Where samples come from.
        model: A model or a pipeline that the engine serves.
        outputs: Where results go.
    """

    source: Input
    model: str
    outputs: Sequence[Output] = ()


class Flows:
    """The flows of an agent.

    Args:
        engine: Serves their models.
        wall_clock: Seconds since 1970, as results state them.
        on_ended: Told of a flow that ended by itself with an error: its model, and why.

    Attributes:
        stopping: Set once all are to end.
    """

    def __init__(
        self,
        engine: Engine,
        wall_clock: Callable[[], float],
        on_ended: Callable[[str, str], object],
    ) -> None:
        self.stopping = threading.Event()
        self._engine = engine
        self._wall_clock = wall_clock
        self._on_ended = on_ended
        self._threads: list[threading.Thread] = []

    def start(self, flows: Sequence[Flow]) -> None:
        """Start a thread for each."""
        for number, flow in enumerate(flows):
            thread = threading.Thread(
                target=self.run, args=(flow,), name=f"flow-{number}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def join(self, patience_s: float = _JOIN_S) -> None:
        """Wait until their programs have ended and their outputs have sent what waits."""
        self.stopping.set()
        end_s = time.monotonic() + patience_s
        for thread in self._threads:
            thread.join(max(0.0, end_s - time.monotonic()))

    def run(self, flow: Flow) -> None:
        """Run one in this thread, and tell of an error that ends it."""
        try:
            run_flow(flow, self._engine, self.stopping, self._wall_clock)
        except EdgekitError as error:
            log.error("a flow into %s ended: %s", flow.model, error)  # noqa: TRY400 - it says all
            self._on_ended(flow.model, str(error))
        except Exception as error:  # a thread that ends in silence is what nobody looks for
            log.exception("a flow into %s ended", flow.model)
            self._on_ended(flow.model, f"{type(error).__name__}: {error}")


def make_flow(settings: FlowSettings, clock: Callable[[], float]) -> Flow:
    """Make a flow; its outputs connect at once, its input begins with the flow.

    Args:
        settings: Its input, its model, its outputs.
        clock: Seconds that only grow.

    Raises:
        ConfigError: They are wrong, or name a folder that is not there.
        MissingToolError: A package that an output needs is not installed.
    """
    from edgekit.agent.inputs import create_input
    from edgekit.agent.outputs import create_output

    source = dict(settings.source)
    made = create_input(str(source.pop("kind", "")), source, clock)
    outputs = []
    for entry in settings.outputs:
        options = dict(entry)
        outputs.append(create_output(str(options.pop("kind", "")), options))
    return Flow(made, settings.model, tuple(outputs))


def run_flow(
    flow: Flow, engine: Engine, stop: threading.Event, wall_clock: Callable[[], float]
) -> int:
    """Run a flow until its input ends or ``stop`` is set.

    A sample that fails is a result, too: it says why. One that comes before its model serves waits
    for it: a board that starts anew must not give up on what has gathered meanwhile.

    Args:
        flow: What to do.
        engine: Serves its model.
        stop: Ends it.
        wall_clock: Seconds since 1970, as results state them.

    Returns:
        Number of samples.

    Raises:
        EdgekitError: The input cannot work at all, such as a camera whose program is missing.
    """
    count = 0
    try:
        for sample in flow.source.samples(stop):
            result = _result(flow.model, engine, sample, wall_clock, stop)
            if result is None:
                break
            count += 1
            for output in flow.outputs:
                try:
                    output.send(result)
                except Exception:  # one output must not silence the others
                    log.exception("an output failed")
            sample.done("error" not in result)
    finally:
        for output in flow.outputs:
            try:
                output.close()
            except Exception:
                log.exception("an output failed to close")
    return count


def _result(
    model: str,
    engine: Engine,
    sample: Sample,
    wall_clock: Callable[[], float],
    stop: threading.Event,
) -> Result | None:
    """Predict one sample; None where the flow is to end."""
    if not _await_model(model, engine, stop):
        return None
    result: Result = {"model": model, "name": sample.name, "time_s": round(wall_clock(), 3)}
    start = engine.clock()
    try:
        prediction = engine.predict(model, sample.data, wait=True)
        latency_ms = round((engine.clock() - start) * 1000, 3)
        json.dumps(prediction, allow_nan=False)
    except EdgekitError as error:
        return result | {"error": error.message, "hint": error.hint or ""}
    except ValueError:  # JSON has no form for NaN, and outputs write JSON
        hint = "look at the input's values"
        return result | {"error": "the prediction is not finite", "hint": hint}
    return result | {"latency_ms": latency_ms, "prediction": prediction}


def _await_model(model: str, engine: Engine, stop: threading.Event) -> bool:
    """Wait until a model serves; False where the flow is to end."""
    if not stop.is_set() and model not in engine.names():
        log.info('a flow waits for the model "%s", which does not serve yet', model)
        while model not in engine.names() and not stop.wait(_WAIT_S):
            pass
    return not stop.is_set()
