"""Write a ConvTranspose that never overlaps as what it is: a 1×1 Conv, its channels spread out.

Where the stride equals the kernel, every input pixel makes a block of output pixels of its own:
``y[co, s·h + i, s·w + j] = Σ x[ci, h, w] · W[ci, co, i, j]``. Runtimes have fast kernels for 1×1
convolutions, in int8 too, and few for transposed ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.toolchain.passes import _edit

if TYPE_CHECKING:
    import onnx

    from edgekit.toolchain.passes import CanonicalOptions

_WEIGHT_RANK = 4


def apply(proto: onnx.ModelProto, options: CanonicalOptions) -> str | None:  # noqa: ARG001
    """Rewrite every ConvTranspose of square stride = kernel, one group, no padding."""
    graph = proto.graph
    constants, uses = _edit.initializers(graph), _edit.uses(graph)
    readers, taken = _edit.consumers(graph), _edit.all_names(graph)
    nodes: list[onnx.NodeProto] = []
    moved: set[str] = set()
    count = 0
    for node in graph.node:
        if node.output[0] in moved:
            continue
        if not _spreads(node, constants):
            nodes.append(node)
            continue
        count += 1
        end = node.output[0]
        follower = next(iter(readers.get(end, [])), None)
        # A Relu goes in front of the spreading: the Conv computes it on the way.
        relu = follower is not None and follower.op_type == "Relu" and uses[end] == 1
        if follower is not None and relu:
            end = follower.output[0]
            moved.add(end)
        nodes += _spread(graph, node, end, constants, taken, relu=relu)
    if not count:
        return None
    _edit.set_nodes(graph, nodes)
    return f"{count} ConvTranspose nodes written as Conv and DepthToSpace"


def _spreads(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    if node.op_type != "ConvTranspose" or not _edit.is_standard(node):
        return False
    if any(name and name not in constants for name in node.input[1:]):
        return False
    weight = constants[node.input[1]]
    if len(weight.dims) != _WEIGHT_RANK or weight.data_type not in _edit.FLOAT_TYPES:
        return False
    kernel = list(weight.dims[2:])
    strides = list(_edit.attribute(node, "strides", [1, 1]))
    plain = (
        _edit.attribute(node, "group", 1) == 1
        and not any(_edit.attribute(node, "pads", [0]))
        and not any(_edit.attribute(node, "output_padding", [0]))
        and all(d == 1 for d in _edit.attribute(node, "dilations", [1]))
        and _edit.attribute(node, "auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
        and not _edit.attribute(node, "output_shape", [])
    )
    return plain and kernel == strides and kernel[0] == kernel[1] > 1


def _spread(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    end: str,
    constants: dict[str, onnx.TensorProto],
    taken: set[str],
    *,
    relu: bool,
) -> list[onnx.NodeProto]:
    import numpy as np
    import onnx

    weight = _edit.to_array(constants[node.input[1]])  # [ci, co, s, s]
    inputs, outputs, size, _ = weight.shape
    # DepthToSpace in DCR order takes channel (i·s + j)·co + c to pixel (i, j) of channel c.
    flat = weight.transpose(2, 3, 1, 0).reshape(size * size * outputs, inputs, 1, 1)
    names = [_edit.unique(f"{node.name}/{part}", taken) for part in ("weight", "bias", "blocks")]
    _edit.add_constant(graph, names[0], np.ascontiguousarray(flat))
    conv_inputs = [node.input[0], names[0]]
    if len(node.input) > 2 and node.input[2]:  # noqa: PLR2004 - x, weight, bias
        bias = _edit.to_array(constants[node.input[2]])
        _edit.add_constant(graph, names[1], np.tile(bias, size * size))
        conv_inputs.append(names[1])
    made = [onnx.helper.make_node("Conv", conv_inputs, [names[2]], node.name, kernel_shape=[1, 1])]
    blocks = names[2]
    if relu:
        blocks = _edit.unique(f"{node.name}/relu", taken)
        made.append(onnx.helper.make_node("Relu", [names[2]], [blocks], blocks))
    made.append(
        onnx.helper.make_node(
            "DepthToSpace",
            [blocks],
            [end],
            _edit.unique(f"{node.name}/spread", taken),
            blocksize=size,
            mode="DCR",
        )
    )
    return made
