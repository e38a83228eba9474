"""Lines of text files, tokenized: what a model is fed, for the task tensors.

Options:
    include, exclude, take: Which files; as the reader ``files`` has them.
    lines: Which lines, counted over all files in the order of their paths: as ``take`` has it for
        files. Blank lines do not count, and a text that stands there twice is one: the first.
    most: Most lines, taken evenly; 0, the default, takes all.
    inputs: Names of the model's inputs; as the task ``embed-text`` has it, like the next two.
    max_tokens: Longer texts are cut; default 256.
    pad_to: Tokens of a model of fixed shape; 0, the default, pads nothing.
    dtype: ``"int64"`` (default) or ``"int32"``.
    extra.tokenizer: A ``tokenizer.json`` of the package tokenizers.

A sample is an .npz with ``[1, tokens]`` an input; its name is the file and the line's number.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.runtime.options import Options
from edgekit.runtime.tasks import Task, create_task
from edgekit.toolchain.readers import Sample
from edgekit.toolchain.readers.files import chosen_paths, parse_take
from edgekit.toolchain.readers.files_by_type import spread
from edgekit.wire.errors import ConfigError, EdgekitError

MAX_FILE_BYTES = 64 << 20
_TASK_OPTIONS = ("inputs", "max_tokens", "pad_to")


def read(
    root: Path | None, options: Mapping[str, Any], extra: Mapping[str, Path]
) -> Iterator[Sample]:
    """Tokenize the lines of text files; see the module's text for the options.

    Raises:
        ConfigError: An option is wrong, nothing matches, or a file is no UTF-8 text.
        MissingToolError: The package tokenizers is not installed.
    """
    import numpy as np

    opts = Options(options, "reader text-lines")
    paths = chosen_paths(root, opts)
    index, count = parse_take(opts.get("lines", str, "all"))
    most = int(opts.within("most", 0, 1 << 20, 0))
    dtype = opts.choice("dtype", ("int64", "int32"), "int64")
    for key in _TASK_OPTIONS:
        opts.get(key, object, "")
    opts.close()
    # The task's own tokenizing: cut, padded and limited as the device has it.
    task = _task({key: options[key] for key in _TASK_OPTIONS if key in options}, extra)
    found = [line for i, line in enumerate(distinct_lines(paths)) if i % count == index]
    for name, text in spread(found, most) if most else found:
        fed: dict[str, Any] = {}

        def run(feeds: Mapping[str, Any], fed: dict[str, Any] = fed) -> dict[str, Any]:
            fed.update({key: value.astype(dtype) for key, value in feeds.items()})
            return {"last_hidden_state": np.zeros((1, 1))}

        try:
            task.predict(run, text.encode())
        except EdgekitError as error:
            raise type(error)(error.message, hint=error.hint, where=name) from error
        buffer = io.BytesIO()
        np.savez(buffer, **fed)
        yield Sample(name, buffer.getvalue(), ".npz")


def _task(options: Mapping[str, Any], extra: Mapping[str, Path]) -> Task:
    try:
        files = {name: path.read_bytes() for name, path in extra.items()}
        return create_task("embed-text", options, files)
    except ConfigError as error:
        where = str(extra["tokenizer"]) if "not a tokenizer" in error.message else error.where
        raise ConfigError(error.message, hint=error.hint, where=where) from error


def distinct_lines(paths: Sequence[tuple[str, Path]]) -> list[tuple[str, str]]:
    """Return all texts with the place of each: ``("notes.txt:3", "…")``.

    Args:
        paths: Names and files, as :func:`~edgekit.toolchain.readers.files.chosen_paths` lists them.

    Raises:
        ConfigError: A file is too large, cannot be read, or is no UTF-8 text.
    """
    places: dict[str, str] = {}
    for name, path in paths:
        for number, line in enumerate(_text(path).split("\n"), start=1):
            if line.strip():
                places.setdefault(line.strip(), f"{name}:{number}")
    return [(place, text) for text, place in places.items()]


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(
            f"the file is over {MAX_FILE_BYTES >> 20} MiB",
            hint="a few hundred lines are enough",
            where=str(path),
        )
    hint = "texts are UTF-8, one a line; leave other files out of the folder"
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError("not a text in UTF-8", hint=hint, where=f"{path}:{line}") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ConfigError("not a text: it holds zero bytes", hint=hint, where=f"{path}:{line}")
    return text
