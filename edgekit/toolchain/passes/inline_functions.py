"""Inline model-local functions: quantizers look at the main graph only."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

    from edgekit.toolchain.passes import CanonicalOptions


def apply(proto: onnx.ModelProto, options: CanonicalOptions) -> str | None:  # noqa: ARG001
    """Replace calls of the model's own functions by their bodies."""
    import onnx.inliner

    if not proto.functions:
        return None
    count = len(proto.functions)
    proto.CopyFrom(onnx.inliner.inline_local_functions(proto))
    return f"{count} functions inlined"
