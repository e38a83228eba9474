"""A file that a command writes: checked before any work is done, there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from edgekit.wire.errors import ConfigError, UsageError


def check_output(out: Path, model: Path) -> None:
    """Refuse a place that cannot be written, before any work is done.

    Raises:
        UsageError: It is the model itself.
        ConfigError: It is a folder, or its folder does not exist or cannot be written.
    """
    try:
        mode = out.stat().st_mode if out.exists() else None
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", where=str(out)) from error
    if mode is not None and stat.S_ISDIR(mode):
        raise ConfigError("is a folder", hint="name a file: -o model-int8.onnx", where=str(out))
    if not out.parent.is_dir():
        raise ConfigError("no such folder", hint="make it first", where=str(out.parent))
    if mode is not None and not stat.S_ISREG(mode):
        # It would be replaced: /dev/null is one file for all.
        raise ConfigError("is not a plain file", hint="name another one with -o", where=str(out))
    if out.exists() and model.exists() and out.samefile(model):
        raise UsageError("the output is the model itself", hint="name another file with -o")
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise ConfigError(
            "the folder cannot be written", hint="give another one with -o", where=str(out.parent)
        )


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all.

    Raises:
        ConfigError: It cannot be written; what was there before is still there.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise ConfigError(
            f"cannot be written: {error.strerror}",
            hint="give another place with -o",
            where=str(path),
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
