"""A flow: samples from an input through a model to outputs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgekit.agent.engine import Engine
from edgekit.agent.inputs import Input, Sample
from edgekit.agent.outputs import Output, Result
from edgekit.wire.errors import EdgekitError

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


def run_flow(
    flow: Flow, engine: Engine, stop: threading.Event, wall_clock: Callable[[], float]
) -> int:
    """Run a flow until its input ends or ``stop`` is set.

    A sample that fails is a result, too: it says why.

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
    for sample in flow.source.samples(stop):
        if stop.is_set():
            break
        result = _result(flow.model, engine, sample, wall_clock)
        count += 1
        for output in flow.outputs:
            try:
                output.send(result)
            except Exception:  # one output must not silence the others
                log.exception("an output failed")
        sample.done("error" not in result)
    return count


def _result(model: str, engine: Engine, sample: Sample, wall_clock: Callable[[], float]) -> Result:
    result: Result = {"model": model, "name": sample.name, "time_s": round(wall_clock(), 3)}
    start = engine.clock()
    try:
        prediction = engine.predict(model, sample.data, wait=True)
    except EdgekitError as error:
        return result | {"error": error.message, "hint": error.hint or ""}
    latency_ms = round((engine.clock() - start) * 1000, 3)
    return result | {"latency_ms": latency_ms, "prediction": prediction}
