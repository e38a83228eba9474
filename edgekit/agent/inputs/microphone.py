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
import wave
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from edgekit.agent.inputs.child import Restarts
from edgekit.agent.inputs.live import LiveSource
from edgekit.runtime.options import Options
from edgekit.wire.errors import ConfigError

_WIDTH_BYTES = 2
_WAITING = 4


class Windows:
    """Cuts PCM into windows.

    Args:
        window_bytes: Length of one.
        rate_hz: Sample rate.
    """

    def __init__(self, window_bytes: int, rate_hz: int) -> None:
        self._window_bytes = window_bytes
        self._rate_hz = rate_hz
        self._held = bytearray()

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Take some sound and yield the windows that are full now, each a WAV file."""
        self._held += chunk
        while len(self._held) >= self._window_bytes:
            yield as_wav(bytes(self._held[: self._window_bytes]), self._rate_hz)
            del self._held[: self._window_bytes]


def as_wav(pcm: bytes, rate_hz: int) -> bytes:
    """Write 16-bit PCM of one channel as a WAV file."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(_WIDTH_BYTES)
        file.setframerate(rate_hz)
        file.writeframes(pcm)
    return buffer.getvalue()


def create(options: Mapping[str, Any], clock: Callable[[], float]) -> LiveSource:
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

    def make_parser() -> Windows:
        return Windows(window_bytes, rate_hz)

    return LiveSource(tuple(command), make_parser, restarts, clock, "window", _WAITING)
