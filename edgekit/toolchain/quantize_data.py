"""The samples of ``edgekit quantize``: enough of them, and what the model takes and can bear."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgekit.runtime.session import open_session, runner
from edgekit.toolchain.model_input import check_samples
from edgekit.toolchain.quantize.calibrate import extremes
from edgekit.toolchain.quantize.layers import find_layers
from edgekit.toolchain.quantize.static import tensors_to_calibrate
from edgekit.toolchain.readers import Sample
from edgekit.toolchain.stages import Workbench
from edgekit.toolchain.verify import lint_count
from edgekit.wire.errors import BuildError, ConfigError


def check_data(bench: Workbench, data: Path) -> None:
    """Load both halves of the samples and hold them against the model.

    Args:
        bench: The model with a recipe that was made for the folder.
        data: The folder.

    Raises:
        ConfigError: A half holds too few samples, one stands in both, or one does not fit.
    """
    with blaming(bench, data):
        halves = (bench.calibration_set, bench.evaluation_set)
        for half in halves:
            lint_count(half, bench.recipe.file)
    for half in halves:
        check_samples(bench.task, bench.recipe.inputs, half.samples)


@contextlib.contextmanager
def blaming(bench: Workbench, data: Path) -> Iterator[None]:
    """Turn what is said of a recipe that nobody wrote to the folder that it was made for.

    Raises:
        ConfigError: As the body raises it, with the folder as its place.
    """
    try:
        yield
    except ConfigError as error:
        if not (error.where or "").startswith(bench.recipe.file):
            raise
        hint = error.hint
        if "too few" in error.message and bench.recipe.calibration[0].reader == "sounds":
            hint = "give more or longer sounds: each half takes 16 windows"
        elif "is also calibration sample" in error.message:
            hint = "remove the copies: every other sample calibrates, the rest evaluates"
        elif "calibrated range" in error.message:
            hint = "every other one calibrates: give more samples, and of every kind in both halves"
        raise ConfigError(error.message, hint=hint, where=str(data)) from error


def unused_arrays(bench: Workbench) -> list[str]:
    """Return the names of arrays in the samples that the model does not take."""
    import numpy as np

    taken = {spec.name for spec in bench.recipe.inputs}
    found: set[str] = set()
    for sample in _samples(bench):
        if sample.suffix == ".npz":
            # The names alone: an array that is not fed is not read.
            with np.load(io.BytesIO(sample.data), allow_pickle=False) as arrays:
                found |= set(arrays.files) - taken
    return sorted(found)


def name_broken_sample(bench: Workbench) -> None:
    """Look for the sample on which the float32 model gives NaN or infinite values.

    Only where something went wrong: it runs the model on every sample.

    Raises:
        BuildError: Names the sample and the output, or the tensor inside of the model.
    """
    source = runner(open_session(bench.source.to_bytes()))
    fixed = {spec.name: spec for spec in bench.recipe.inputs if spec.fixed is not None}
    for sample in _samples(bench):
        _run_finite(bench, source, fixed, sample)
    graph, scheme = bench.static_base, bench.resolved.target.quantization
    names = tensors_to_calibrate(graph, find_layers(graph.proto, scheme.static_ops), scheme)
    run = runner(open_session(bench.canonical.graph.to_bytes()))
    for sample in bench.calibration_set.samples:
        feeds: list[Mapping[str, Any]] = []

        def recording(
            fed: Mapping[str, Any], feeds: list[Mapping[str, Any]] = feeds
        ) -> dict[str, Any]:
            feeds.append(dict(fed))
            return run(fed)

        bench.task.predict(recording, sample.data)
        try:
            extremes(graph, names, feeds)
        except BuildError as error:
            message = error.message.rpartition(" on calibration sample")[0] or error.message
            raise BuildError(
                f"{message} in the float32 model", hint=error.hint, where=sample.name
            ) from error


def _run_finite(bench: Workbench, source: Any, fixed: Mapping[str, Any], sample: Sample) -> None:  # noqa: ANN401
    import numpy as np

    constants = {name: np.array(spec.fixed, dtype=spec.dtype) for name, spec in fixed.items()}

    def run(feeds: Mapping[str, Any]) -> dict[str, Any]:
        outputs: dict[str, Any] = source({**feeds, **constants})
        for name, value in outputs.items():
            if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
                raise BuildError(
                    f'output "{name}" of the float32 model is NaN or infinite on this sample',
                    hint="run the model on it: look for a division by zero, a logarithm of zero or "
                    "an overflow; leave the sample out if it is no real one",
                    where=sample.name,
                )
        return outputs

    bench.task.predict(run, sample.data)


def _samples(bench: Workbench) -> Iterator[Sample]:
    yield from bench.calibration_set.samples
    yield from bench.evaluation_set.samples
