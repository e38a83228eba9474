"""Write the recipe's shapes into the graph, and take misleading ones out.

Exporters write ``-1``, ``0`` or ``?`` where they know nothing; two dimensions named ``?`` would be
one and the same to ONNX, so such names go.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgekit.toolchain.passes import _edit
from edgekit.wire.errors import BuildError, did_you_mean

if TYPE_CHECKING:
    import onnx

    from edgekit.toolchain.passes import CanonicalOptions

_NAME = re.compile(r"[A-Za-z_][\w.:/*+ -]*")


def apply(proto: onnx.ModelProto, options: CanonicalOptions) -> str | None:
    """Set the inputs' shapes from ``options.shapes`` and infer the outputs' from them.

    Raises:
        BuildError: No such input, another rank, or another fixed dimension than the model's.
    """
    before = [v.SerializeToString(deterministic=True) for v in _interface(proto)]
    for value in _interface(proto):
        _forget_nonsense(value)
    inputs = {i.name: i for i in proto.graph.input}
    changed = [
        name
        for name, shape in options.shapes.items()
        if name not in options.fixed and _set_shape(inputs, name, shape)
    ]
    if changed:
        # What was inferred from the old shapes is stale, and inference would trust it.
        known = [v for v in proto.graph.value_info if _is_foreign(proto, v.name)]
        del proto.graph.value_info[:]
        proto.graph.value_info.extend(known)
    _refine_outputs(proto)
    if before == [v.SerializeToString(deterministic=True) for v in _interface(proto)]:
        return None
    return (
        ", ".join(f"{n} {_show(inputs[n])}" for n in changed) or "meaningless dimensions forgotten"
    )


def _interface(proto: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    return [*proto.graph.input, *proto.graph.output]


def _is_foreign(proto: onnx.ModelProto, name: str) -> bool:
    return any(name in n.output and not _edit.is_standard(n) for n in proto.graph.node)


def _forget_nonsense(value: onnx.ValueInfoProto) -> None:
    if not value.type.HasField("tensor_type"):
        return
    for dim in value.type.tensor_type.shape.dim:
        if (dim.HasField("dim_value") and dim.dim_value <= 0) or (
            dim.HasField("dim_param") and not _NAME.fullmatch(dim.dim_param)
        ):
            dim.ClearField("value")


def _set_shape(inputs: dict[str, Any], name: str, shape: Sequence[int | str]) -> bool:
    if name not in inputs:
        close = did_you_mean(name, inputs)
        raise BuildError(
            f'the model has no input "{name}"',
            hint=f"did you mean {close}?" if close else f"inputs: {', '.join(inputs)}",
        )
    kind = inputs[name].type.tensor_type
    if not kind.HasField("shape"):
        for _ in shape:
            kind.shape.dim.add()
    if len(kind.shape.dim) != len(shape):
        raise BuildError(
            f'input "{name}" has {len(kind.shape.dim)} dimensions, the recipe gives {len(shape)}',
            hint=f"the model says {_show(inputs[name])}",
        )
    changed = False
    for dim, wanted in zip(kind.shape.dim, shape, strict=True):
        if isinstance(wanted, str):
            continue
        if wanted <= 0:
            raise BuildError(f'input "{name}": a dimension is at least 1, not {wanted}')
        if dim.HasField("dim_value") and dim.dim_value != wanted:
            raise BuildError(
                f'input "{name}" has shape {_show(inputs[name])}, the recipe gives {list(shape)}',
                hint="a dimension that the export fixed can only be changed by exporting again",
            )
        changed |= not dim.HasField("dim_value")
        dim.dim_value = wanted
    return changed


def _refine_outputs(proto: onnx.ModelProto) -> None:
    """Replace an output's names and blanks by what inference finds."""
    import onnx

    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    for output in bare.graph.output:  # a stated name would win over an inferred number
        if output.type.HasField("tensor_type"):
            output.type.tensor_type.ClearField("shape")
    types = _edit.infer(bare)
    for output in proto.graph.output:
        shape = types.shapes.get(output.name)
        dims = output.type.tensor_type.shape.dim
        if shape is None or not output.type.HasField("tensor_type"):
            continue
        if not output.type.tensor_type.HasField("shape"):
            for _ in shape:
                dims.add()
        if len(dims) != len(shape):
            continue
        for dim, found in zip(dims, shape, strict=True):
            if isinstance(found, int):
                dim.dim_value = found


def _show(value: onnx.ValueInfoProto) -> list[int | str]:
    return [
        d.dim_value if d.HasField("dim_value") else d.dim_param or "?"
        for d in value.type.tensor_type.shape.dim
    ]
