"""Readers: how a downloaded set becomes samples. One file a reader; a recipe names the file.

To add a reader, add ``edgekit/toolchain/readers/<name>.py`` with a function
``read(root, options, extra) -> Iterator[Sample]``; dashes in the name become underscores. Samples
come in a fixed order that does not depend on the file system.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.wire.canonical import sha256_hex
from edgekit.wire.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Sample:
    """One sample as it stands in its file.

    Attributes:
        name: Unique within its set, stable: ``imagenet_03_0.png``.
        data: The raw bytes that a task's ``predict`` takes.
        suffix: What kind of file it is: ``.png``, ``.npy``, ``.txt``, ``.wav``.
        label: The truth as plain JSON, or None.
    """

    name: str
    data: bytes
    suffix: str
    label: Any = None

    @property
    def sha256(self) -> str:
        """Digest of the raw bytes."""
        return sha256_hex(self.data)


def reader_names() -> list[str]:
    """Return the names of all readers."""
    return sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__))


def read_samples(
    name: str, root: Path | None, options: Mapping[str, Any], extra: Mapping[str, Path]
) -> Iterator[Sample]:
    """Read a set.

    Args:
        name: The reader.
        root: The fetched file or folder; None for a reader that makes its own samples.
        options: The reader's options, from the recipe.
        extra: More fetched files, by the recipe's names.

    Raises:
        ConfigError: No such reader, wrong options, or nothing matches.
    """
    known = reader_names()
    if name not in known:
        close = did_you_mean(name, known)
        raise ConfigError(
            f'no reader named "{name}"',
            hint=f"did you mean {close}?" if close else f"readers: {', '.join(known)}",
        )
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    samples: Iterator[Sample] = module.read(root, options, extra)
    return samples
