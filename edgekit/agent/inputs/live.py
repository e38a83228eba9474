"""A live source: a program whose output is cut into samples, of which only the newest wait.

A model that is slower than the source gets the present, not a queue of the past. A program that
ends is started again, after 0.5 s, then twice as long up to 30 s.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from edgekit.agent.inputs import Sample
from edgekit.agent.inputs.child import Restarts, chunks
from edgekit.agent.inputs.latest import Latest

_JOIN_S = 5.0


class Parser(Protocol):
    """Cuts a stream of bytes into samples."""

    def feed(self, chunk: bytes) -> Iterable[bytes]:
        """Take some bytes and yield the samples that are complete now."""
        ...


@dataclass
class LiveSource:
    """The input.

    Attributes:
        command: Program and arguments.
        make_parser: Makes what cuts its output, anew for each start of the program.
        restarts: When it is started again.
        clock: Seconds that only grow.
        word: What one sample is called: ``frame``.
        waiting: How many wait at most; the oldest goes first.
        seen: Samples that came.
    """

    command: tuple[str, ...]
    make_parser: Callable[[], Parser]
    restarts: Restarts
    clock: Callable[[], float]
    word: str
    waiting: int = 1
    seen: int = 0
    _latest: Latest[bytes] = field(default_factory=lambda: Latest(1))

    @property
    def dropped(self) -> int:
        """Samples that newer ones replaced before the model was ready."""
        return self._latest.dropped

    def samples(self, stop: threading.Event) -> Iterator[Sample]:
        """Yield the samples as the model takes them.

        Raises:
            MissingToolError: The program is not installed.
        """
        trouble: list[BaseException] = []
        latest = self._latest = Latest(self.waiting)

        def read() -> None:
            try:
                self._read(latest, stop)
            except BaseException as error:  # noqa: BLE001 - raised again below, in the other thread
                trouble.append(error)
            finally:
                latest.close()

        reader = threading.Thread(target=read, name=self.word, daemon=True)
        reader.start()
        number = 0
        try:
            while not latest.ended and not stop.is_set():
                sample = latest.take(0.5)
                if sample is not None:
                    number += 1
                    yield Sample(sample, f"{self.word} {number}")
        finally:
            reader.join(_JOIN_S)  # it ends the program
        if trouble:
            raise trouble[0]

    def _read(self, latest: Latest[bytes], stop: threading.Event) -> None:
        parser = self.make_parser()
        for chunk in chunks(self.command, self.restarts, self.clock, stop):
            if chunk is None:
                parser = self.make_parser()  # half a sample of the last program is worth nothing
                continue
            for sample in parser.feed(chunk):
                self.seen += 1
                latest.put(sample)
