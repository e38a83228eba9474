"""Turn inputs that never change into constants: Silero's sample rate chooses a whole branch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.toolchain.passes import _edit
from edgekit.wire.errors import BuildError, did_you_mean

if TYPE_CHECKING:
    import onnx

    from edgekit.toolchain.passes import CanonicalOptions


def apply(proto: onnx.ModelProto, options: CanonicalOptions) -> str | None:
    """Replace the inputs in ``options.fixed`` by initializers of the same name.

    Raises:
        BuildError: No such input, or a value that is not of its type and shape.
    """
    if not options.fixed:
        return None
    graph = proto.graph
    inputs = {i.name: i for i in graph.input}
    for name, value in options.fixed.items():
        if name not in inputs:
            close = did_you_mean(name, inputs)
            raise BuildError(
                f'the model has no input "{name}" to fix',
                hint=f"did you mean {close}?" if close else f"inputs: {', '.join(inputs)}",
            )
        values = _as_tensor(inputs[name], value)
        for old in [i for i in graph.initializer if i.name == name]:
            graph.initializer.remove(old)
        graph.input.remove(inputs[name])
        _edit.add_constant(graph, name, values)
    return ", ".join(f"{name} = {value}" for name, value in options.fixed.items())


def _as_tensor(info: onnx.ValueInfoProto, value: Any) -> Any:  # noqa: ANN401 - any JSON value
    import numpy as np
    import onnx

    kind = info.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
    try:
        given = np.asarray(value)
        values = given.astype(dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise BuildError(f'input "{info.name}" cannot be {value!r}: it holds {dtype}') from error
    if given.dtype.kind in "iufb" and not np.array_equal(values, given):
        same = np.allclose(values.astype(np.float64), given) if dtype.kind == "f" else False
        if not same:
            raise BuildError(f'input "{info.name}" cannot be {value!r}: it holds {dtype}')
    dims = [d.dim_value if d.HasField("dim_value") else 0 for d in kind.shape.dim]
    if values.ndim == 0 and dims:  # a scalar stands for a tensor of one element
        values = values.reshape([1] * len(dims))
    fits = values.ndim == len(dims) and all(
        d in (0, n) or d < 0 for d, n in zip(dims, values.shape, strict=True)
    )
    if kind.HasField("shape") and not fits:
        raise BuildError(f'input "{info.name}" has shape {dims}, not {list(values.shape)}')
    return values
