"""Sound for host and device alike: decode a file, mix to one channel, change the sample rate."""

from __future__ import annotations

import io
import math
import wave
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.wire.errors import ConfigError, MissingToolError

Samples = npt.NDArray[np.float32]

MIN_RATE_HZ = 1_000
MAX_RATE_HZ = 192_000
MAX_CHANNELS = 64
MAX_DURATION_S = 3600.0
# A compressed file of silence is small whatever it unpacks to.
MAX_VALUES = 1 << 27
# Of one channel: 128 MiB, which is ten minutes at 48 kHz and some.
MAX_FRAMES = 1 << 25
_BLOCK_FRAMES = 1 << 16
# Half length of the low-pass filter, in zero crossings of its sinc; the Hann window ends there.
ZERO_CROSSINGS = 16
# Rows of the sliding windows that are alive at once while resampling.
_BLOCK = 8192
# Who writes a WAV file into a pipe cannot know its length, and writes the largest that there is.
_UNKNOWN_LENGTH = 0x7FFF_F000
# Some programs count a few samples more than they write.
_SLACK = 0.01


def decode(
    data: bytes,
    *,
    rate_hz: int,
    max_duration_s: float = MAX_DURATION_S,
    max_values: int = MAX_VALUES,
) -> Samples:
    """Decode a sound file to one channel at a sample rate.

    PCM in a WAV file needs the standard library alone; other formats need soundfile. Channels are
    averaged. Another rate is converted by :func:`resample`.

    Args:
        data: The file.
        rate_hz: Sample rate of the result.
        max_duration_s: A longer sound is refused before it is decoded.
        max_values: Most values of all channels; more are refused before they are decoded.

    Returns:
        float32[N], -1..1.

    Raises:
        ConfigError: Not a sound file, empty, too long, or with a rate that makes no sense.
        MissingToolError: Not PCM in a WAV file, and soundfile is not installed.
    """
    decoded = _decode_wave(data, max_duration_s)
    mono, found_hz = decoded or _decode_soundfile(data, max_duration_s, max_values)
    if mono.shape[0] == 0:
        raise ConfigError("the sound is empty")
    if not np.isfinite(mono).all():
        raise ConfigError("the sound holds NaN or infinity")
    return resample(mono, found_hz, rate_hz)


def resample(samples: Samples, from_hz: int, to_hz: int) -> Samples:
    """Change the sample rate with a polyphase, Hann-windowed sinc filter.

    Output sample n lies at n · from_hz / to_hz of the input; the filter cuts off at the lower of
    the two Nyquist frequencies, and each of its phases sums to one, so that a constant stays what
    it is away from the ends (Smith, "Digital Audio Resampling", CCRMA).

    Args:
        samples: float32[N].
        from_hz: Its sample rate, 1 000..192 000.
        to_hz: The wanted rate, in the same range.

    Returns:
        float32[ceil(N · to_hz / from_hz)].

    Raises:
        ConfigError: A rate is out of range.
    """
    for rate in (from_hz, to_hz):
        if not MIN_RATE_HZ <= rate <= MAX_RATE_HZ:
            raise ConfigError(
                f"a sample rate of {rate} Hz", hint=f"{MIN_RATE_HZ} to {MAX_RATE_HZ} Hz"
            )
    if from_hz == to_hz or samples.size == 0:
        return samples
    divisor = math.gcd(from_hz, to_hz)
    up, down = to_hz // divisor, from_hz // divisor
    filters, half = _filters(up, down)
    count = -(-samples.shape[0] * up // down)
    padded = np.pad(samples.astype(np.float32, copy=False), (half, half + 1))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half)
    result = np.empty(count, dtype=np.float32)
    for start in range(0, count, _BLOCK):
        position = np.arange(start, min(start + _BLOCK, count), dtype=np.int64) * down
        # The first tap of a window that starts at index i is input sample i - half.
        rows = windows[position // up + 1]
        result[start : start + len(position)] = np.einsum("ij,ij->i", rows, filters[position % up])
    return result


def encode_wav(samples: Samples, rate_hz: int) -> bytes:
    """Write one channel as 16-bit PCM in a WAV file; values beyond ±1 are clipped.

    Args:
        samples: float32[N].
        rate_hz: Sample rate.
    """
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(np.clip(np.rint(samples * 32768), -32768, 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def _filters(up: int, down: int) -> tuple[npt.NDArray[np.float32], int]:
    """Return float32[up, 2 · half], the taps of each phase, and half, in input samples."""
    cutoff = min(1.0, up / down)
    half = math.ceil(ZERO_CROSSINGS / cutoff)
    offsets = np.arange(2 * half) - half + 1
    filters = np.empty((up, 2 * half), dtype=np.float32)
    for first in range(0, up, _BLOCK):
        phase = np.arange(first, min(first + _BLOCK, up))[:, None] / up
        distance = (phase - offsets) * cutoff
        window = np.cos(np.clip(distance / ZERO_CROSSINGS, -1, 1) * (math.pi / 2)) ** 2
        taps = np.sinc(distance) * window
        filters[first : first + len(phase)] = taps / taps.sum(axis=1, keepdims=True)
    return filters, half


def _mixed(samples: npt.NDArray[np.float32]) -> Samples:
    """Average [N, channels] to [N]."""
    mono: Samples = samples.mean(axis=1, dtype=np.float64).astype(np.float32)
    return mono


def _decode_wave(data: bytes, max_duration_s: float) -> tuple[Samples, int] | None:
    """Decode PCM in a WAV file to one channel; None where it is something else."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return None
    try:
        with wave.open(io.BytesIO(data), "rb") as file:
            channels, width = file.getnchannels(), file.getsampwidth()
            rate_hz = file.getframerate()
            _check_form(channels, rate_hz)
            # The header's count may lie; no more than the file's own bytes is ever read.
            if min(file.getnframes(), len(data) // width) > max_duration_s * rate_hz:
                raise ConfigError(f"the sound is longer than {max_duration_s:g} s")
            raw = file.readframes(len(data))
            _check_whole(file.getnframes(), raw, width * channels)
    except wave.Error as error:
        if "unknown format" in str(error):
            return None
        raise ConfigError(f"not a readable WAV file: {error}") from error
    except (EOFError, RuntimeError, ValueError, ArithmeticError) as error:
        raise ConfigError("not a readable WAV file: it is cut off or damaged") from error
    if not 1 <= width <= 4:  # noqa: PLR2004 - bytes a sample
        raise ConfigError(f"a WAV file with {width} bytes a sample")
    raw = raw[: len(raw) // (width * channels) * width * channels]
    return _mixed(_integers(raw, width).reshape(-1, channels)), rate_hz


def _check_whole(frames: int, raw: bytes, frame_bytes: int) -> None:
    """Refuse a file with less sound than its header says: half a recording is another one."""
    there = len(raw) // frame_bytes
    is_known = frames * frame_bytes < _UNKNOWN_LENGTH
    if is_known and there < frames * (1 - _SLACK):
        raise ConfigError(
            f"the WAV file is cut off: it holds {there} of {frames} samples",
            hint="copy or record it again",
        )


def _integers(raw: bytes, width: int) -> npt.NDArray[np.float32]:
    """Turn little-endian PCM into -1..1; 8-bit PCM is unsigned, as WAV has it."""
    if width == 1:
        return (np.frombuffer(raw, dtype=np.uint8).astype(np.float32) - 128) / np.float32(128)
    if width == 3:  # noqa: PLR2004 - 24 bits have no dtype
        wide = np.zeros((len(raw) // 3, 4), dtype=np.uint8)
        wide[:, 1:] = np.frombuffer(raw, dtype=np.uint8).reshape(-1, 3)
        return wide.view("<i4").ravel().astype(np.float32) / np.float32(2**31)
    whole: npt.NDArray[Any] = np.frombuffer(raw, dtype=f"<i{width}")
    return whole.astype(np.float32) / np.float32(2 ** (8 * width - 1))


def _decode_soundfile(data: bytes, max_duration_s: float, max_values: int) -> tuple[Samples, int]:
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise MissingToolError(
            "this sound is not PCM in a WAV file, and soundfile is not installed",
            hint='pip install "edgekit[audio]"',
        ) from error
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            _check_form(file.channels, file.samplerate)
            if file.frames > max_duration_s * file.samplerate:
                raise ConfigError(f"the sound is longer than {max_duration_s:g} s")
            if file.frames * file.channels > max_values:
                raise ConfigError(f"the sound has over {max_values} values in all channels")
            if file.frames > MAX_FRAMES:
                raise ConfigError(f"the sound has over {MAX_FRAMES / 1e6:.0f} million samples")
            # Block by block: all channels of all of it would take several times the memory.
            mono, done = np.empty(file.frames, dtype=np.float32), 0
            while done < len(mono):
                block = file.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)
                if not len(block):  # the header's count was too high
                    break
                mono[done : done + len(block)] = _mixed(block)
                done += len(block)
            return mono[:done], int(file.samplerate)
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        raise ConfigError("not a sound file that can be read") from error


def _check_form(channels: int, rate_hz: int) -> None:
    if not 1 <= channels <= MAX_CHANNELS:
        raise ConfigError(f"a sound with {channels} channels")
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise ConfigError(
            f"a sample rate of {rate_hz} Hz", hint=f"{MIN_RATE_HZ} to {MAX_RATE_HZ} Hz"
        )
