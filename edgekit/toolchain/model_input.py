"""What a user's own model and samples are held against before any work is done on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.runtime.tasks import Task
from edgekit.runtime.tasks.tensors import Tensors
from edgekit.toolchain.quantize.layers import LAYER_OPS
from edgekit.toolchain.readers import Sample
from edgekit.toolchain.recipe import TensorSpec
from edgekit.wire.errors import BuildError, ConfigError, EdgekitError

if TYPE_CHECKING:
    import numpy as np
    import onnx

    Array = np.ndarray[Any, Any]

_FLOATS = (1, 10, 11)  # onnx.TensorProto: FLOAT, FLOAT16, DOUBLE


def check_weights(proto: onnx.ModelProto, where: str) -> None:
    """Refuse a model with NaN constants, or with infinite weights of a layer.

    An infinite constant elsewhere has its uses: masks of attention are made of it.

    Raises:
        BuildError: Names the constant.
    """
    import numpy as np
    import onnx

    in_layers = {
        name for node in proto.graph.node if node.op_type in LAYER_OPS for name in node.input[1:]
    }
    for name, tensor in _constants(proto):
        if tensor.data_type not in _FLOATS:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        broken = "NaN" if np.isnan(values).any() else ""
        if not broken and name in in_layers and np.isinf(values).any():
            broken = "infinite"
        if broken:
            raise BuildError(
                f'the constant "{name}" has {broken} values',
                hint="the training or the export went wrong: check the original model's weights",
                where=where,
            )


def _constants(proto: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    for tensor in proto.graph.initializer:
        yield tensor.name, tensor
    for node in proto.graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value":
                yield node.output[0], attribute.t


def check_samples(task: Task, inputs: Sequence[TensorSpec], samples: Sequence[Sample]) -> None:
    """Refuse samples whose arrays the model does not take.

    Only where samples are the model's own arrays: other tasks make what they feed.

    Args:
        task: The recipe's.
        inputs: The model's inputs.
        samples: One set.

    Raises:
        ConfigError: Names the sample and the input.
    """
    if not isinstance(task, Tensors):
        return
    for sample in samples:
        fed: list[Mapping[str, Array]] = []

        def keep(
            feeds: Mapping[str, Array], fed: list[Mapping[str, Array]] = fed
        ) -> dict[str, Any]:
            fed.append(feeds)
            return {}

        try:
            task.predict(keep, sample.data)
        except EdgekitError as error:
            raise type(error)(error.message, hint=error.hint, where=sample.name) from error
        for spec in inputs:
            if spec.name in fed[0]:
                _check_array(spec, fed[0][spec.name], sample.name)


def _check_array(spec: TensorSpec, array: Array, where: str) -> None:
    found = f"{array.dtype}{list(array.shape)}"
    takes = f"{spec.dtype}[{', '.join(str(d) for d in spec.shape)}]"
    message = f'input "{spec.name}" is {found} in the sample, the model takes {takes}'
    if spec.dtype != "unknown" and str(array.dtype) != spec.dtype:
        raise ConfigError(message, hint=f'save it with .astype("{spec.dtype}")', where=where)
    # An input without any dimension may also be one of which the file does not say the shape.
    fits = not spec.shape or (
        len(spec.shape) == array.ndim
        and all(isinstance(d, str) or d == n for d, n in zip(spec.shape, array.shape, strict=True))
    )
    if not fits:
        hint = "samples must have the model's sizes; or export it with dynamic dimensions"
        if len(spec.shape) == array.ndim + 1:
            hint = "a dimension is missing; array[None] adds the batch"
        raise ConfigError(message, hint=hint, where=where)
    if array.size == 0:
        raise ConfigError(f'input "{spec.name}" is empty in the sample', where=where)
