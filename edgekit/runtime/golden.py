"""Golden samples: raw inputs with the outputs of the shipped model, replayed on any machine.

A sample's outputs are kept as one vector an output: every call of the model, flattened and joined,
then thinned to at most :data:`MAX_VALUES` values by a fixed stride. The digest covers the whole
vector, so "exact" means every bit; the thinned values show how far off a tolerant match is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.runtime.session import Run
from edgekit.runtime.tasks import Prediction, Task
from edgekit.wire.canonical import canonical_json, sha256_hex
from edgekit.wire.errors import TrustError
from edgekit.wire.manifest import Tolerance

if TYPE_CHECKING:
    import numpy as np

MAX_VALUES = 4096


@dataclass(frozen=True)
class Recorded:
    """What a model answered on one sample.

    Attributes:
        prediction: The task's prediction.
        values: By output, the thinned values, one dimension.
        sha256: By output, the digest of all values.
    """

    prediction: Prediction
    values: Mapping[str, np.ndarray[Any, Any]]
    sha256: Mapping[str, str]


@dataclass(frozen=True)
class OutputMatch:
    """How one output of one sample compares with what is expected.

    Attributes:
        sample: Index of the sample.
        output: Name of the output.
        exact: Every bit is equal.
        max_abs: Largest difference, as a share of the output's largest magnitude (at least 1).
        cosine: Cosine of the two vectors, 1 when both are zero.
        agreement: The task's agreement on this sample, 0..1.
        within: It lies within the tolerance.
    """

    sample: int
    output: str
    exact: bool
    max_abs: float
    cosine: float
    agreement: float
    within: bool


def record(task: Task, run: Run, data: bytes) -> Recorded:
    """Run a task on one sample and keep what the model answered."""
    import numpy as np

    calls: dict[str, list[np.ndarray[Any, Any]]] = {}

    def recording(feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        outputs = run(feeds)
        for name, value in outputs.items():
            calls.setdefault(name, []).append(np.asarray(value).ravel())
        return outputs

    prediction = task.predict(recording, data)
    joined = {name: np.ascontiguousarray(np.concatenate(parts)) for name, parts in calls.items()}
    return Recorded(
        prediction=prediction,
        values={name: v[:: max(1, -(-v.size // MAX_VALUES))] for name, v in joined.items()},
        sha256={name: sha256_hex(v.tobytes()) for name, v in joined.items()},
    )


def compare(
    task: Task, expected: Sequence[Recorded], got: Sequence[Recorded], tolerance: Tolerance
) -> list[OutputMatch]:
    """Compare recorded samples, every output by itself.

    Args:
        task: Gives the agreement of predictions.
        expected: What the bundle holds.
        got: What this machine answered, in the same order.
        tolerance: From the manifest.
    """
    matches = []
    agreements = task.agreement([e.prediction for e in expected], [g.prediction for g in got])
    for index, (one, other) in enumerate(zip(expected, got, strict=True)):
        for name, values in one.values.items():
            matches.append(
                _compare_output(
                    index, name, one, other, values, agreements.scores[index], tolerance
                )
            )
    return matches


def _compare_output(
    index: int,
    name: str,
    one: Recorded,
    other: Recorded,
    values: np.ndarray[Any, Any],
    agreement: float,
    tolerance: Tolerance,
) -> OutputMatch:
    import numpy as np

    exact = other.sha256.get(name) == one.sha256[name]
    answer = other.values.get(name)
    if answer is None or answer.shape != values.shape:
        # JSON has no infinity: the largest float says that nothing fits.
        return OutputMatch(index, name, False, sys.float_info.max, 0.0, agreement, False)
    a, b = values.astype(np.float64), answer.astype(np.float64)
    max_abs = float(np.abs(a - b).max(initial=0.0) / max(1.0, np.abs(a).max(initial=0.0)))
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    cosine = float(a @ b / norms) if norms else float(not a.any() and not b.any())
    within = exact or (
        not tolerance.exact
        and max_abs <= tolerance.absolute
        and cosine >= tolerance.cosine_min
        and agreement >= tolerance.agreement_min
    )
    return OutputMatch(index, name, exact, max_abs, cosine, agreement, within)


def to_members(index: int, suffix: str, data: bytes, recorded: Recorded) -> dict[str, bytes]:
    """Return the bundle members of one golden sample, by path.

    Args:
        index: Of the sample; the folder's name.
        suffix: Of the input's file: ``.png``.
        data: The raw input.
        recorded: What the model answered.
    """
    import io

    import numpy as np

    folder = f"golden/{index:02d}"
    members = {f"{folder}/input{suffix}": data}
    outputs: dict[str, dict[str, str]] = {}
    for number, name in enumerate(sorted(recorded.values)):
        buffer = io.BytesIO()
        np.save(buffer, recorded.values[name], allow_pickle=False)
        member = f"{folder}/output{number}.npy"
        members[member] = buffer.getvalue()
        outputs[name] = {"sha256": recorded.sha256[name], "values": member}
    members[f"{folder}/expected.json"] = canonical_json(
        {"prediction": recorded.prediction, "outputs": outputs}
    )
    return members


def from_members(
    index: int, names: Iterable[str], read: Callable[[str], bytes]
) -> tuple[bytes, Recorded]:
    """Read one golden sample back: its raw input and what is expected.

    Args:
        index: Of the sample.
        names: The bundle's members.
        read: Returns a member's verified bytes.

    Raises:
        TrustError: The sample is not in the form that :func:`to_members` writes.
    """
    import io
    import json

    import numpy as np

    folder = f"golden/{index:02d}"
    try:
        source = next(n for n in names if n.startswith(f"{folder}/input"))
        document = json.loads(read(f"{folder}/expected.json"))
        values = {
            name: np.load(io.BytesIO(read(entry["values"])), allow_pickle=False)
            for name, entry in document["outputs"].items()
        }
        digests = {name: str(entry["sha256"]) for name, entry in document["outputs"].items()}
        return read(source), Recorded(dict(document["prediction"]), values, digests)
    except (StopIteration, ValueError, KeyError, TypeError) as error:
        raise TrustError("a golden sample is malformed", where=folder) from error
