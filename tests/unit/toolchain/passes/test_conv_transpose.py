"""ConvTranspose that never overlaps becomes Conv and DepthToSpace; any other stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.runtime.session import open_session, runner
from edgekit.toolchain.graph import Graph
from edgekit.toolchain.passes import CanonicalOptions, conv_transpose


def model(*, stride: int = 2, kernel: int = 2, relu: bool = False, bias: bool = True, **more: Any):
    random = np.random.default_rng(1)
    constants = {"w": random.normal(size=(3, 5, kernel, kernel))}
    if bias:
        constants["b"] = random.normal(size=5)
    nodes = [
        helper.make_node(
            "ConvTranspose", ["x", *constants], ["t"], "up", strides=[stride] * 2, **more
        )
    ]
    if relu:
        nodes.append(helper.make_node("Relu", ["t"], ["y"], "relu"))
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 4, 6])],
        [helper.make_tensor_value_info("y" if relu else "t", TensorProto.FLOAT, [None] * 4)],
        [numpy_helper.from_array(np.asarray(v, np.float32), n) for n, v in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def answers(proto: onnx.ModelProto) -> dict[str, Any]:
    x = np.random.default_rng(2).normal(size=(2, 3, 4, 6)).astype(np.float32)
    return runner(open_session(Graph.of(proto).to_bytes()))({"x": x})


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_what_never_overlaps_is_a_conv_whose_channels_are_spread(size, relu, bias):
    proto = model(stride=size, kernel=size, relu=relu, bias=bias)
    before = answers(proto)
    assert conv_transpose.apply(proto, CanonicalOptions()) is not None
    ops = [node.op_type for node in proto.graph.node]
    assert ops == ["Conv", *(["Relu"] if relu else []), "DepthToSpace"]
    onnx.checker.check_model(proto)
    for name, value in answers(proto).items():
        np.testing.assert_allclose(value, before[name], atol=1e-5)


@pytest.mark.parametrize(
    "more",
    [
        {"kernel": 3},
        {"stride": 1, "kernel": 1},
        {"pads": [1, 1, 0, 0]},
        {"output_padding": [1, 1]},
        {"dilations": [2, 2]},
    ],
)
def test_what_overlaps_or_is_padded_stays(more):
    proto = model(**more)
    before = proto.SerializeToString()
    assert conv_transpose.apply(proto, CanonicalOptions()) is None
    assert proto.SerializeToString() == before
