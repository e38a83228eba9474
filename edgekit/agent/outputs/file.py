"""A file of results, one JSON document a line, with rotation.

Options:
    path: The file.
    max_bytes: A longer one becomes ``path.1``, that one ``path.2`` and so on; default 10 MiB.
    keep: How many old files stay, default 3.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.agent.outputs import Result
from edgekit.runtime.options import Options
from edgekit.wire.errors import ConfigError

log = logging.getLogger(__name__)


@dataclass
class ResultFile:
    """The output; see the module's text for the options.

    Attributes:
        lost: Results that could not be written.
    """

    path: Path
    max_bytes: int
    keep: int
    lost: int = 0

    def send(self, result: Result) -> None:
        """Append one line; it is with the system when this returns."""
        line = json.dumps(result, separators=(",", ":")).encode() + b"\n"
        try:
            if self._size() + len(line) > self.max_bytes:
                self._rotate()
            _append(self.path, line)
        except OSError as error:
            self.lost += 1
            if self.lost == 1 or self.lost % 1000 == 0:
                log.warning("%s: %s; %d results lost", self.path, error.strerror, self.lost)

    def close(self) -> None:
        """Nothing waits."""

    def _size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def _rotate(self) -> None:
        if not self.path.exists():
            return
        if not self.keep:
            self.path.unlink()
            return
        for number in range(self.keep - 1, 0, -1):
            old = self._numbered(number)
            if old.exists():
                old.replace(self._numbered(number + 1))
        self.path.replace(self._numbered(1))

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")


def _append(path: Path, line: bytes) -> None:
    """Append a line whole or not at all; half a line that a crash has left gets its end."""
    with path.open("a+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END) if file.seekable() else 0
        if end:
            file.seek(end - 1)
            line = line if file.read(1) == b"\n" else b"\n" + line
        if file.write(line) < len(line):  # a disk that runs full takes a part
            file.truncate(end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def create(options: Mapping[str, Any]) -> ResultFile:
    """Make the output; see the module's text for the options.

    Raises:
        ConfigError: An option is wrong, or the file's folder is not there.
    """
    opts = Options(options, "output file")
    made = ResultFile(
        path=Path(opts.get("path", str)),
        max_bytes=int(opts.within("max_bytes", 1000, 1 << 40, 10 << 20)),
        keep=int(opts.within("keep", 0, 1000, 3)),
    )
    opts.close()
    if not made.path.parent.is_dir():
        raise ConfigError("there is no such folder", where=str(made.path.parent))
    return made
