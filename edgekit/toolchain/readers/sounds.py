"""Windows of sound files as samples, with speech or not as the label, clean or under noise.

Options:
    include, exclude, take: Which files; as the reader ``files`` has them.
    rate_hz: Sample rate of the samples, default 16000.
    window_s: Length of a window, default 1.024; windows do not overlap, and the rest of a file
        that is shorter than half a window is left out. 0 takes each file whole.
    segments: Suffix of the file beside each sound that says when somebody speaks: ``".rttm"``
        (NIST rich transcription) or ``".lab"`` (start, end, ``speech`` or ``silence``: each holds
        until the next). A window of which at least half is speech gets label 1, at most a tenth
        label 0; the ones between are left out, as nobody could say which is right.
    label: 0 or 1 for every window, instead of ``segments``. With 1, windows below a tenth of the
        file's loudest window are left out: they are pauses.
    noise: How each window is heard: ``"clean"``, or a noise and the ratio of the file's level to
        it in dB: ``"pink@10"``. Default ``["clean"]``; several give several samples a window.
    most: Most windows, taken evenly over the files and within each; then windows of digital silence
        are left out. 0, the default, takes all.
    shape: What a model is fed, ``[1, 512]``: a sample is an array for the task ``tensors``. The
        last number is the window's length in samples, instead of ``window_s``, and a shorter window
        is filled up with silence; 0 leaves each as long as it is.

A sample is a WAV file of 16-bit PCM, or float32 in an .npy file where ``shape`` is given; its name
ends with the window's start and its noise.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.runtime import sounds
from edgekit.runtime.options import Options
from edgekit.toolchain.noise import noise
from edgekit.toolchain.readers import Sample
from edgekit.toolchain.readers.files import chosen_paths
from edgekit.toolchain.readers.files_by_type import spread
from edgekit.wire.errors import ConfigError

MAX_FILE_BYTES = 256 << 20
MAX_SEGMENTS_BYTES = 4 << 20
SPEECH_SHARE = 0.5
SILENCE_SHARE = 0.1
QUIET = 0.1
MAX_WINDOW = 1 << 24

Spans = list[tuple[float, float]]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Condition:
    """How a window is heard.

    Attributes:
        noise: Kind of noise, or None for the clean sound.
        snr_db: Level of the file over that of the noise.
    """

    noise: str | None
    snr_db: float

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Parse ``clean`` or ``pink@10``.

        Raises:
            ConfigError: Anything else.
        """
        if text == "clean":
            return cls(None, 0.0)
        kind, _, level = text.partition("@")
        try:
            condition = cls(kind, float(level))
        except ValueError as error:
            raise ConfigError(f'the noise "{text}"', hint='"clean" or "pink@10"') from error
        noise(kind, 0, sounds.MIN_RATE_HZ, "")
        if not -60 <= condition.snr_db <= 100:  # noqa: PLR2004 - decibels that make sense
            raise ConfigError(f'the noise "{text}" is not within -60 to 100 dB')
        return condition


def read(
    root: Path | None,
    options: Mapping[str, Any],
    extra: Mapping[str, Path],  # noqa: ARG001
) -> Iterator[Sample]:
    """Cut sound files into windows; see the module's text for the options.

    Raises:
        ConfigError: An option is wrong, nothing matches, or a file cannot be read.
    """
    opts = Options(options, "reader sounds")
    paths = chosen_paths(root, opts)
    rate_hz = int(opts.within("rate_hz", sounds.MIN_RATE_HZ, sounds.MAX_RATE_HZ, 16000))
    window = int(opts.within("window_s", 0, sounds.MAX_DURATION_S, 1.024) * rate_hz)
    suffix = opts.choice("segments", (".rttm", ".lab")) if opts.has("segments") else None
    label = int(opts.within("label", 0, 1)) if opts.has("label") else None
    conditions = [Condition.parse(text) for text in opts.strings("noise", ("clean",))]
    most = int(opts.within("most", 0, 1 << 20, 0))
    shape = _shape(opts)
    opts.close()
    if suffix and label is not None:
        raise ConfigError('reader sounds takes "segments" or "label", not both')
    window = (shape[-1] if shape else 0) or window
    paths = spread(paths, most) if most else paths
    silent = bool(most)
    for name, path in paths:
        samples = _load(path, rate_hz)
        spans = _spans(path.with_suffix(suffix)) if suffix else None
        loudness = _loudness(samples, window or len(samples))
        level = max(loudness.values(), default=0.0)
        for start, loud in _chosen(loudness, -(-most // len(paths))):
            silent = False
            part = samples[start : start + (window or len(samples))]
            truth = label
            if spans is not None:
                truth = label_of(spans, start / rate_hz, (start + len(part)) / rate_hz)
                if truth is None:
                    continue
            elif label == 1 and loud < QUIET * level:
                continue
            for condition in conditions:
                tag, heard = _heard(name, part, start, rate_hz, condition, level)
                if shape:
                    yield Sample(tag, _array(heard, shape), ".npy", truth)
                else:
                    yield Sample(tag, sounds.encode_wav(heard, rate_hz), ".wav", truth)
    if silent:
        raise ConfigError("all sounds are digital silence", where=str(root))


def label_of(spans: Spans, start_s: float, end_s: float) -> int | None:
    """Return 1 if a window is speech, 0 if it is not, None if it is neither clearly.

    Args:
        spans: When somebody speaks, in seconds; they may overlap.
        start_s: Start of the window.
        end_s: End of the window.
    """
    covered, reached = 0.0, start_s
    for first, last in sorted(spans):
        begin, end = max(first, reached), min(last, end_s)
        if end > begin:
            covered += end - begin
            reached = end
    share = covered / (end_s - start_s) if end_s > start_s else 0.0
    return 1 if share >= SPEECH_SHARE else 0 if share <= SILENCE_SHARE else None


def parse_rttm(text: str) -> Spans:
    """Read the speaker turns of a NIST RTTM file.

    Raises:
        ConfigError: A line is not of that form.
    """
    spans = []
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields or fields[0] != "SPEAKER":
            continue
        try:
            start, length = float(fields[3]), float(fields[4])
        except (IndexError, ValueError) as error:
            raise ConfigError(f"line {number} is not a speaker's turn") from error
        spans.append((start, start + length))
    return spans


def parse_lab(text: str) -> Spans:
    """Read a label track whose entries hold until the next one; the last to the end.

    Raises:
        ConfigError: A line is not a start, an end and a word.
    """
    marks: list[tuple[float, bool]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        try:
            marks.append((float(fields[0]), fields[2] == "speech"))
        except (IndexError, ValueError) as error:
            raise ConfigError(f"line {number} is not a start, an end and a word") from error
    ends = [start for start, _ in marks[1:]] + [float("inf")]
    return [(start, end) for (start, speech), end in zip(marks, ends, strict=False) if speech]


def _spans(path: Path) -> Spans:
    try:
        if path.stat().st_size > MAX_SEGMENTS_BYTES:
            raise ConfigError("the file is over 4 MiB", where=str(path))
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError(f"no segments beside the sound: {error}", where=str(path)) from error
    try:
        return parse_rttm(text) if path.suffix == ".rttm" else parse_lab(text)
    except ConfigError as error:
        raise ConfigError(error.message, hint=error.hint, where=str(path)) from error


def _load(path: Path, rate_hz: int) -> sounds.Samples:
    try:
        large = path.stat().st_size > MAX_FILE_BYTES
        data = b"" if large else path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error}", where=str(path)) from error
    if large:
        raise ConfigError("the file is over 256 MiB", where=str(path))
    try:
        return sounds.decode(data, rate_hz=rate_hz)
    except ConfigError as error:
        raise ConfigError(error.message, hint=error.hint, where=str(path)) from error


def _loudness(samples: sounds.Samples, window: int) -> dict[int, float]:
    """Return the root mean square of each window by its first sample."""
    return {
        start: float(np.sqrt(np.mean(samples[start : start + window].astype(np.float64) ** 2)))
        for start in range(0, len(samples), window)
        if start == 0 or len(samples) - start >= window / 2
    }


def _chosen(loudness: Mapping[int, float], each: int) -> list[tuple[int, float]]:
    """Take a number of one file's windows; all of them for 0."""
    if not each:
        return list(loudness.items())
    # Digital silence is the same everywhere: it says nothing, and would stand in both halves.
    return spread([(start, loud) for start, loud in loudness.items() if loud > 0], each)


def _heard(
    name: str,
    part: sounds.Samples,
    start: int,
    rate_hz: int,
    condition: Condition,
    level: float,
) -> tuple[str, sounds.Samples]:
    tag = f"{name}@{start / rate_hz:.3f}s"
    if condition.noise is None:
        return tag, part
    tag += f"+{condition.noise}@{condition.snr_db:g}"
    gain = level * 10 ** (-condition.snr_db / 20)
    return tag, part + np.float32(gain) * noise(condition.noise, len(part), rate_hz, tag)


def _shape(options: Options) -> Shape:
    if not options.has("shape"):
        return ()
    shape = tuple(int(n) for n in options.numbers("shape"))
    if min(shape) < 0 or shape[-1] > MAX_WINDOW or set(shape[:-1]) - {1}:
        raise ConfigError(
            f'reader sounds: "shape" is {list(shape)}',
            hint="ones, and the window's length at the end: [1, 512]",
        )
    return shape


def _array(heard: sounds.Samples, shape: Shape) -> bytes:
    filled = np.pad(heard, (0, max(shape[-1] - len(heard), 0))).astype(np.float32)
    buffer = io.BytesIO()
    np.save(buffer, filled.reshape(*shape[:-1], -1))
    return buffer.getvalue()
