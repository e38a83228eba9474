"""Say where in a sound somebody speaks: a probability a frame, and segments (Silero VAD 5 and 6).

Options:
    input, state: Names of the model's inputs: a frame with the samples before it, and the state
        that it hands from frame to frame. Default ``"input"`` and ``"state"``.
    output, next_state: Names of its outputs. Default ``"output"`` and ``"stateN"``.
    state_shape: Of the state; default ``[2, 1, 128]``.
    sample_rate_hz: Default 16000.
    frame: New samples a call, default 512; the last frame is filled up with silence.
    context: Samples before the frame that are fed again, default 64.
    threshold: A frame at or above it is speech; default 0.5.
    release: Speech ends below it; default 0.15 under the threshold, and at least 0.01.
    min_speech_ms: Shorter segments are dropped, default 250.
    min_silence_ms: A segment ends after that much silence, default 100.
    pad_ms: Added to both sides of a segment, default 30.
    max_duration_s: A longer sound is refused, default 600.

The segments are those of ``get_speech_timestamps`` in the package silero-vad, without its limit on
a segment's length. A sample is a sound file: PCM in a WAV file, or what soundfile reads. Channels
are averaged; another rate is converted with a windowed sinc.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.runtime import sounds
from edgekit.runtime.options import Options
from edgekit.runtime.session import Run
from edgekit.runtime.tasks import Agreement, Prediction
from edgekit.wire.errors import BuildError, ConfigError

# Hysteresis between the start and the end of speech, as upstream has it.
_RELEASE_BELOW = 0.15
_MIN_RELEASE = 0.01


@dataclass(frozen=True)
class Segmenting:
    """How frames become segments; lengths in samples.

    Attributes:
        frame: New samples a frame.
        threshold: Speech starts at it.
        release: Speech ends below it.
        min_speech: Shorter segments are dropped.
        min_silence: A segment ends after that much silence.
        pad: Added to both sides.
    """

    frame: int
    threshold: float
    release: float
    min_speech: float
    min_silence: float
    pad: float

    def segments(self, probabilities: Sequence[float], length: int) -> list[tuple[int, int]]:
        """Turn probabilities into segments.

        Args:
            probabilities: One a frame, 0..1.
            length: Of the sound, in samples.

        Returns:
            Start and end of each, in samples, in order and without overlap.
        """
        return self._padded(self._raw(probabilities, length), length)

    def _raw(self, probabilities: Sequence[float], length: int) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        start: int | None = None
        silent_since: int | None = None
        for index, probability in enumerate(probabilities):
            now = index * self.frame
            if probability >= self.threshold:
                silent_since = None
                if start is None:
                    start = now
            elif start is not None and probability < self.release:
                silent_since = now if silent_since is None else silent_since
                if now - silent_since >= self.min_silence:
                    if silent_since - start > self.min_speech:
                        found.append((start, silent_since))
                    start = silent_since = None
        if start is not None and length - start > self.min_speech:
            found.append((start, length))
        return found

    def _padded(self, found: list[tuple[int, int]], length: int) -> list[tuple[int, int]]:
        starts = [start for start, _ in found]
        ends = [end for _, end in found]
        for index in range(len(found)):
            if index == 0:
                starts[0] = int(max(0, starts[0] - self.pad))
            if index == len(found) - 1:
                ends[index] = int(min(length, ends[index] + self.pad))
                continue
            gap = starts[index + 1] - ends[index]
            # Neighbours share a gap that is too short for both pads.
            pad = gap // 2 if gap < 2 * self.pad else self.pad
            ends[index] = int(min(length, ends[index] + pad))
            starts[index + 1] = int(max(0, starts[index + 1] - pad))
        return list(zip(starts, ends, strict=True))


@dataclass(frozen=True)
class DetectSpeech:
    """The task; see the module's text for the options.

    Attributes:
        names: Of the model's inputs and outputs, by the options' names.
        state_shape: Of the state.
        rate_hz: Sample rate of the model.
        context: Samples before a frame that are fed again.
        segmenting: How frames become segments.
        max_duration_s: A longer sound is refused.
    """

    names: Mapping[str, str]
    state_shape: tuple[int, ...]
    rate_hz: int
    context: int
    segmenting: Segmenting
    max_duration_s: float

    def predict(self, run: Run, data: bytes) -> Prediction:
        """Run the model over one sound, frame by frame.

        Returns:
            ``{"frames": [probability, …], "segments": [{"start_s", "end_s"}, …]}``; probabilities
            run 0..1 and are rounded to 6 decimals, seconds to 3.

        Raises:
            ConfigError: Not a sound, empty or too long.
            BuildError: The model's outputs do not fit.
        """
        samples = sounds.decode(data, rate_hz=self.rate_hz, max_duration_s=self.max_duration_s)
        frames = [round(p, 6) for p in self._probabilities(run, samples)]
        return {
            "frames": frames,
            "segments": [
                {"start_s": round(start / self.rate_hz, 3), "end_s": round(end / self.rate_hz, 3)}
                for start, end in self.segmenting.segments(frames, len(samples))
            ],
        }

    def _probabilities(self, run: Run, samples: sounds.Samples) -> list[float]:
        frame, names = self.segmenting.frame, self.names
        missing = -len(samples) % frame
        padded = np.concatenate([np.zeros(self.context), samples, np.zeros(missing)])
        padded = padded.astype(np.float32)
        state = np.zeros(self.state_shape, dtype=np.float32)
        probabilities = []
        for start in range(0, len(samples) + missing, frame):
            window = padded[None, start : start + self.context + frame]
            outputs = run({names["input"]: window, names["state"]: state})
            try:
                probabilities.append(float(outputs[names["output"]].reshape(-1)[0]))
                state = outputs[names["next_state"]]
            except (KeyError, IndexError) as error:
                raise BuildError(
                    f"the model does not give {names['output']} and {names['next_state']}",
                    hint=f"outputs: {', '.join(outputs)}",
                ) from error
        return probabilities

    def agreement(self, reference: Sequence[Prediction], other: Sequence[Prediction]) -> Agreement:
        """Compare the decision speech or not, frame by frame.

        Returns:
            ``frame_agreement``; a sample's score is its share of equal frames.
        """
        scores = tuple(
            self._equal_share(a["frames"], b["frames"])
            for a, b in zip(reference, other, strict=True)
        )
        return Agreement("frame_agreement", float(np.mean(scores)) if scores else 1.0, scores)

    def _equal_share(self, reference: Sequence[float], other: Sequence[float]) -> float:
        threshold = self.segmenting.threshold
        equal = sum(
            (a >= threshold) == (b >= threshold) for a, b in zip(reference, other, strict=False)
        )
        return equal / max(len(reference), len(other), 1)


def create(options: Mapping[str, Any], files: Mapping[str, bytes]) -> DetectSpeech:  # noqa: ARG001
    """Make the task.

    Raises:
        ConfigError: An option is missing, wrong or unknown.
    """
    opts = Options(options, "detect-speech")
    rate_hz = int(opts.within("sample_rate_hz", sounds.MIN_RATE_HZ, sounds.MAX_RATE_HZ, 16000))
    threshold = opts.within("threshold", 0, 1, 0.5)
    state_shape = tuple(int(d) for d in opts.numbers("state_shape", (2, 1, 128)))
    if not all(1 <= d <= 1 << 16 for d in state_shape) or np.prod(state_shape) > 1 << 24:
        raise ConfigError('detect-speech: "state_shape" must hold small positive numbers')
    per_ms = rate_hz / 1000
    task = DetectSpeech(
        names={
            key: opts.get(key, str, default)
            for key, default in (
                ("input", "input"),
                ("state", "state"),
                ("output", "output"),
                ("next_state", "stateN"),
            )
        },
        state_shape=state_shape,
        rate_hz=rate_hz,
        context=int(opts.within("context", 0, 1 << 16, 64)),
        segmenting=Segmenting(
            frame=int(opts.within("frame", 1, 1 << 20, 512)),
            threshold=threshold,
            release=opts.within("release", 0, 1, max(threshold - _RELEASE_BELOW, _MIN_RELEASE)),
            min_speech=opts.within("min_speech_ms", 0, 60_000, 250) * per_ms,
            min_silence=opts.within("min_silence_ms", 0, 60_000, 100) * per_ms,
            pad=opts.within("pad_ms", 0, 10_000, 30) * per_ms,
        ),
        max_duration_s=opts.within("max_duration_s", 0.001, sounds.MAX_DURATION_S, 600),
    )
    opts.close()
    return task
