"""Sounds that are no speech, made of integers from a hash: the same samples on every machine.

numpy's generators may change their streams between versions; SHAKE-128 does not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgekit.wire.errors import ConfigError, did_you_mean

Wave = npt.NDArray[np.float64]

_OCTAVES = 8
_BROWN_LEAK = 256
_HUM_HZ = 50
_BEEP_S = 0.2


def noise(kind: str, length: int, rate_hz: int, seed: str) -> npt.NDArray[np.float32]:
    """Make one sound.

    Args:
        kind: One of :func:`noise_kinds`.
        length: In samples.
        rate_hz: Sample rate.
        seed: Another seed gives another sound of the same kind.

    Returns:
        float32[length], root mean square 1 (0 for silence).

    Raises:
        ConfigError: No such kind.
    """
    if kind not in _KINDS:
        close = did_you_mean(kind, _KINDS)
        raise ConfigError(
            f'no noise named "{kind}"',
            hint=f"did you mean {close}?" if close else f"noises: {', '.join(_KINDS)}",
        )
    wave = _KINDS[kind](length, rate_hz, f"{kind}/{seed}")
    level = float(np.sqrt(np.mean(wave**2))) if length else 0.0
    unit: npt.NDArray[np.float32] = (wave / level if level else wave).astype(np.float32)
    return unit


def noise_kinds() -> tuple[str, ...]:
    """Return the names of all kinds."""
    return tuple(_KINDS)


def _integers(length: int, seed: str) -> npt.NDArray[np.int64]:
    """Return int64[length], uniform over the 16-bit integers."""
    raw = hashlib.shake_128(seed.encode()).digest(2 * length)
    return np.frombuffer(raw, dtype="<i2").astype(np.int64)


def _silence(length: int, _rate_hz: int, _seed: str) -> Wave:
    return np.zeros(length)


def _white(length: int, _rate_hz: int, seed: str) -> Wave:
    return _integers(length, seed).astype(np.float64)


def _pink(length: int, _rate_hz: int, seed: str) -> Wave:
    """Sum white noises that hold each value for 1, 2, 4, … samples (Voss and Clarke, 1978)."""
    total = np.zeros(length, dtype=np.int64)
    for octave in range(_OCTAVES):
        held = np.repeat(_integers(-(-length // 2**octave), f"{seed}/{octave}"), 2**octave)
        total += held[:length]
    return total.astype(np.float64)


def _brown(length: int, _rate_hz: int, seed: str) -> Wave:
    """Sum white noise up, and take its slow drift away."""
    walk = np.cumsum(_integers(length + _BROWN_LEAK, seed))
    drift = np.cumsum(walk)
    drift = (drift[_BROWN_LEAK:] - drift[:-_BROWN_LEAK]) // _BROWN_LEAK
    return (walk[_BROWN_LEAK:] - drift).astype(np.float64)


def _hum(length: int, rate_hz: int, seed: str) -> Wave:
    """Mains hum with four harmonics under a little white noise."""
    time = np.arange(length) / rate_hz
    wave = np.zeros(length)
    for harmonic in range(1, 6):
        wave += np.sin(2 * np.pi * _HUM_HZ * harmonic * time) / harmonic
    return wave + _white(length, rate_hz, seed) / 2**19


def _beeps(length: int, rate_hz: int, seed: str) -> Wave:
    """Tones of 300..3 372 Hz, one every 0.2 s, every third one silent."""
    step = max(1, int(_BEEP_S * rate_hz))
    count = -(-length // step)
    pitches = 300 + (_integers(count, seed) & 3) * 1024
    loud = np.arange(count) % 3 != 2  # noqa: PLR2004 - the third of three
    time = np.arange(step) / rate_hz
    tones = np.sin(2 * np.pi * pitches[:, None] * time) * loud[:, None]
    wave: Wave = tones.reshape(-1)[:length]
    return wave


def _clicks(length: int, rate_hz: int, seed: str) -> Wave:
    """Decaying clicks, eight a second, over faint white noise."""
    spacing = max(1, rate_hz // 8)
    position = np.arange(length) % spacing
    return _white(length, rate_hz, seed) * (0.01 + 0.995 ** np.minimum(position, 4000))


def _sweep(length: int, rate_hz: int, seed: str) -> Wave:
    """A sine that rises from 100 Hz over one to three octaves a second, then starts again."""
    octaves = 1 + int(_integers(1, seed)[0]) % 3
    time = np.arange(length) / rate_hz % 1.0
    phase = 2 * np.pi * 100 / (octaves * np.log(2)) * (2.0 ** (octaves * time) - 1)
    wave: Wave = np.sin(phase)
    return wave


_KINDS: dict[str, Callable[[int, int, str], Wave]] = {
    "silence": _silence,
    "white": _white,
    "pink": _pink,
    "brown": _brown,
    "hum": _hum,
    "beeps": _beeps,
    "clicks": _clicks,
    "sweep": _sweep,
}
