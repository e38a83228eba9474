"""From float32 values to 8-bit integers and back: scales, zero points, weights, biases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.toolchain.target import Quantization

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

LEAST_SCALE = 1e-12  # a tensor that is always zero
# A bias beyond this many steps of an int32 accumulator leaves no room for the sum it is added to.
_BIAS_STEPS = float(2**30)


def affine(low: float, high: float, activation: str) -> tuple[float, int]:
    """Return the steps of an activation.

    Args:
        low: Smallest value, ≤ 0.
        high: Largest value, ≥ 0.
        activation: ``uint8`` or ``int8``.

    Returns:
        What a step is worth, > 0, and the step that stands for 0.
    """
    import numpy as np

    scale = float(np.float32(max((high - low) / 255, LEAST_SCALE)))
    first = 0 if activation == "uint8" else -128
    return scale, int(np.clip(round(first - low / scale), first, first + 255))


def weight_scale(weight: Array, axis: int | None, largest_step: int) -> Array:
    """Return symmetric scales of a weight.

    Args:
        weight: float32, any shape.
        axis: The output channels', or None for one scale.
        largest_step: 127, or 63 where a CPU would saturate.

    Returns:
        float32[channels], or float32[] without an axis; > 0.
    """
    import numpy as np

    others = None if axis is None else tuple(a for a in range(weight.ndim) if a != axis)
    peak = np.abs(weight).max(axis=others, initial=0.0)
    scale = np.maximum(peak / largest_step, LEAST_SCALE)
    # A channel of zeros has no scale of its own; its bias is rounded in steps of it.
    finest = scale[peak > 0].min(initial=1.0) if np.any(peak > 0) else 1.0
    return np.asarray(np.where(peak > 0, scale, np.float32(finest)), dtype=np.float32)


def fit_bias(scale: Array, bias: Array | None, input_scale: float) -> Array:
    """Widen weight scales whose bias would not fit an int32 accumulator.

    A bias is kept in steps of input scale × weight scale: tiny weights beside a large bias would
    need more than 2³⁰ of them.

    Args:
        scale: float32, as :func:`weight_scale` gives it.
        bias: float32[channels], or None.
        input_scale: The activation's.
    """
    import numpy as np

    if bias is None:
        return scale
    peak = np.abs(bias).max(initial=0.0) if scale.ndim == 0 else np.abs(bias)
    least = peak / (input_scale * _BIAS_STEPS)
    return np.asarray(np.maximum(scale, least), dtype=np.float32)


def round_weight(weight: Array, scale: Array, axis: int | None, largest_step: int) -> Array:
    """Return a weight in steps of its scales: int8, the shape of the weight."""
    import numpy as np

    steps = np.round(weight / along(scale, weight.ndim, axis))
    return np.clip(steps, -largest_step - (largest_step == 127), largest_step).astype(np.int8)  # noqa: PLR2004


def restore(steps: Array, scale: Array, axis: int | None) -> Array:
    """Return the float32 values that 8-bit steps stand for."""
    import numpy as np

    return np.asarray(steps * along(scale, steps.ndim, axis), dtype=np.float32)


def round_bias(bias: Array, scale: Array) -> Array:
    """Return a bias in steps of input scale × weight scale: int32[channels]."""
    import numpy as np

    steps = np.round(bias.astype(np.float64) / scale.astype(np.float64))
    return np.clip(steps, -(2**31), 2**31 - 1).astype(np.int32)


def channel_axis(op: str, rank: int, scheme: Quantization) -> int | None:
    """Return the axis of a weight that has a scale an output channel, or None for one scale."""
    if not scheme.per_channel:
        return None
    if op == "Conv":
        return 0
    # Rows of a matrix product share their columns' scales; a stack of matrices does not.
    return 1 if rank == 2 else None  # noqa: PLR2004


def largest_step(scheme: Quantization) -> int:
    """Return the largest weight step: 7 bits where a CPU adds products in 16 bits."""
    return 63 if scheme.reduce_range else 127


def along(scale: Array, rank: int, axis: int | None) -> Array:
    """Return scales in a shape that broadcasts to a weight of that rank."""
    import numpy as np

    if axis is None or scale.ndim == 0:
        return scale
    return np.reshape(scale, [-1 if a == axis else 1 for a in range(rank)])
