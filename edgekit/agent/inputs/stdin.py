"""Standard input: every line a text, or all of it one sample.

Options:
    format: ``"lines"`` (default) or ``"whole"``.
    max_bytes: A longer line or input is cut off there, default 1 MiB for lines, else 64 MiB.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgekit.agent.inputs import MAX_SAMPLE_BYTES, Sample
from edgekit.runtime.options import Options

_CHUNK_BYTES = 1 << 16


@dataclass
class StandardInput:
    """The input; see the module's text for the options.

    Attributes:
        descriptor: What is read.
        by_line: Every line is a sample.
        max_bytes: Of a sample; the rest of it is left out.
    """

    descriptor: int
    by_line: bool
    max_bytes: int

    def samples(self, stop: threading.Event) -> Iterator[Sample]:
        """Yield lines, or the whole, until the end."""
        held, number, cut = bytearray(), 0, False
        for chunk in self._chunks(stop):
            if not self.by_line:
                held += chunk[: self.max_bytes - len(held)]
                continue
            *lines, rest = chunk.split(b"\n")
            for line in lines:
                if not cut:
                    held += line
                text, cut = bytes(held[: self.max_bytes]).strip(), False
                held.clear()
                if text:
                    number += 1
                    yield Sample(text, f"line {number}")
            if not cut:
                held += rest
            cut = len(held) >= self.max_bytes
            del held[self.max_bytes :]
        if held.strip() and not stop.is_set():
            yield Sample(bytes(held), f"line {number + 1}" if self.by_line else "stdin")

    def _chunks(self, stop: threading.Event) -> Iterator[bytes]:
        while not stop.is_set():
            ready, _, _ = select.select([self.descriptor], [], [], 0.5)
            if ready:
                chunk = os.read(self.descriptor, _CHUNK_BYTES)
                if not chunk:
                    return
                yield chunk


def create(options: Mapping[str, Any], clock: Callable[[], float]) -> StandardInput:  # noqa: ARG001
    """Make the input; see the module's text for the options.

    Raises:
        ConfigError: An option is wrong.
    """
    opts = Options(options, "input stdin")
    by_line = opts.choice("format", ("lines", "whole"), "lines") == "lines"
    default = 1 << 20 if by_line else MAX_SAMPLE_BYTES
    max_bytes = int(opts.within("max_bytes", 1, MAX_SAMPLE_BYTES, default))
    opts.close()
    return StandardInput(sys.stdin.fileno(), by_line, max_bytes)
