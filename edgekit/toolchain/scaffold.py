"""A recipe for an .onnx file that has none: read from its inputs, its outputs and a data folder."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgekit.toolchain.graph import Graph
from edgekit.toolchain.located import parse_toml
from edgekit.toolchain.recipe import Recipe, read_recipe
from edgekit.toolchain.verify import MIN_CALIBRATION_SAMPLES
from edgekit.wire.canonical import sha256_file
from edgekit.wire.errors import ConfigError, UsageError

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_ARRAYS = (".npz", ".npy")
_DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
}
_PICTURE_RANK = 4
# What a contract usually limits besides; the user knows the numbers.
_LIMITS = (
    "# size_mib = { max = 5 }",
    "# latency_p95_ms = { max = 50 }  # predicted for the target",
    "",
)
_MAX_LISTED = 100_000


@dataclass(frozen=True)
class Port:
    """An input or output of a model: its name, element type and shape."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


def recipe_for_file(model: Path, data: Path) -> Recipe:
    """Make a recipe in memory.

    Args:
        model: An .onnx file.
        data: A folder of samples; every other one calibrates, the rest evaluates.

    Raises:
        ConfigError: The folder is empty, holds too little, or nothing that fits the model.
        BuildError: The model cannot be read.
    """
    text = recipe_text(model, data, model.resolve().parent)
    _check_count(data)
    name = model_name(model)
    return read_recipe(
        parse_toml(text, f"{model} (no recipe)"), model.resolve().parent / f"{name}.toml"
    )


def model_name(model: Path) -> str:
    """Turn a file's name into a model's: lower case, dashes."""
    name = re.sub(r"[^a-z0-9]+", "-", model.stem.lower()).strip("-")
    return name or "model"


def recipe_text(model: Path, data: Path | None, folder: Path) -> str:
    """Write a recipe as TOML.

    Args:
        model: An .onnx file.
        data: A folder of samples, or None to leave the place open.
        folder: Where the recipe will stand; paths are written relative to it if they can be.

    Raises:
        ConfigError: The data folder is empty or does not fit the model.
        BuildError: The model cannot be read.
        UsageError: There is no such file, or its name is not Unicode.
    """
    if not model.is_file():
        raise UsageError("no such file", where=str(model))
    graph = Graph.load(model)
    inputs, outputs = _ports(graph, "input"), _ports(graph, "output")
    kind = _data_kind(data)
    lines = [
        f"title = {_text(f'{model.stem} from {model.name}')}",
        "serial = 1  # raise it with every release: a device refuses a lower one",
        'license = "LicenseRef-unknown"  # an SPDX expression',
        "",
        "[source]  # the digest is checked at every build",
        f"uri = {_text('file:' + _relative(model, folder))}",
        f'sha256 = "{sha256_file(model)}"',
        "",
    ]
    for word, ports in (("inputs", inputs), ("outputs", outputs)):
        for port in ports:
            shape = ", ".join(_text(d) if isinstance(d, str) else str(d) for d in port.shape)
            lines += [
                f"[[{word}]]",
                f"name = {_text(port.name)}",
                f'dtype = "{port.dtype}"',
                f"shape = [{shape}]",
                "",
            ]
    lines += _task_lines(kind, inputs, outputs, model)
    if data is None:
        lines += ["# Add [[calibration]] and [[evaluation]]: samples like the ones in the field."]
        return "\n".join(lines) + "\n"
    for word, take in (("calibration", "even"), ("evaluation", "odd")):
        lines += [
            f"[[{word}]]",
            f"uri = {_text('file:' + _relative(data, folder))}",
            f"include = {_text_list(f'**/*{s}' for s in _suffixes(data, kind))}",
            f'take = "{take}"',
            "limit = 200",
            "",
        ]
    return "\n".join(lines)


def _task_lines(kind: str, inputs: list[Port], outputs: list[Port], model: Path) -> list[str]:
    if kind == "pictures":
        size = _picture_size(inputs, outputs, model)
        return [
            "# Check these against the training code: a wrong scale costs accuracy silently.",
            "[task]",
            'name = "classify-image"',
            f"input = {_text(inputs[0].name)}",
            f"size = [{size[0]}, {size[1]}]",
            *(['order = "grey"'] if inputs[0].shape[1] == 1 else []),
            "mean = 0",
            "std = 255",
            "",
            "[accept]",
            "top1_agreement = { min = 0.95 }  # the same best class as fp32",
            *_LIMITS,
        ]
    names = ", ".join(_text(port.name) for port in inputs)
    return [
        "[task]",
        'name = "tensors"',
        f"inputs = [{names}]",
        "",
        "[accept]",
        "output_cosine = { min = 0.98 }  # against fp32, each sample's worst output",
        *_LIMITS,
    ]


def _picture_size(inputs: list[Port], outputs: list[Port], model: Path) -> tuple[int, int]:
    shape = inputs[0].shape
    fits = (
        len(inputs) == 1
        and len(shape) == _PICTURE_RANK
        and shape[1] in (1, 3)
        and len(outputs) == 1
        and len(outputs[0].shape) == 2  # noqa: PLR2004 - [batch, classes]
    )
    if not fits:
        raise ConfigError(
            "pictures need a classifier: one input [N, 3, H, W] or [N, 1, H, W], one output "
            "[N, classes]",
            hint="save what the model is fed as .npz files, or write a recipe: `edgekit init`",
            where=str(model),
        )
    height, width = shape[2], shape[3]
    return (width if isinstance(width, int) else 224, height if isinstance(height, int) else 224)


def _data_kind(data: Path | None) -> str:
    if data is None:
        return "arrays"
    counts = _count_suffixes(data)
    arrays, pictures = (sum(counts[s] for s in known) for known in (_ARRAYS, _PICTURES))
    if not arrays and not pictures:
        raise ConfigError(
            "no samples: neither .npz/.npy files nor pictures",
            hint="one .npz a sample, keys = input names; or .png/.jpg for a classifier",
            where=str(data),
        )
    return "arrays" if arrays >= pictures else "pictures"


def _count_suffixes(data: Path) -> Counter[str]:
    if not data.is_dir():
        what = (
            "is a file, not a folder of samples" if data.exists() else "no such folder of samples"
        )
        raise ConfigError(what, where=str(data))
    counts: Counter[str] = Counter()
    for number, path in enumerate(data.rglob("*")):
        if number > _MAX_LISTED:
            raise ConfigError(
                f"over {_MAX_LISTED} files", where=str(data), hint="give a smaller folder"
            )
        counts[path.suffix.lower()] += path.is_file()
    return counts


def _check_count(data: Path) -> None:
    kind = _data_kind(data)
    counts = _count_suffixes(data)
    found = sum(counts[suffix] for suffix in _suffixes(data, kind))
    if (found + 1) // 2 < MIN_CALIBRATION_SAMPLES:
        few = "sample is" if found == 1 else "samples are"
        raise ConfigError(
            f"{found} {few} too few: every other one calibrates, the rest evaluates",
            hint=f"give at least {2 * MIN_CALIBRATION_SAMPLES}, as varied as the field",
            where=str(data),
        )


def _suffixes(data: Path, kind: str) -> list[str]:
    counts = _count_suffixes(data)
    return [s for s in (_ARRAYS if kind == "arrays" else _PICTURES) if counts[s]]


def _ports(graph: Graph, which: str) -> list[Port]:
    fed = set(graph.input_names)
    ports = []
    for value in getattr(graph.proto.graph, which):
        if which == "input" and value.name not in fed:
            continue
        tensor = value.type.tensor_type
        shape = tuple(
            int(d.dim_value) if d.HasField("dim_value") else (d.dim_param or f"dim{i}")
            for i, d in enumerate(tensor.shape.dim)
        )
        ports.append(Port(value.name, _DTYPES.get(tensor.elem_type, "unknown"), shape))
    return ports


def _relative(path: Path, folder: Path) -> str:
    # A project moves as a whole: what lies in it is named relative to the recipe.
    resolved, start = path.resolve(), folder.resolve()
    if resolved.is_relative_to(start.parent):
        return os.path.relpath(resolved, start)
    return str(resolved)


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"a name is not Unicode: {value!a}", hint="give the file a name that is"
        ) from error
    # A JSON string is also a TOML basic string, but for surrogate pairs and a bare DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _text_list(values: Iterable[str]) -> str:
    return f"[{', '.join(_text(value) for value in values)}]"
