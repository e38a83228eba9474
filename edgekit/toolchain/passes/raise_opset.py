"""Raise the operator set: per-channel QDQ needs 13, and 17 is where today's runtimes are at home.

onnx's own converter does it. The result counts only when ONNX Runtime loads it and it answers
random feeds as the graph before it did; otherwise the operator set stays, and the note says why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.toolchain.passes import _edit, _probe
from edgekit.wire.errors import BuildError

if TYPE_CHECKING:
    import onnx

    from edgekit.toolchain.passes import CanonicalOptions

# Without this one QuantizeLinear has no axis, so weights have one scale a tensor.
_PER_CHANNEL = 13


def apply(proto: onnx.ModelProto, options: CanonicalOptions) -> str | None:
    """Convert to ``options.opset``, or else to 13, or else leave it."""
    current = _edit.opset_of(proto)
    highest = options.opset if options.opset_max is None else min(options.opset, options.opset_max)
    failures: list[str] = []
    for wanted in dict.fromkeys((highest, min(highest, _PER_CHANNEL))):
        if not 0 < current < wanted:
            continue
        converted, reason = _convert(proto, wanted)
        if converted is not None:
            proto.CopyFrom(converted)
            return "; ".join([f"opset {current} raised to {wanted}", *failures])
        failures.append(f"opset {wanted} not reached: {reason}")
    return "; ".join([*failures, f"opset stays {current}"]) if failures else None


def _convert(proto: onnx.ModelProto, wanted: int) -> tuple[onnx.ModelProto | None, str]:
    import onnx

    try:
        # With ranks known, the converter leaves a Softmax over the last axis as it is.
        converted = onnx.version_converter.convert_version(_edit.with_shapes(proto), wanted)
        del converted.graph.value_info[:]
        converted.ir_version = max(
            converted.ir_version,
            onnx.helper.find_min_ir_version_for(converted.opset_import, ignore_unknown=True),
        )
        if [o.name for o in converted.graph.output] != [o.name for o in proto.graph.output]:
            return None, "the converter renames outputs"
        alike = _probe.same_answers(proto, converted)
    except BuildError as error:
        return None, error.message[:200]
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        return None, next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
    if alike is None:
        return None, "no feeds were found to compare the outputs on"
    return (converted, "") if alike else (None, "the outputs change")
