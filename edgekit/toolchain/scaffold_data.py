"""How the files of a folder are fed to a model: the task and the reader, as lines of TOML."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.runtime.sounds import MAX_RATE_HZ, MIN_RATE_HZ
from edgekit.runtime.tasks.embed_text import INPUTS as TEXT_INPUTS
from edgekit.toolchain.recipe import Recipe
from edgekit.toolchain.sample_folder import data_kind
from edgekit.wire.canonical import sha256_file
from edgekit.wire.errors import ConfigError, UsageError

RATE_HZ = 16000
MAX_SAMPLES = 200  # of each half
_RATE_NAMES = ("sr", "rate", "sample_rate", "sampling_rate", "sample_rate_hz")
_SPEECH_INPUTS, _SPEECH_OUTPUTS = {"input", "state"}, {"output", "stateN"}
# Silero VAD: samples of a frame and of the context before it, by sample rate.
_SPEECH_FRAMES = {16000: (512, 64), 8000: (256, 32)}
_SPEECH_WINDOW_S = 1.024
# Fewer values than this are features of a sound, not the sound.
_MIN_WINDOW = 128
_MAX_WINDOW_S = 10
_MAX_TOKENS = 256
_PICTURE_RANK = 4
_NPZ = "save what the model is fed as .npz files, or write a recipe: `edgekit init`"


@dataclass(frozen=True)
class Port:
    """An input or output of a model: its name, element type and shape."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class DataOptions:
    """What a user says of the files.

    Attributes:
        sample_rate_hz: Rate at which the model takes sounds; None for 16000.
        tokenizer: A ``tokenizer.json``; None for the one beside the model.
    """

    sample_rate_hz: int | None = None
    tokenizer: Path | None = None


@dataclass(frozen=True)
class Use:
    """How files of one kind are fed to a model, as lines of TOML.

    Attributes:
        task: The ``[task]`` table and the first limit of ``[accept]``.
        reader: What a data set has beside ``uri`` and ``include``.
        split: The reader's key for a half of the samples.
        fixed: Inputs that become constants.
    """

    task: tuple[str, ...]
    reader: tuple[str, ...] = (f"limit = {MAX_SAMPLES}",)
    split: str = "take"
    fixed: dict[str, Any] = field(default_factory=dict)


def use_of(
    data: Path | None,
    ports: tuple[list[Port], list[Port]],
    options: DataOptions,
    model: Path,
    folder: Path,
) -> Use:
    """Decide how a model is fed.

    Args:
        data: The folder of samples; None for arrays.
        ports: The model's inputs and outputs.
        options: What the user says of the files.
        model: The .onnx file.
        folder: Where the recipe will stand.

    Raises:
        ConfigError: The files do not fit the model, or the tokenizer is missing.
        UsageError: An option is for files of another kind.
    """
    kind = "arrays" if data is None else data_kind(data)
    for option, given, wanted in (
        ("--sample-rate", options.sample_rate_hz, "sounds"),
        ("--tokenizer", options.tokenizer, "texts"),
    ):
        if given is not None and kind != wanted:
            raise UsageError(f"{option} is for {wanted}; the folder holds {kind}", where=str(data))
    inputs, outputs = ports
    if kind == "pictures":
        return _pictures(inputs, outputs, model)
    if kind == "sounds":
        return _sounds(inputs, outputs, options.sample_rate_hz or RATE_HZ, model)
    if kind == "texts":
        return _texts(inputs, options.tokenizer, model, folder)
    return Use(_tensors([port.name for port in inputs]))


def describe_samples(recipe: Recipe) -> str:
    """Say how a recipe that was made for a folder reads it."""
    spec = recipe.calibration[0]
    options = spec.options
    if spec.reader == "sounds":
        rate_hz = options["rate_hz"]
        window = options.get("shape", [0])[-1]
        length = f"{window}" if window else f"up to {round(options['window_s'] * rate_hz)}"
        return f"sounds at {rate_hz} Hz, one channel, in windows of {length} samples"
    if spec.reader == "text-lines":
        padded = options.get("pad_to", 0)
        cut = f"padded to {padded} tokens" if padded else f"cut at {options['max_tokens']} tokens"
        return f"one text a line, {cut}, with {spec.extra['tokenizer'].uri.removeprefix('file:')}"
    if recipe.task == "classify-image":
        width, height = recipe.task_options["size"]
        return f"pictures at {width} x {height}, pixels as 0..1"
    return "arrays as they were saved"


def _tensors(names: Sequence[str]) -> tuple[str, ...]:
    return (
        "[task]",
        'name = "tensors"',
        f"inputs = {toml_list(names)}",
        "",
        "[accept]",
        "output_cosine = { min = 0.98 }  # against fp32, each sample's worst output",
    )


def _pictures(inputs: list[Port], outputs: list[Port], model: Path) -> Use:
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
            hint=_NPZ,
            where=str(model),
        )
    height, width = (d if isinstance(d, int) else 224 for d in shape[2:])
    return Use(
        (
            "# Check these against the training code: a wrong scale costs accuracy silently.",
            "[task]",
            'name = "classify-image"',
            f"input = {toml_text(inputs[0].name)}",
            f"size = [{width}, {height}]",
            *(['order = "grey"'] if shape[1] == 1 else []),
            "mean = 0",
            "std = 255",
            "",
            "[accept]",
            "top1_agreement = { min = 0.95 }  # the same best class as fp32",
        )
    )


def _sounds(inputs: list[Port], outputs: list[Port], rate_hz: int, model: Path) -> Use:
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise UsageError(f"a sample rate of {rate_hz} Hz", hint=f"{MIN_RATE_HZ} to {MAX_RATE_HZ}")
    fixed, fed = {}, []
    for port in inputs:
        if port.name.lower() in _RATE_NAMES and "int" in port.dtype and set(port.shape) <= {1}:
            fixed[port.name] = [rate_hz] if port.shape else rate_hz
        else:
            fed.append(port)
    reader = ('reader = "sounds"', f"rate_hz = {rate_hz}", f"most = {MAX_SAMPLES}")
    names = {port.name for port in fed}
    if names == _SPEECH_INPUTS and {p.name for p in outputs} >= _SPEECH_OUTPUTS:
        task = _speech(fed, rate_hz, model)
        return Use(task, (*reader, f"window_s = {_SPEECH_WINDOW_S}"), fixed=fixed)
    shapes = ", ".join(f"{p.name}: {p.dtype}{_shown(p.shape)}" for p in inputs)
    if len(fed) != 1:
        others = ", ".join(f'"{p.name}"' for p in fed if p.dtype != "float32" or p is not fed[0])
        raise ConfigError(
            f"the sounds do not say what to feed to {others} (inputs: {shapes})",
            hint=_NPZ,
            where=str(model),
        )
    length = fed[0].shape[-1] if fed[0].shape else 1
    fits = (
        fed[0].dtype == "float32"
        and 1 <= len(fed[0].shape) <= 3  # noqa: PLR2004 - batch, channel, samples
        and all(_is_one(d) for d in fed[0].shape[:-1])
        and (isinstance(length, str) or length >= _MIN_WINDOW)
    )
    if not fits:
        raise ConfigError(
            f"sounds need an input of samples, float32 [N], [1, N] or [1, 1, N]; the model takes "
            f"{shapes}",
            hint=_NPZ,
            where=str(model),
        )
    shape = [1] * (len(fed[0].shape) - 1) + [length if isinstance(length, int) else 0]
    longest = (f"window_s = {_MAX_WINDOW_S}",) if not shape[-1] else ()
    return Use(_tensors([fed[0].name]), (*reader, f"shape = {shape}", *longest), fixed=fixed)


def _speech(fed: list[Port], rate_hz: int, model: Path) -> tuple[str, ...]:
    shapes = {port.name: port.shape for port in fed}
    if rate_hz not in _SPEECH_FRAMES:
        raise ConfigError(
            f"the model looks like Silero VAD, which takes no sounds at {rate_hz} Hz",
            hint="--sample-rate 16000, or 8000 for a model of that rate",
            where=str(model),
        )
    frame, context = _SPEECH_FRAMES[rate_hz]
    width, state = shapes["input"][-1], shapes["state"]
    if width == frame:
        context = 0
    elif isinstance(width, int) and width != frame + context:
        raise ConfigError(
            f'the input "input" takes {width} samples; a frame at {rate_hz} Hz is {frame}, with '
            f"the {context} before it {frame + context}",
            hint=_NPZ,
            where=str(model),
        )
    known = [d if isinstance(d, int) else 1 for d in state]
    return (
        "[task]",
        'name = "detect-speech"',
        f"sample_rate_hz = {rate_hz}",
        f"frame = {frame}",
        f"context = {context}",
        *([f"state_shape = {known}"] if any(isinstance(d, int) for d in state) else []),
        "",
        "[accept]",
        "frame_agreement = { min = 0.98 }  # speech or not, as fp32 says",
    )


def _texts(inputs: list[Port], tokenizer: Path | None, model: Path, folder: Path) -> Use:
    names = [port.name for port in inputs]
    dtypes = {port.dtype for port in inputs}
    fits = (
        "input_ids" in names
        and set(names) <= set(TEXT_INPUTS)
        and dtypes <= {"int64", "int32"}
        and len(dtypes) == 1
        and all(len(p.shape) == 2 and _is_one(p.shape[0]) for p in inputs)  # noqa: PLR2004
    )
    if not fits:
        shapes = ", ".join(f"{p.name}: {p.dtype}{_shown(p.shape)}" for p in inputs)
        raise ConfigError(
            f"texts need the inputs {', '.join(TEXT_INPUTS)}, int64 or int32 [N, tokens]; the "
            f"model takes {shapes}",
            hint=_NPZ,
            where=str(model),
        )
    path = tokenizer or model.parent / "tokenizer.json"
    if not path.is_file():
        raise ConfigError(
            "no such tokenizer" if tokenizer else "texts need the model's tokenizer",
            hint="--tokenizer tokenizer.json: the file of the checkpoint; by default the one "
            "beside the model",
            where=str(path),
        )
    fixed = [p.shape[1] for p in inputs if isinstance(p.shape[1], int)]
    uri = toml_text("file:" + relative(path, folder))
    return Use(
        _tensors(names),
        (
            'reader = "text-lines"',
            f"most = {MAX_SAMPLES}",
            f"inputs = {toml_list(names)}",
            f'dtype = "{inputs[0].dtype}"',
            f"max_tokens = {fixed[0] if fixed else _MAX_TOKENS}",
            *([f"pad_to = {fixed[0]}"] if fixed else []),
            f'extra = {{ tokenizer = {{ uri = {uri}, sha256 = "{sha256_file(path)}" }} }}',
        ),
        split="lines",
    )


def _is_one(dim: int | str) -> bool:
    return isinstance(dim, str) or dim == 1


def _shown(shape: tuple[int | str, ...]) -> str:
    return f"[{', '.join(str(d) for d in shape)}]"


def relative(path: Path, folder: Path) -> str:
    """Write a path relative to a recipe's folder where both lie in one project."""
    # A project moves as a whole: what lies in it is named relative to the recipe.
    resolved, start = path.resolve(), folder.resolve()
    if resolved.is_relative_to(start.parent):
        return os.path.relpath(resolved, start)
    return str(resolved)


def toml_text(value: str) -> str:
    """Write a string as TOML.

    Raises:
        UsageError: It is not Unicode.
    """
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"a name is not Unicode: {value!a}", hint="give the file a name that is"
        ) from error
    # A JSON string is also a TOML basic string, but for surrogate pairs and a bare DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_list(values: Iterable[str]) -> str:
    """Write a list of strings as TOML."""
    return f"[{', '.join(toml_text(value) for value in values)}]"
