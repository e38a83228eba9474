"""What a model saw and answered at calibration, and the same few numbers of each request since.

A bundle's ``reference.json`` holds, for each number below, how it was distributed over the
calibration samples; a device takes the same numbers of each request and compares. What is compared
must cost little, so no tensor is looked at whole:

* of a tensor of up to :data:`FEW` elements, each element by itself: in a table, each is a feature;
* of any other, at most :data:`GRID` elements on a fixed grid over the whole tensor: their ``mean``
  (brightness, level), their ``std`` (contrast, loudness) and, of an input, ``step``: the mean
  distance of each to its neighbour in memory. Noise raises it and blur lowers it; where channels
  stand last, it is colour. 1,024 elements take 6 µs whatever the tensor's size, where a pass over
  the 150,000 of a photograph takes 100;
* of the prediction: ``output.confidence``, ``output.count`` of the boxes, and the classes.

The grid's stride shares no divisor with the tensor's size, so that it does not fall on one channel
or one column alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from edgekit.runtime.sketches import MAX_CLASSES, MAX_LABEL, Reference
from edgekit.wire.canonical import canonical_json
from edgekit.wire.errors import TrustError
from edgekit.wire.manifest import Manifest
from edgekit.wire.strict import MAX_INTEGER, Fields, parse_object, require_canonical

if TYPE_CHECKING:
    import numpy as np

    from edgekit.runtime.session import Array
    from edgekit.runtime.tasks import Prediction

SCHEMA = "edgekit.reference/1"
REFERENCE_NAME = "reference.json"
FEW = 8
GRID = 1024
MAX_TENSORS = 6
# As many as a device keeps sketches of.
MAX_VALUES = 32
MAX_BYTES = 1 << 20
CONFIDENCE = "output.confidence"
COUNT = "output.count"
SPREAD = ("mean", "std", "step")
_NUMBERS = "fiu"

Side = Literal["input", "output"]


@dataclass(frozen=True)
class Watched:
    """A tensor whose numbers are compared.

    Attributes:
        side: What it is of the model.
        name: The model's name for it.
        numbers: ``mean``, ``std``, ``step``; or ``0`` to ``7``, where each element is one.
    """

    side: Side
    name: str
    numbers: tuple[str, ...]

    @property
    def is_each(self) -> bool:
        """Whether its numbers are its elements."""
        return all(number.isdigit() for number in self.numbers)

    def value_name(self, number: str) -> str:
        """Return the name of one of its numbers in telemetry: ``input.image.mean``."""
        joined = f"[{number}]" if number.isdigit() else f".{number}"
        return f"{self.side}.{self.name}{joined}"


@dataclass(frozen=True)
class Calibrated:
    """The reference of a bundle.

    Attributes:
        samples: Calibration samples that it rests on.
        tensors: What is looked at in each call of the model.
        values: Name of a number to its distribution; a call gives one value of each.
        classes: Label to count; empty where the samples were too few to tell.
    """

    samples: int = 0
    tensors: tuple[Watched, ...] = ()
    values: Mapping[str, Reference] = field(default_factory=dict)
    classes: Mapping[str, int] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return ``reference.json``."""
        rows = [
            {
                "side": tensor.side,
                "name": tensor.name,
                "numbers": {n: self.values[tensor.value_name(n)].to_json() for n in tensor.numbers},
            }
            for tensor in self.tensors
        ]
        answers = {
            name: self.values[name].to_json() for name in (CONFIDENCE, COUNT) if name in self.values
        }
        return canonical_json(
            {
                "schema": SCHEMA,
                "samples": self.samples,
                "tensors": rows,
                "answers": answers,
                "classes": dict(self.classes),
            }
        )


@dataclass(frozen=True)
class Observed:
    """What one request adds to the sketches of a device.

    Attributes:
        values: Names and values, for ``Meter.saw_value``.
        classes: Labels with their confidence (0..1, or None), for ``Meter.saw_class``.
    """

    values: tuple[tuple[str, float], ...] = ()
    classes: tuple[tuple[str, float | None], ...] = ()


def load(manifest: Manifest, read: Callable[[str], bytes]) -> Calibrated:
    """Read the reference of a bundle; one built before there were any has an empty one.

    Args:
        manifest: Of the verified bundle.
        read: Returns a member's verified bytes.

    Raises:
        TrustError: The member is malformed.
    """
    if REFERENCE_NAME not in manifest.members:
        return Calibrated()
    return parse_reference(read(REFERENCE_NAME))


def parse_reference(data: bytes) -> Calibrated:
    """Read ``reference.json``.

    Raises:
        TrustError: Not exactly such a document.
    """
    document = parse_object(data, REFERENCE_NAME, most_bytes=MAX_BYTES)
    require_canonical(data, document, REFERENCE_NAME)
    fields = Fields(document, REFERENCE_NAME)
    fields.choice("schema", (SCHEMA,))
    samples = fields.integer("samples")
    values: dict[str, Reference] = {}
    tensors = tuple(_tensor(row, values) for row in fields.objects("tensors", most=2 * MAX_TENSORS))
    answers = fields.object("answers")
    for name in (CONFIDENCE, COUNT):
        if answers.has(name):
            values[name] = _reference(answers, name)
    answers.close()
    if len(values) > MAX_VALUES:
        raise fields.refuse("tensors", f"have over {MAX_VALUES} numbers")
    classes = _classes(fields)
    fields.close()
    return Calibrated(samples, tensors, values, classes)


def _tensor(row: Fields, values: dict[str, Reference]) -> Watched:
    sides: tuple[Side, ...] = ("input", "output")
    side, name = row.choice("side", sides), row.text("name")
    numbers = row.object("numbers")
    known = (*SPREAD, *(str(place) for place in range(FEW)))
    found = tuple(number for number in known if numbers.has(number))
    tensor = Watched(side, name, found)
    for number in found:
        values[tensor.value_name(number)] = _reference(numbers, number)
    numbers.close()
    row.close()
    return tensor


def _reference(fields: Fields, name: str) -> Reference:
    return Reference.from_json(fields.mapping(name), f"{fields.name} {name}")


def _classes(fields: Fields) -> dict[str, int]:
    inner = fields.object("classes")
    if len(inner.names()) > MAX_CLASSES:
        raise fields.refuse("classes", f"are over {MAX_CLASSES}")
    if not all(len(label) <= MAX_LABEL and label.isprintable() for label in inner.names()):
        raise fields.refuse("classes", "have a label that is too long or cannot be printed")
    return {label: inner.integer(label, 0, MAX_INTEGER) for label in inner.names()}


def observe(
    reference: Calibrated,
    feeds: Mapping[str, Array],
    outputs: Mapping[str, Array],
    prediction: Prediction | None,
) -> Observed:
    """Take the numbers of one request whose task calls the model once.

    Args:
        reference: Of the bundle.
        feeds: What the model was fed.
        outputs: What it answered.
        prediction: What the task made of it; None where there is none (tensors over HTTP).

    Returns:
        What to hand to the meter; empty where the bundle has no reference but for the classes.
    """
    answer = observe_answer(reference, prediction)
    return Observed(
        (*observe_call(reference, feeds, outputs), *answer.values),
        answer.classes,
    )


def observe_call(
    reference: Calibrated, feeds: Mapping[str, Array], outputs: Mapping[str, Array]
) -> list[tuple[str, float]]:
    """Take the numbers of one call of the model; a task may call it several times a request.

    A tensor that is not there, or has another number of elements where each counts, gives none.
    """
    found = []
    for tensor in reference.tensors:
        array = (feeds if tensor.side == "input" else outputs).get(tensor.name)
        if array is None:
            continue
        numbers = each(array) if tensor.is_each else spread(array)
        found += [(tensor.value_name(n), numbers[n]) for n in tensor.numbers if n in numbers]
    return found


def observe_answer(reference: Calibrated, prediction: Prediction | None) -> Observed:
    """Take the numbers of one prediction."""
    numbers = answer_numbers(prediction)
    return Observed(
        tuple((name, value) for name, value in numbers.items() if name in reference.values),
        tuple(answered_classes(prediction)),
    )


def answered_classes(prediction: Prediction | None) -> list[tuple[str, float | None]]:
    """Return the labels that a prediction states, with their scores.

    A classifier states its best class, a detector the class of each box; other tasks none.
    """
    found: list[tuple[str, float | None]] = []
    for row in _rows(prediction):
        label = row.get("label") if row.get("label") is not None else row.get("index")
        if label is not None:
            found.append((str(label)[:MAX_LABEL], _score(row)))
    return found


def answer_numbers(prediction: Prediction | None) -> dict[str, float]:
    """Return confidence (0..1, the mean over boxes) and number of boxes, where there are any."""
    if not prediction:
        return {}
    numbers = {}
    scores = [s for row in _rows(prediction) if (s := _score(row)) is not None]
    if scores:
        numbers[CONFIDENCE] = math.fsum(scores) / len(scores)
    elif (score := _score(prediction)) is not None:
        numbers[CONFIDENCE] = score
    if isinstance(boxes := prediction.get("boxes"), list):
        numbers[COUNT] = float(len(boxes))
    return numbers


def is_number(array: Array) -> bool:
    """Tell whether a tensor holds integers or floats."""
    return array.dtype.kind in _NUMBERS


def each(array: Array) -> dict[str, float]:
    """Return every element of a small tensor by its place; nothing of a larger one."""
    if array.size > FEW or not is_number(array):
        return {}
    return {str(place): float(value) for place, value in enumerate(array.ravel())}


def spread(array: Array) -> dict[str, float]:
    """Return mean, std and step of a tensor's elements on the grid."""
    import numpy as np

    if not array.size or not is_number(array):
        return {}
    stride = _stride(array.size)
    # A view of a tensor in memory order costs nothing; another one is read element by element.
    flat = array.reshape(-1) if array.flags.c_contiguous else array.flat
    with np.errstate(all="ignore"):  # what is not finite is counted as missing
        points: np.ndarray[Any, Any] = flat[::stride].astype(np.float64)
        mean = float(points.sum()) / points.size
        off = points - mean
        std = math.sqrt(float(off.dot(off)) / points.size)
        beside = flat[1::stride]
        pairs = min(points.size, beside.size)
        step = float(np.abs(beside[:pairs] - points[:pairs]).sum()) / pairs if pairs else 0.0
    return {"mean": mean, "std": std, "step": step}


def _stride(size: int) -> int:
    stride = max(1, size // GRID)
    while math.gcd(stride, size) != 1:
        stride += 1
    return stride


def _rows(prediction: Prediction | None) -> Iterator[Mapping[str, Any]]:
    if not prediction:
        return
    top = prediction.get("top")
    rows = top[:1] if isinstance(top, list) and top else prediction.get("boxes")
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, Mapping):
            yield row


def _score(row: Mapping[str, Any]) -> float | None:
    score = row.get("score")
    return float(score) if isinstance(score, int | float) else None


def check(reference: Calibrated) -> Calibrated:
    """Return the reference as a device reads it back.

    Raises:
        TrustError: A device would refuse it.
    """
    back = parse_reference(reference.to_bytes())
    if back != reference:
        raise TrustError("the reference does not read back as it was written", where=REFERENCE_NAME)
    return back
