"""A recipe for an .onnx file that has none: read from its inputs, its outputs and a data folder."""

from __future__ import annotations

import re
from pathlib import Path

from edgekit.toolchain.graph import Graph
from edgekit.toolchain.recipe import Recipe, read_recipe
from edgekit.toolchain.sample_folder import check_count, data_kind, suffixes
from edgekit.toolchain.scaffold_data import (
    DataOptions,
    Port,
    Use,
    relative,
    toml_list,
    toml_text,
    use_of,
)
from edgekit.wire.canonical import sha256_file
from edgekit.wire.errors import UsageError
from edgekit.wire.located import parse_toml

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
# What a contract usually limits besides; the user knows the numbers.
_LIMITS = (
    "# size_mib = { max = 5 }",
    "# latency_p95_ms = { max = 50 }  # predicted for the target",
    "",
)
_AS_FOUND = DataOptions()


def recipe_for_file(model: Path, data: Path, options: DataOptions = _AS_FOUND) -> Recipe:
    """Make a recipe in memory.

    Args:
        model: An .onnx file.
        data: A folder of samples; every other one calibrates, the rest evaluates.
        options: What the user says of the samples.

    Raises:
        ConfigError: The folder is empty, holds too little, or nothing that fits the model.
        BuildError: The model cannot be read.
        UsageError: There is no such model, or an option is for samples of another kind.
    """
    text = recipe_text(model, data, model.resolve().parent, options)
    check_count(data)
    name = model_name(model)
    return read_recipe(
        parse_toml(text, f"{model} (no recipe)"), model.resolve().parent / f"{name}.toml"
    )


def model_name(model: Path) -> str:
    """Turn a file's name into a model's: lower case, dashes."""
    name = re.sub(r"[^a-z0-9]+", "-", model.stem.lower()).strip("-")
    return name or "model"


def recipe_text(
    model: Path, data: Path | None, folder: Path, options: DataOptions = _AS_FOUND
) -> str:
    """Write a recipe as TOML.

    Args:
        model: An .onnx file.
        data: A folder of samples, or None to leave the place open.
        folder: Where the recipe will stand; paths are written relative to it if they can be.
        options: What the user says of the samples.

    Raises:
        ConfigError: The data folder is empty or does not fit the model.
        BuildError: The model cannot be read.
        UsageError: There is no such file, its name is not Unicode, or an option is for samples of
            another kind.
    """
    if not model.is_file():
        raise UsageError("no such file", where=str(model))
    graph = Graph.load(model)
    inputs, outputs = _ports(graph, "input"), _ports(graph, "output")
    use = use_of(data, (inputs, outputs), options, model, folder)
    lines = [
        f"title = {toml_text(f'{model.stem} from {model.name}')}",
        "serial = 1  # raise it with every release: a device refuses a lower one",
        'license = "LicenseRef-unknown"  # an SPDX expression',
        "",
        "[source]  # the digest is checked at every build",
        f"uri = {toml_text('file:' + relative(model, folder))}",
        f'sha256 = "{sha256_file(model)}"',
        "",
    ]
    for word, ports in (("inputs", inputs), ("outputs", outputs)):
        for port in ports:
            shape = ", ".join(toml_text(d) if isinstance(d, str) else str(d) for d in port.shape)
            lines += [
                f"[[{word}]]",
                f"name = {toml_text(port.name)}",
                f'dtype = "{port.dtype}"',
                f"shape = [{shape}]",
                *_fixed_line(use, word, port),
                "",
            ]
    lines += [*use.task, *_LIMITS]
    if data is None:
        lines += ["# Add [[calibration]] and [[evaluation]]: samples like the ones in the field."]
        return "\n".join(lines) + "\n"
    include = toml_list(f"**/*{s}" for s in suffixes(data, data_kind(data)))
    for word, half in (("calibration", "even"), ("evaluation", "odd")):
        lines += [
            f"[[{word}]]",
            f"uri = {toml_text('file:' + relative(data, folder))}",
            f"include = {include}",
            f'{use.split} = "{half}"',
            *use.reader,
            "",
        ]
    return "\n".join(lines)


def _fixed_line(use: Use, word: str, port: Port) -> list[str]:
    if word != "inputs" or port.name not in use.fixed:
        return []
    return [f"fixed = {use.fixed[port.name]}  # as the samples have it; the input goes away"]


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
