"""Made sounds that are no speech: noise, hum, beeps, clicks; the same on every machine.

Options:
    kinds: Which of ``silence``, ``white``, ``pink``, ``brown``, ``hum``, ``beeps``, ``clicks`` and
        ``sweep``; default all.
    levels_db: Levels under full scale, one sample each; default ``[-50, -35, -20]``.
    each: Samples a kind and level, default 2.
    window_s: Length, default 1.024.
    rate_hz: Sample rate, default 16000.
    seed: Another number gives other sounds; calibration and evaluation need different ones.

A sample is a WAV file of 16-bit PCM with label 0. The set needs no ``uri``. Silence is silent at
every level and comes once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.runtime import sounds
from edgekit.runtime.options import Options
from edgekit.toolchain.noise import noise, noise_kinds
from edgekit.toolchain.readers import Sample


def read(
    root: Path | None,  # noqa: ARG001 - makes its own samples
    options: Mapping[str, Any],
    extra: Mapping[str, Path],  # noqa: ARG001
) -> Iterator[Sample]:
    """Make the sounds; see the module's text for the options.

    Raises:
        ConfigError: An option is wrong.
    """
    opts = Options(options, "reader noises")
    kinds = opts.strings("kinds", noise_kinds())
    levels = opts.numbers("levels_db", (-50, -35, -20))
    each = int(opts.within("each", 1, 1000, 2))
    rate_hz = int(opts.within("rate_hz", sounds.MIN_RATE_HZ, sounds.MAX_RATE_HZ, 16000))
    length = int(opts.within("window_s", 0.01, 600, 1.024) * rate_hz)
    seed = int(opts.within("seed", 0, 2**31, 0))
    opts.close()
    for kind in kinds:
        for level in levels if kind != "silence" else levels[:1]:
            for index in range(each if kind != "silence" else 1):
                name = f"{kind}{level:+g}dB-{seed}-{index}"
                wave = noise(kind, length, rate_hz, name) * np.float32(10 ** (level / 20))
                yield Sample(f"{name}.wav", sounds.encode_wav(wave, rate_hz), ".wav", 0)
