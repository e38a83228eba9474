"""Random feeds for a graph, and whether two graphs answer them alike. No pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgekit.runtime.session import Run, import_onnxruntime, open_session
from edgekit.toolchain.graph import serialize
from edgekit.wire.errors import BuildError

if TYPE_CHECKING:
    import onnx

Feeds = dict[str, Any]

RELATIVE_L2_MAX = 1e-4
# What dimensions of unknown size are tried at, the first one and the others: small ones, then a
# picture's, then batches that an export calls dynamic and has built in all the same.
_PICTURES = ((1, 32), (1, 64), (1, 320), (1, 512))
_BATCHES = ((2, 1), (3, 1), (4, 1), (5, 1), (8, 1), (16, 1))
_SIZES = ((1, 1), (1, 2), (2, 2), (1, 8), (8, 8), *_PICTURES, *_BATCHES)
_MAX_ELEMENTS = 1 << 22


def same_answers(before: onnx.ModelProto, after: onnx.ModelProto) -> bool | None:
    """Run both on the same random feeds.

    Returns:
        True when every output agrees to a relative L2 of 1e-4, False when one does not (or only the
        first graph runs), None when no feeds were found that the first graph takes.

    Raises:
        BuildError: ONNX Runtime cannot load one of them.
    """
    first, second = _silent(before), _silent(after)
    for first_size, size in _SIZES:
        feeds = random_feeds(before, first_size=first_size, size=size)
        if feeds is None:
            continue
        try:
            expected = first(feeds)
        except BuildError:
            continue
        try:
            found = second(feeds)
        except BuildError:
            return False
        return all(_alike(expected[name], found[name]) for name in expected)
    return None


def _silent(proto: onnx.ModelProto) -> Run:
    """Return a runner that says nothing of sizes that the model does not take: they are guesses."""
    session = open_session(serialize(proto), level="ORT_DISABLE_ALL")
    options = import_onnxruntime().RunOptions()
    options.log_severity_level = 4
    names = [output.name for output in session.get_outputs()]

    def run(feeds: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return dict(zip(names, session.run(names, dict(feeds), options), strict=True))
        except Exception as error:  # onnxruntime raises many kinds
            raise BuildError("the model does not take feeds of that size") from error

    return run


def random_feeds(
    proto: onnx.ModelProto, *, size: int, first_size: int = 1, seed: int = 0
) -> Feeds | None:
    """Make feeds: floats from a normal distribution, integers of 0 and 1.

    Args:
        proto: The model.
        size: What every dynamic dimension but the first becomes.
        first_size: What the first becomes: mostly the batch.
        seed: Of the generator.

    Returns:
        Arrays by input name, or None where an input is no tensor or would be huge.
    """
    import numpy as np
    import onnx

    generator = np.random.default_rng(seed)
    constants = {i.name for i in proto.graph.initializer}
    feeds: Feeds = {}
    for value in proto.graph.input:
        if value.name in constants:
            continue
        if not value.type.HasField("tensor_type"):
            return None
        kind = value.type.tensor_type
        dims = [
            d.dim_value if d.dim_value > 0 else (first_size if index == 0 else size)
            for index, d in enumerate(kind.shape.dim)
        ]
        if np.prod(dims, dtype=np.float64) > _MAX_ELEMENTS:
            return None
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if dtype.kind in "iub":
            feeds[value.name] = generator.integers(0, 2, size=dims).astype(dtype)
        elif dtype.kind == "O":
            return None
        else:
            feeds[value.name] = np.asarray(generator.standard_normal(dims)).astype(dtype)
    return feeds


def _alike(expected: Any, found: Any) -> bool:  # noqa: ANN401 - arrays, or lists of them
    import numpy as np

    if not isinstance(expected, np.ndarray) or not isinstance(found, np.ndarray):
        return bool(np.array_equal(np.asarray(expected), np.asarray(found)))
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return False
    if expected.dtype.kind not in "fV":
        return bool(np.array_equal(expected, found))
    a, b = expected.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return False
    difference = float(np.linalg.norm(a[finite] - b[finite]))
    return difference <= RELATIVE_L2_MAX * max(float(np.linalg.norm(a[finite])), 1e-6)
