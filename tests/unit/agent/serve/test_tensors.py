from __future__ import annotations

import contextlib
import json
import re
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.agent.jobs import BadRequestError, ModelInfo
from edgekit.agent.serve.tensors import Asked, answer, metadata, parse
from edgekit.wire.errors import ConfigError
from edgekit.wire.manifest import Tensor

INFO = ModelInfo(
    "m",
    "7",
    "M",
    "tensors",
    inputs=(
        Tensor("x", "float32", ("n", 2)),
        Tensor("ids", "int64", ("n",)),
        Tensor("on", "bool", (1,)),
    ),
    outputs=(Tensor("y", "float32", ("n", 2)), Tensor("z", "uint8", ("n",))),
)


def entry(name: str, datatype: str, shape: list[int], **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, **more}


def good() -> dict[str, Any]:
    return {
        "inputs": [
            entry("x", "FP32", [2, 2], data=[1, 2.5, 3, 4]),
            entry("ids", "INT64", [2], data=[5, -6]),
            entry("on", "BOOL", [1], data=[True]),
        ]
    }


def read(document: Any, header: bytes | None = None) -> tuple[dict[str, Any], Asked]:
    return parse(json.dumps(document).encode(), header, INFO)


def refused(document: Any) -> BadRequestError:
    with pytest.raises(BadRequestError) as caught:
        read(document)
    assert caught.value.hint
    return caught.value


def test_tensors_of_json() -> None:
    feeds, asked = read(good() | {"id": "42"})
    assert feeds["x"].dtype == np.float32
    assert feeds["x"].tolist() == [[1, 2.5], [3, 4]]
    assert (feeds["ids"].dtype, feeds["ids"].tolist()) == (np.int64, [5, -6])
    assert (feeds["on"].dtype, feeds["on"].tolist()) == (np.bool_, [True])
    assert (asked.id, asked.outputs, asked.binary) == ("42", {}, False)


def test_nested_lists_are_the_same() -> None:
    document = good()
    document["inputs"][0]["data"] = [[1, 2.5], [3, 4]]
    assert read(document)[0]["x"].tolist() == [[1, 2.5], [3, 4]]


def binary(pad: str = "") -> tuple[bytes, bytes]:
    document = good()
    x, ids = struct.pack("<4f", 1, 2.5, 3, 4), struct.pack("<2q", 5, -6)
    for part, blob in zip(document["inputs"], (x, ids, b"\x02"), strict=True):
        del part["data"]
        part["parameters"] = {"binary_data_size": len(blob)}
    head = json.dumps(document).encode() + pad.encode()
    return head + x + ids + b"\x02", str(len(head)).encode()


@pytest.mark.parametrize("pad", ["", " ", "  ", "   "])
def test_binary_tensors_lie_in_the_body(pad: str) -> None:
    body, length = binary(pad)
    feeds, _ = parse(body, length, INFO)
    assert feeds["x"].tolist() == [[1, 2.5], [3, 4]]
    assert feeds["ids"].tolist() == [5, -6]
    # Any byte but 0 is true: operators rely on 0 and 1.
    assert feeds["on"].view(np.uint8).tolist() == [1]
    assert all(value.flags.aligned for value in feeds.values())


def test_an_aligned_binary_tensor_is_not_copied() -> None:
    # The body's own bytes object begins 32 bytes in: shift the tensors until they are aligned.
    for pad in range(8):
        body, length = binary(" " * pad)
        feeds, _ = parse(body, length, INFO)
        begin = np.frombuffer(body, np.uint8).ctypes.data
        inside = begin <= feeds["x"].ctypes.data < begin + len(body)
        if (begin + int(length)) % 4 == 0:
            assert inside
            return
    pytest.fail("no padding gave an aligned tensor")


@pytest.mark.parametrize("header", [b"-1", b"x", b"99999", b"1" * 30, b"", b"\xb2"])
def test_a_wrong_header_length_is_refused(header: bytes) -> None:
    with pytest.raises(BadRequestError):
        parse(json.dumps(good()).encode(), header, INFO)


def test_bytes_behind_the_last_tensor_are_refused() -> None:
    body, length = binary()
    with pytest.raises(BadRequestError, match="3 bytes stand behind"):
        parse(body + b"xyz", length, INFO)
    with pytest.raises(BadRequestError, match='input "on"'):
        parse(body[:-1], length, INFO)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"datatype": "FP64"}, "datatype is FP64"),
        ({"datatype": None}, "datatype is None"),
        ({"shape": [4]}, r"shape is \[4\]"),
        ({"shape": [2, 3]}, r"shape is \[2, 3\]"),
        ({"shape": [0, 2]}, r"shape is \[0, 2\]"),
        ({"shape": [-2, -2]}, r"shape is"),
        ({"shape": [True, 2]}, "whole numbers"),
        ({"shape": [2.0, 2]}, "whole numbers"),
        ({"shape": [2**40, 2]}, "shape is"),
        ({"shape": "22"}, "whole numbers"),
        ({"data": [1, 2, 3]}, "3 values for shape"),
        ({"data": [1, 2, 3, "4"]}, "other values"),
        ({"data": [1, 2, 3, None]}, "other values"),
        ({"data": [1, 2, 3, True]}, "other values"),
        ({"data": [[1, 2], 3, 4]}, "nested in another way"),
        ({"data": [[[1, 2]], [[3, 4]]]}, "nested in another way"),
        ({"data": [1, 2, 3, 1e39]}, "range"),
        ({"data": [1, 2, 3, 10**400]}, "range"),
        ({"data": {}}, "must be a list"),
        ({"parameters": {"binary_data_size": 16}}, "binary_data_size"),
    ],
)
def test_a_wrong_input_is_refused_by_name(change: dict[str, Any], words: str) -> None:
    document = good()
    document["inputs"][0] |= change
    error = refused(document)
    assert re.search(words, error.message)
    if "binary" not in words:
        assert error.message.startswith('input "x"')
        assert error.hint == "expected FP32 [-1, 2]"


@pytest.mark.parametrize(("name", "value"), [("ids", [1.5, 2]), ("ids", [2**63, 1]), ("on", [1])])
def test_values_are_those_of_the_type(name: str, value: list[Any]) -> None:
    document = good()
    next(e for e in document["inputs"] if e["name"] == name)["data"] = value
    assert name in refused(document).message


def test_a_free_dimension_has_one_size_in_a_request() -> None:
    document = good()
    document["inputs"][1] |= {"shape": [3], "data": [1, 2, 3]}
    assert 'input "ids"' in refused(document).message


@pytest.mark.parametrize(
    "inputs", [None, [], {}, [1], ["x"], [entry("x", "FP32", [1, 2], data=[1, 2])] * 3]
)
def test_the_inputs_are_exactly_the_models(inputs: Any) -> None:
    assert "x: FP32 [-1, 2]" in str(refused({"inputs": inputs}).hint)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"NaN", b"\xff\xfe", b"[" * 100_000, b'{"a":Infinity}']
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequestError):
        parse(body, None, INFO)


@pytest.mark.parametrize(
    "more",
    [
        {"id": 1},
        {"outputs": [{"name": "q"}]},
        {"outputs": [{"name": "y"}, {"name": "y"}]},
        {"outputs": {"name": "y"}},
        {"outputs": [{"name": ["y"]}]},
        {"parameters": {"binary_data_output": 1}},
    ],
)
def test_wishes_that_make_no_sense_are_refused(more: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError):
        read(good() | more)


OUTPUTS = {"y": np.array([[1.5, 2], [3, 4]], np.float32), "z": np.array([7, 8], np.uint8)}


def test_the_answer_as_json() -> None:
    response = answer(OUTPUTS, Asked("q", {}, False), INFO)
    assert json.loads(response.body) == {
        "model_name": "m",
        "model_version": "7",
        "id": "q",
        "outputs": [
            entry("y", "FP32", [2, 2], data=[1.5, 2, 3, 4]),
            entry("z", "UINT8", [2], data=[7, 8]),
        ],
    }


def test_the_answer_in_binary_for_one_output() -> None:
    response = answer(OUTPUTS, Asked(None, {"z": False, "y": True}, False), INFO)
    length = int(dict(response.headers)[b"inference-header-content-length"])
    document = json.loads(response.body[:length])
    assert [e["name"] for e in document["outputs"]] == ["z", "y"]
    assert document["outputs"][1]["parameters"] == {"binary_data_size": 16}
    assert response.body[length:] == OUTPUTS["y"].tobytes()


def test_infinity_goes_in_binary_alone() -> None:
    outputs = {"y": np.array([np.inf], np.float32)}
    with pytest.raises(ConfigError, match="not finite"):
        answer(outputs, Asked(None, {}, False), INFO)
    assert answer(outputs, Asked(None, {}, True), INFO).body.endswith(outputs["y"].tobytes())


def test_metadata_writes_free_dimensions_as_minus_one() -> None:
    assert metadata(INFO)["inputs"][0] == {"name": "x", "datatype": "FP32", "shape": [-1, 2]}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["inputs", "name", "shape", "datatype", "data", "parameters", "outputs", "id", "x"]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)


@given(JSON, st.none() | st.binary(max_size=6))
@settings(max_examples=300, deadline=None)
def test_any_json_is_read_or_refused(document: Any, header: bytes | None) -> None:
    with contextlib.suppress(BadRequestError):
        read(document, header)


@given(
    st.sampled_from(["x", "ids", "on"]),
    st.sampled_from(["name", "datatype", "shape", "data", "parameters"]),
    JSON,
)
@settings(max_examples=300, deadline=None)
def test_any_value_in_any_field_is_read_or_refused(name: str, field: str, value: Any) -> None:
    document = good()
    next(e for e in document["inputs"] if e["name"] == name)[field] = value
    try:
        feeds, _ = read(document)
    except BadRequestError:
        return
    assert {k: v.dtype.name for k, v in feeds.items()} == {
        "x": "float32",
        "ids": "int64",
        "on": "bool",
    }
