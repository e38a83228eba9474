"""Any model, samples as tensors: an .npz file a sample, keys = input names.

For models without a task of their own. Predictions keep the outputs themselves, thinned, so that
two models can be compared; nothing is decoded.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

from edgekit.runtime.session import Run
from edgekit.runtime.tasks import Agreement, Prediction
from edgekit.wire.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

MAX_VALUES = 1024
MAX_SAMPLE_BYTES = 256 << 20
_MAX_NAMED = 8
# What numpy and zipfile raise for files that are no arrays, or were cut off.
_DAMAGED = (
    ValueError,
    OSError,
    EOFError,
    KeyError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    BadZipFile,
    zlib.error,
)


class Tensors:
    """Feeds a sample's arrays as they are.

    Args:
        inputs: Names of the model's inputs; a lone .npy sample goes to the only one.
    """

    def __init__(self, inputs: Sequence[str]) -> None:
        self._inputs = tuple(inputs)

    def predict(self, run: Run, data: bytes) -> Prediction:
        """Run the model on one sample.

        Args:
            run: The model.
            data: An .npz with one array an input, or an .npy for a model with one input.

        Returns:
            ``{"outputs": {name: {"shape": […], "values": […]}}}``, at most 1,024 values an output,
            taken by a fixed stride.

        Raises:
            ConfigError: Not such a file, or an input is missing or not finite.
        """
        outputs = run(self._feeds(data))
        return {"outputs": {name: _thin(value) for name, value in outputs.items()}}

    def agreement(self, reference: Sequence[Prediction], other: Sequence[Prediction]) -> Agreement:
        """Return the cosine of the worst output a sample, negative ones as 0."""
        scores = tuple(
            min(
                _cosine(one["outputs"][name]["values"], two["outputs"][name]["values"])
                for name in one["outputs"]
            )
            for one, two in zip(reference, other, strict=True)
        )
        return Agreement(
            "output_cosine", math.fsum(scores) / len(scores) if scores else 0.0, scores
        )

    def _feeds(self, data: bytes) -> dict[str, np.ndarray[Any, Any]]:
        import numpy as np

        too_large = ConfigError(f"a sample is over {MAX_SAMPLE_BYTES >> 20} MiB")
        if len(data) > MAX_SAMPLE_BYTES:
            raise too_large
        held: list[str] = []
        try:
            loaded = np.load(io.BytesIO(data), allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                arrays = {self._inputs[0]: loaded} if len(self._inputs) == 1 else {}
            else:
                # An archive of a few KB can unpack to gigabytes.
                if sum(entry.file_size for entry in loaded.zip.infolist()) > MAX_SAMPLE_BYTES:
                    raise too_large
                held = list(loaded.files)
                arrays = {name: loaded[name] for name in self._inputs if name in held}
        except _DAMAGED as error:
            # numpy's own words advise to unpickle the file.
            raise ConfigError(
                "not an .npz or .npy of plain arrays", hint="write it with numpy.save or savez"
            ) from error
        missing = [name for name in self._inputs if name not in arrays]
        if missing:
            raise ConfigError(
                f'the sample has no array "{missing[0]}"'
                + (f", but {', '.join(held[:_MAX_NAMED])}" if held else ""),
                hint="save it with numpy.savez(file, "
                + ", ".join(f"{n}=…" for n in self._inputs)
                + ")",
            )
        for name, array in arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ConfigError(
                    f'input "{name}" is not finite: the sample has NaN or infinite values',
                    hint="leave the sample out, or clean what it was saved from",
                )
        return arrays


def create(options: Mapping[str, Any], files: Mapping[str, bytes]) -> Tensors:
    """Make the task.

    Args:
        options: ``inputs``: names of the model's inputs.
        files: None are needed.

    Raises:
        ConfigError: ``inputs`` is missing, or an option or a file is unknown.
    """
    inputs = options.get("inputs")
    if not isinstance(inputs, list) or not inputs or set(options) - {"inputs"} or files:
        raise ConfigError(
            "the task tensors takes one option, the names of the model's inputs",
            hint='inputs = ["x"]',
        )
    return Tensors([str(name) for name in inputs])


def _thin(value: np.ndarray[Any, Any]) -> dict[str, Any]:
    flat = value.ravel()
    kept = flat[:: max(1, -(-flat.size // MAX_VALUES))]
    return {"shape": list(value.shape), "values": [float(v) for v in kept]}


def _cosine(a: Sequence[float], b: Sequence[float]) -> float:
    import numpy as np

    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.shape != y.shape:
        return 0.0
    norms = float(np.linalg.norm(x) * np.linalg.norm(y))
    if norms == 0:
        return float(not x.any() and not y.any())
    return max(0.0, float(x @ y / norms))
