"""Tensors of the Open Inference Protocol v2, as JSON and in its binary extension.

https://github.com/kserve/open-inference-protocol (inference_rest.md, binary tensor extension as in
NVIDIA Triton's extension_binary_data.md). Every field comes from strangers: what does not fit the
model's own inputs is refused by name, with what was expected.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from edgekit.agent.jobs import BadRequestError, ModelInfo, Served, Work
from edgekit.agent.serve.messages import BINARY, LENGTH_HEADER, Response, json_response
from edgekit.runtime.session import Run
from edgekit.wire.errors import BuildError, ConfigError
from edgekit.wire.manifest import Tensor

Array = npt.NDArray[Any]

DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}
# More would let 8 MiB of "[1,1,…" become a tensor of any shape; a model's own is far below.
_MAX_DIM = 1 << 31
# What JSON may hold, by numpy's kind of dtype; whole numbers alone for the others.
_ALLOWED: dict[str, set[type]] = {"b": {bool}, "f": {int, float}}


@dataclass(frozen=True)
class Asked:
    """What a request wants back.

    Attributes:
        id: Repeated in the answer; None without one.
        outputs: Names and whether each is wanted in binary; empty means all.
        binary: Outputs that are not named come in binary.
    """

    id: str | None
    outputs: dict[str, bool]
    binary: bool


def inferring(body: bytes, header_length: bytes | None) -> Work:
    """Return the work of one v2 request: read its tensors, run the model, write the answer.

    Args:
        body: Of the request.
        header_length: The header ``Inference-Header-Content-Length``; None without binary tensors.
    """

    def work(served: Served, run: Run) -> Response:
        if not served.info.inputs:
            raise BadRequestError(
                f"{served.info.name} takes no tensors", hint=f"POST /infer/{served.info.name}"
            )
        feeds, asked = parse(body, header_length, served.info)
        try:
            outputs = run(feeds)
        except BuildError as error:
            # Types and shapes are those of the manifest: it is the values or a free dimension.
            raise BadRequestError(error.message, hint=error.hint) from error
        return answer(outputs, asked, served.info)

    return work


def parse(
    body: bytes, header_length: bytes | None, info: ModelInfo
) -> tuple[dict[str, Array], Asked]:
    """Read a v2 request.

    Args:
        body: Of the request.
        header_length: Length of its JSON part, as the header has it; None means all of it.
        info: The model's own inputs and outputs.

    Returns:
        The feeds, by input, and what is wanted back. Binary tensors lie in the body itself.

    Raises:
        BadRequestError: Anything is not what the model takes.
    """
    split = len(body) if header_length is None else _header_length(header_length, len(body))
    document = _load(body[:split] if split < len(body) else body)
    asked = _asked(document, info)
    entries = document.get("inputs")
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise BadRequestError('"inputs" must be a list of objects', hint=_expected(info))
    names = [entry.get("name") for entry in entries]
    wanted = {tensor.name: tensor for tensor in info.inputs}
    if len(names) != len(wanted) or any(n not in wanted for n in names if isinstance(n, str)):
        raise BadRequestError("these are not the model's inputs", hint=_expected(info))
    feeds: dict[str, Array] = {}
    sizes: dict[str, int] = {}
    offset = split
    for entry in entries:
        name = entry.get("name")
        if not isinstance(name, str) or name in feeds:
            raise BadRequestError("every input has a name of its own", hint=_expected(info))
        tensor = wanted[name]
        shape = _shape(entry, tensor, sizes)
        size = _binary_size(entry)
        if size is None:
            feeds[name] = _from_json(entry.get("data"), tensor, shape)
        else:
            feeds[name] = _from_binary(body, offset, size, tensor, shape)
            offset += size
    if offset != len(body):
        raise BadRequestError(
            f"{len(body) - offset} bytes stand behind the last tensor",
            hint="binary_data_size of every input, and Inference-Header-Content-Length, in bytes",
        )
    return feeds, asked


def answer(outputs: Mapping[str, Array], asked: Asked, info: ModelInfo) -> Response:
    """Write the answer to a v2 request.

    Args:
        outputs: Of the model.
        asked: What is wanted of them.
        info: For name and version.

    Raises:
        ConfigError: A value is not finite, which JSON has no form for.
    """
    entries: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    names = asked.outputs or dict.fromkeys(outputs, asked.binary)
    for name, binary in names.items():
        value = outputs[name]
        datatype = DATATYPES.get(value.dtype.name)
        if datatype is None:
            raise ConfigError(f'the output "{name}" is {value.dtype}, which v2 has no form for')
        entry: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(value.shape)}
        if binary:
            blobs.append(value.tobytes())
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = value.ravel().tolist()
        entries.append(entry)
    document: dict[str, Any] = {"model_name": info.name, "model_version": info.version}
    if asked.id is not None:
        document["id"] = asked.id
    document["outputs"] = entries
    try:
        response = json_response(document)
    except ValueError as error:
        raise ConfigError(
            "an output is not finite, which JSON has no form for",
            hint='ask for it in binary: "parameters": {"binary_data": true}',
        ) from error
    if not blobs:
        return response
    length = (LENGTH_HEADER, b"%d" % len(response.body))
    return Response(200, b"".join([response.body, *blobs]), BINARY, (length,))


def metadata(info: ModelInfo) -> dict[str, Any]:
    """Return a model's metadata as v2 has it; -1 is a free dimension."""
    return {
        "name": info.name,
        "versions": [info.version],
        "platform": "onnxruntime_onnx",
        "inputs": [_described(tensor) for tensor in info.inputs],
        "outputs": [_described(tensor) for tensor in info.outputs],
    }


def _described(tensor: Tensor) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "datatype": DATATYPES.get(tensor.dtype, tensor.dtype.upper()),
        "shape": [dim if isinstance(dim, int) else -1 for dim in tensor.shape],
    }


def _expected(info: ModelInfo) -> str:
    parts = (f"{d['name']}: {d['datatype']} {d['shape']}" for d in map(_described, info.inputs))
    return f"inputs of {info.name}: {'; '.join(parts)}"


def _refuse(tensor: Tensor, message: str) -> NoReturn:
    d = _described(tensor)
    raise BadRequestError(
        f'input "{tensor.name}": {message}', hint=f"expected {d['datatype']} {d['shape']}"
    )


def _header_length(header: bytes, most: int) -> int:
    # At most as many digits as any body has; isdigit of bytes is ASCII alone.
    if not header.isdigit() or len(header) > 12 or int(header) > most:  # noqa: PLR2004
        raise BadRequestError(
            "Inference-Header-Content-Length is not within the body",
            hint="the length of the JSON part in bytes",
        )
    return int(header)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _load(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadRequestError(
            "the body is not JSON",
            hint="binary tensors need the header Inference-Header-Content-Length",
        ) from error
    if not isinstance(document, dict):
        raise BadRequestError("the body is no JSON object", hint='{"inputs": [...]}')
    return document


def _asked(document: Mapping[str, Any], info: ModelInfo) -> Asked:
    identity = document.get("id")
    if identity is not None and (not isinstance(identity, str) or len(identity) > 1000):  # noqa: PLR2004
        raise BadRequestError('"id" must be a string', hint="at most 1,000 characters")
    binary = _flag(document.get("parameters"), "binary_data_output", False)
    known = [tensor.name for tensor in info.outputs]
    entries = document.get("outputs", [])
    if not isinstance(entries, list):
        raise BadRequestError(
            '"outputs" must be a list of objects', hint=f"outputs: {', '.join(known)}"
        )
    outputs: dict[str, bool] = {}
    for entry in entries:
        name = entry.get("name") if isinstance(entry, dict) else None
        if name not in known or name in outputs:
            raise BadRequestError(
                '"outputs" must name outputs of the model, each once',
                hint=f"outputs of {info.name}: {', '.join(known)}",
            )
        outputs[name] = _flag(entry.get("parameters"), "binary_data", binary)
    return Asked(identity, outputs, binary)


def _flag(parameters: Any, name: str, default: bool) -> bool:  # noqa: ANN401 - strangers' JSON
    value = parameters.get(name, default) if isinstance(parameters, dict) else default
    if not isinstance(value, bool):
        raise BadRequestError(f'"{name}" must be true or false', hint="without quotes")
    return value


def _shape(entry: Mapping[str, Any], tensor: Tensor, sizes: dict[str, int]) -> tuple[int, ...]:
    """Check type and shape; a free dimension has one size in all inputs of a request."""
    if entry.get("datatype") != DATATYPES.get(tensor.dtype):
        _refuse(tensor, f"datatype is {str(entry.get('datatype'))[:20]}")
    shape = entry.get("shape")
    if not isinstance(shape, list) or not all(type(d) is int for d in shape):
        _refuse(tensor, '"shape" must be a list of whole numbers')
    fits = len(shape) == len(tensor.shape) and all(
        got == (sizes.setdefault(want, got) if isinstance(want, str) else want)
        and 1 <= got < _MAX_DIM
        for got, want in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        _refuse(tensor, f"shape is {str(shape)[:100]}")
    return tuple(shape)


def _binary_size(entry: Mapping[str, Any]) -> int | None:
    parameters = entry.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is None:
        return None
    if type(size) is not int or size < 0 or "data" in entry:
        raise BadRequestError(
            '"binary_data_size" must be a number of bytes', hint='it stands in place of "data"'
        )
    return size


def _from_binary(
    body: bytes, offset: int, size: int, tensor: Tensor, shape: tuple[int, ...]
) -> Array:
    """Return the tensor as it lies in the body: no copy, but where it is not aligned."""
    dtype = np.dtype(tensor.dtype).newbyteorder("<")
    count = math.prod(shape)
    if size != count * dtype.itemsize or offset + size > len(body):
        _refuse(tensor, f"{size} bytes, {max(0, len(body) - offset)} of them in the body")
    array = np.frombuffer(body, dtype, count, offset).reshape(shape)
    if dtype.kind == "b":
        # A bool that is neither 0 nor 1 means nothing to the operators.
        truth: Array = np.frombuffer(body, np.uint8, count, offset).reshape(shape) != 0
        return truth
    return np.require(array, requirements="A")


def _from_json(data: Any, tensor: Tensor, shape: tuple[int, ...]) -> Array:  # noqa: ANN401
    if not isinstance(data, list):
        _refuse(tensor, '"data" must be a list')
    dtype = np.dtype(tensor.dtype)
    allowed = _ALLOWED.get(dtype.kind, {int})
    if data and isinstance(data[0], list):
        data = _flat(data, tensor)
    if not {type(value) for value in data} <= allowed:
        _refuse(tensor, '"data" holds other values than numbers of its type')
    if len(data) != math.prod(shape):
        _refuse(tensor, f"{len(data)} values for shape {list(shape)}")
    try:
        with np.errstate(over="raise"):  # a float that float32 has no room for
            return np.array(data, dtype=dtype).reshape(shape)
    except (ValueError, OverflowError, FloatingPointError, TypeError):
        _refuse(tensor, "a value is out of its type's range")


def _flat(data: list[Any], tensor: Tensor) -> list[Any]:
    """Flatten nested lists, one level at a time; mixed levels are refused."""
    for _ in range(len(tensor.shape) - 1):
        if not data or not isinstance(data[0], list):
            return data
        if not all(isinstance(part, list) for part in data):
            break
        data = [value for part in data for value in part]
    if data and not any(isinstance(value, list) for value in data):
        return data
    _refuse(tensor, '"data" is nested in another way than its shape')
