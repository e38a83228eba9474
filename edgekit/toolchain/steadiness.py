"""How far a graph's outputs move when float32 arithmetic rounds otherwise in the last bit.

Two CPUs that are both right differ in the last bit of a float32 result. Where such a value feeds a
rounding to 8 bits it may fall on the other side, and every later layer sees a whole step. How far
the outputs move is a property of the graph and the sample, so it is measured: twins of the shipped
graph, whose float32 constants are moved by one unit in the last place, answer the same samples.
What the twins do is what a good device may do, and sets the tolerance. Golden samples are those
whose decisions even rough twins leave as they are, whose constants are moved by parts of a
hundred: a few fine twins do not meet every last bit that could tip a close decision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.runtime.golden import OutputMatch, Recorded, compare, record
from edgekit.runtime.session import open_session, runner
from edgekit.runtime.tasks import Task
from edgekit.toolchain.graph import Graph
from edgekit.toolchain.placement import Place
from edgekit.toolchain.quantize.weights import restore_weights
from edgekit.toolchain.readers import Sample
from edgekit.wire.manifest import Tolerance

if TYPE_CHECKING:
    import numpy as np
    import onnx

TWINS = 4
ULP = 0.0
ROUGH = 2.0**-6
# A few twins on a few samples do not meet the worst case: what they show is doubled.
MARGIN = 2.0
# A twin sums in the same order as the graph: float32 sums in another one may differ by this much.
FLOAT_ABSOLUTE = 1e-3
FLOAT_COSINE = 1e-4
# Whatever the twins do: an answer further off is not this model's.
LEAST_COSINE = 0.98
LEAST_AGREEMENT = 0.9
# Operators whose float32 constants are values, not sizes, bounds or exponents.
_ARITHMETIC = frozenset(
    {"Add", "BatchNormalization", "Conv", "ConvTranspose", "Div", "Gemm", "InstanceNormalization"}
    | {"DynamicQuantizeLSTM", "GRU", "LSTM", "LayerNormalization", "MatMul", "Mul", "Sub"}
)
_ANY = Tolerance(exact=False, absolute=math.inf, cosine_min=-1.0, agreement_min=0.0)


@dataclass(frozen=True)
class Steady:
    """The samples whose decisions hold, and what they may differ by.

    Attributes:
        samples: The chosen ones, in their order.
        recorded: What the graph answers on them.
        tolerance: Twice what its twins differ by on them.
    """

    samples: tuple[Sample, ...]
    recorded: tuple[Recorded, ...]
    tolerance: Tolerance


def choose_steady(
    task: Task,
    graph: Graph,
    places: Mapping[str, Place],
    samples: Sequence[Sample],
    count: int,
) -> Steady:
    """Choose samples whose decisions no last bit changes, and measure their tolerance.

    Args:
        task: The recipe's task.
        graph: The shipped graph.
        places: How each named node runs; integer ones are the same everywhere.
        samples: To choose from.
        count: How many are wanted; the steadiest where too few are steady.
    """
    run = runner(open_session(graph.to_bytes()))
    recorded = [record(task, run, sample.data) for sample in samples]

    def moved_by(amount: float) -> list[list[OutputMatch]]:
        moved: list[list[OutputMatch]] = [[] for _ in samples]
        for seed in range(TWINS):
            twin = runner(open_session(nudged(graph, places, seed, amount).to_bytes()))
            answers = [record(task, twin, sample.data) for sample in samples]
            for match in compare(task, recorded, answers, _ANY):
                moved[match.sample].append(match)
        return moved

    fine, rough = moved_by(ULP), moved_by(ROUGH)
    steadiness = [
        tuple(round(min(m.agreement for m in moved[i]), 6) for moved in (fine, rough))
        for i in range(len(samples))
    ]
    best = max(steadiness)
    pool = [i for i, found in enumerate(steadiness) if found == best]
    if len(pool) < count:
        pool = sorted(
            sorted(range(len(samples)), key=lambda i: steadiness[i], reverse=True)[:count]
        )
    chosen = [pool[i * len(pool) // min(count, len(pool))] for i in range(min(count, len(pool)))]
    return Steady(
        tuple(samples[i] for i in chosen),
        tuple(recorded[i] for i in chosen),
        _tolerance([match for i in chosen for match in fine[i]]),
    )


def _tolerance(matches: Sequence[OutputMatch]) -> Tolerance:
    absolute = MARGIN * max(match.max_abs for match in matches)
    cosine = 1.0 - MARGIN * (1.0 - min(match.cosine for match in matches))
    agreement = 1.0 - MARGIN * (1.0 - min(match.agreement for match in matches))
    return Tolerance(
        exact=False,
        absolute=min(1.0, max(FLOAT_ABSOLUTE, _up(absolute))),
        cosine_min=round(max(LEAST_COSINE, 1.0 - max(FLOAT_COSINE, _up(1.0 - cosine))), 9),
        agreement_min=round(max(LEAST_AGREEMENT, 1.0 - _up(1.0 - agreement)), 9),
    )


def _up(value: float) -> float:
    """Round up to one significant digit: ``0.0312`` to ``0.04``."""
    if value <= 1e-9:  # noqa: PLR2004 - a rounding step of float64 arithmetic
        return 0.0
    digit = 10.0 ** math.floor(math.log10(value))
    return round(math.ceil(value / digit - 1e-9) * digit, 9)


def nudged(graph: Graph, places: Mapping[str, Place], seed: int, amount: float = ULP) -> Graph:
    """Return a twin whose float32 constants are a little up or down.

    Weights and biases of nodes that run in float32 are moved, and the scale of a QuantizeLinear
    that rounds a float32 result; what runs on integers stays as it is.

    Args:
        graph: The shipped graph.
        places: How each named node runs.
        seed: Of the directions.
        amount: Share of each value; 0 for one unit in the last place.
    """
    import numpy as np
    import onnx

    proto = restore_weights(graph).copy()
    random = np.random.default_rng(seed)
    constants = {
        i.name: i for i in proto.graph.initializer if i.data_type == onnx.TensorProto.FLOAT
    }
    own: dict[str, onnx.TensorProto] = {}
    for index, node in enumerate(proto.graph.node):
        if places.get(node.name, Place.FLOAT) is not Place.FLOAT:
            continue
        quantizes = node.op_type == "QuantizeLinear"
        if not quantizes and node.op_type not in _ARITHMETIC:
            continue
        for position, name in enumerate(node.input):
            if name in constants and (position == 1 or not quantizes):
                # A name of its own: the same constant may serve integer nodes, too.
                own_name = f"{name}__ulp{index}"
                moved = _moved(onnx.numpy_helper.to_array(constants[name]), random, amount)
                own[own_name] = onnx.numpy_helper.from_array(moved, own_name)
                node.input[position] = own_name
    proto.graph.initializer.extend(own.values())
    return Graph.of(proto)


def _moved(
    values: np.ndarray[Any, Any], random: np.random.Generator, amount: float
) -> np.ndarray[Any, Any]:
    import numpy as np

    up = random.random(values.shape) >= 0.5  # noqa: PLR2004
    if amount:
        return np.asarray(values * np.where(up, 1 + amount, 1 - amount), dtype=np.float32)
    stepped = np.nextafter(values, np.where(up, np.inf, -np.inf).astype(np.float32))
    return np.asarray(np.where(values == 0, values, stepped), dtype=np.float32)
