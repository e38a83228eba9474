"""A microphone: windows of sound from ``arecord`` or a program like it, each a WAV file.

Options:
    rate_hz: Sample rate, default 16000.
    window_s: Length of a window, default 2.
    device: ALSA's name, default ``default``.
    command: A program and its arguments instead: it writes 16-bit little-endian PCM, one channel.
    stall_s: A microphone that is silent for so long is started again, default 10.

Four windows wait at most; the oldest goes first.
"""

from __future__ import annotations

import io
import threading
import wave
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgekit.agent.inputs import Sample
from edgekit.agent.inputs.child import Restarts, chunks
from edgekit.agent.inputs.latest import Latest
from edgekit.runtime.options import Options
from edgekit.wire.errors import ConfigError

_WIDTH_BYTES = 2
_WAITING = 4


@dataclass
class Microphone:
    """The input; see the module's text for the options."""

    command: tuple[str, ...]
    rate_hz: int
    window_bytes: int
    restarts: Restarts
    clock: Callable[[], float]

    def samples(self, stop: threading.Event) -> Iterator[Sample]:
        """Yield one window after the other.

        Raises:
            MissingToolError: The program is not installed.
        """
        trouble: list[BaseException] = []
        waiting: Latest[bytes] = Latest(_WAITING)

        def read() -> None:
            try:
                self._read(waiting, stop)
            except BaseException as error:  # noqa: BLE001 - raised again below, in the other thread
                trouble.append(error)
            finally:
                waiting.close()

        reader = threading.Thread(target=read, name="microphone", daemon=True)
        reader.start()
        number = 0
        while not waiting.ended and not stop.is_set():
            window = waiting.take(0.5)
            if window is not None:
                number += 1
                yield Sample(as_wav(window, self.rate_hz), f"window {number}")
        reader.join(5)
        if trouble:
            raise trouble[0]

    def _read(self, waiting: Latest[bytes], stop: threading.Event) -> None:
        held = bytearray()
        for chunk in chunks(self.command, self.restarts, self.clock, stop):
            if chunk is None:
                held.clear()
                continue
            held += chunk
            while len(held) >= self.window_bytes:
                waiting.put(bytes(held[: self.window_bytes]))
                del held[: self.window_bytes]


def as_wav(pcm: bytes, rate_hz: int) -> bytes:
    """Write 16-bit PCM of one channel as a WAV file."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(_WIDTH_BYTES)
        file.setframerate(rate_hz)
        file.writeframes(pcm)
    return buffer.getvalue()


def create(options: Mapping[str, Any], clock: Callable[[], float]) -> Microphone:
    """Make the input; see the module's text for the options.

    Raises:
        ConfigError: An option is wrong.
    """
    opts = Options(options, "input microphone")
    rate_hz = int(opts.within("rate_hz", 1000, 192_000, 16_000))
    window_s = opts.within("window_s", 0.01, 600, 2)
    device = opts.get("device", str, "default")
    given = opts.strings("command", ())
    restarts = Restarts(stall_s=opts.within("stall_s", 0.1, 3600, 10))
    opts.close()
    if device.startswith("-"):
        raise ConfigError(f'input microphone: "device" is {device}')
    form = ("-t", "raw", "-f", "S16_LE", "-c", "1", "-r", str(rate_hz))
    command = given or ("arecord", "-q", "-D", device, *form)
    window_bytes = max(1, round(window_s * rate_hz)) * _WIDTH_BYTES
    return Microphone(tuple(command), rate_hz, window_bytes, restarts, clock)
