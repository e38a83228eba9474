"""Decoding and resampling of sound."""

from __future__ import annotations

import contextlib
import io
import struct
import tracemalloc
import wave

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.runtime import sounds
from edgekit.wire.errors import ConfigError, EdgekitError


def wav(raw: bytes, *, rate: int = 16000, channels: int = 1, width: int = 2) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(raw)
    return buffer.getvalue()


def sine(frequency: float, rate: int, seconds: float = 0.5) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate).astype(np.float32)


@pytest.mark.parametrize(
    ("raw", "width", "expected"),
    [
        (bytes([0, 128, 255]), 1, [-1.0, 0.0, 127 / 128]),
        (struct.pack("<3h", -32768, 0, 32767), 2, [-1.0, 0.0, 32767 / 32768]),
        (b"\x00\x00\x80\x00\x00\x00\xff\xff\x7f", 3, [-1.0, 0.0, 1 - 2**-23]),
        (struct.pack("<3i", -(2**31), 0, 2**30), 4, [-1.0, 0.0, 0.5]),
    ],
)
def test_integers_of_every_width_run_from_minus_one_to_one(raw, width, expected):
    found = sounds.decode(wav(raw, width=width), rate_hz=16000)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_channels_are_averaged():
    raw = struct.pack("<4h", 1000, 3000, -32768, 32767)
    found = sounds.decode(wav(raw, channels=2), rate_hz=16000)
    np.testing.assert_allclose(found, [2000 / 32768, -0.5 / 32768], atol=1e-9)


@settings(deadline=None)
@given(st.lists(st.integers(-32768, 32767), min_size=1, max_size=500))
def test_what_is_written_is_read_back(values):
    samples = np.array(values, dtype=np.float32) / 32768
    np.testing.assert_array_equal(
        sounds.decode(sounds.encode_wav(samples, 16000), rate_hz=16000), samples
    )


def test_values_beyond_full_scale_are_clipped():
    found = sounds.decode(sounds.encode_wav(np.array([2, -2], np.float32), 8000), rate_hz=8000)
    np.testing.assert_allclose(found, [32767 / 32768, -1])


def test_a_header_that_counts_a_little_too_much_is_no_cut_file():
    data = wav(struct.pack("<1000h", *range(1000)))
    assert len(sounds.decode(data[:-4], rate_hz=16000)) == 998


def test_a_cut_file_is_refused():
    data = wav(struct.pack("<100h", *range(100)))
    with pytest.raises(ConfigError, match="cut off: it holds 75 of 100 samples"):
        sounds.decode(data[:-50], rate_hz=16000)


@pytest.mark.parametrize("size", [0xFFFF_FFFF, 0x7FFF_FFFF, 0x7FFF_FFFE])
def test_a_file_that_was_written_into_a_pipe_says_no_length(size):
    data = wav(struct.pack("<100h", *range(100)))
    at = data.index(b"data") + 4
    piped = data[:at] + struct.pack("<I", size) + data[at + 4 :]
    assert len(sounds.decode(piped, rate_hz=16000)) == 100


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_decoded_or_refused_by_an_error_of_ours(data):
    with contextlib.suppress(EdgekitError):
        assert sounds.decode(data, rate_hz=16000).dtype == np.float32


@settings(deadline=None)
@given(st.integers(0, 43), st.binary(min_size=1, max_size=4))
def test_a_damaged_header_is_decoded_or_refused_by_an_error_of_ours(place, junk):
    data = bytearray(wav(bytes(400)))
    data[place : place + len(junk)] = junk
    with contextlib.suppress(EdgekitError):
        # 400 bytes at 1 kHz are at most 6 400 samples of 16 kHz.
        assert len(sounds.decode(bytes(data), rate_hz=16000)) <= 6400


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (wav(b""), "empty"),
        (wav(bytes(64), rate=300), "sample rate"),
        (wav(bytes(65 * 2), channels=65), "65 channels"),
        (b"RIFF\x04\x00\x00\x00WAVE", "WAV"),
    ],
)
def test_unfit_sounds_are_refused(data, words):
    with pytest.raises(ConfigError, match=words):
        sounds.decode(data, rate_hz=16000)


def test_a_long_sound_is_refused():
    with pytest.raises(ConfigError, match="longer than 1 s"):
        sounds.decode(wav(bytes(2 * 16001)), rate_hz=16000, max_duration_s=1)


def test_a_small_file_that_would_fill_the_memory_is_refused():
    soundfile = pytest.importorskip("soundfile")
    buffer = io.BytesIO()
    silence = np.zeros((192000 * 20, 8), dtype=np.int16)
    soundfile.write(buffer, silence, 192000, format="FLAC", subtype="PCM_16")
    assert len(buffer.getvalue()) < 1 << 20
    with pytest.raises(ConfigError, match="values"):
        sounds.decode(buffer.getvalue(), rate_hz=16000, max_values=1 << 24)


def test_other_formats_go_through_soundfile():
    soundfile = pytest.importorskip("soundfile")
    tone = sine(440, 16000) / 2
    buffer = io.BytesIO()
    soundfile.write(buffer, tone, 16000, format="FLAC", subtype="PCM_16")
    np.testing.assert_allclose(sounds.decode(buffer.getvalue(), rate_hz=16000), tone, atol=1e-4)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 24000, 44100, 48000])
def test_a_tone_keeps_its_pitch_and_level(rate):
    middle = slice(1000, 7000)
    found = sounds.resample(sine(1000, rate), rate, 16000)
    np.testing.assert_allclose(found[middle], sine(1000, 16000)[middle], atol=2e-3)


def test_a_tone_above_the_new_nyquist_frequency_is_gone():
    found = sounds.resample(sine(11000, 48000), 48000, 16000)
    assert np.abs(found[500:-500]).max() < 0.01


@settings(deadline=None)
@given(
    st.integers(0, 3000),
    st.sampled_from([1000, 8000, 11025, 16000, 22050, 44100, 47999, 192000]),
    st.sampled_from([8000, 16000, 44100]),
)
def test_length_and_a_constant_survive(length, from_hz, to_hz):
    found = sounds.resample(np.full(length, 0.25, dtype=np.float32), from_hz, to_hz)
    assert len(found) == -(-length * to_hz // from_hz)
    assert found.dtype == np.float32
    edge = 40 * max(1, to_hz // from_hz + 1)
    np.testing.assert_allclose(found[edge:-edge], 0.25, atol=1e-4)


def test_rates_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="sample rate of 999 Hz"):
        sounds.resample(np.zeros(4, np.float32), 999, 16000)


def test_a_small_file_of_long_silence_takes_bounded_memory() -> None:
    soundfile = pytest.importorskip("soundfile")
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", 192_000, 1, format="FLAC") as file:
        for _ in range(120):
            file.write(np.zeros(192_000, dtype=np.int16))
    tracemalloc.start()
    try:
        decoded = sounds.decode(buffer.getvalue(), rate_hz=16_000, max_duration_s=600)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(buffer.getvalue()) < 1 << 20
    assert decoded.shape == (120 * 16_000,)
    # As float32, and once more while its rate is changed.
    assert peak < 2.5 * 4 * 120 * 192_000


def test_a_sound_that_would_not_fit_a_board_is_refused() -> None:
    soundfile = pytest.importorskip("soundfile")
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", 192_000, 1, format="FLAC") as file:
        for _ in range(180):
            file.write(np.zeros(192_000, dtype=np.int16))
    with pytest.raises(ConfigError, match="million samples"):
        sounds.decode(buffer.getvalue(), rate_hz=16_000, max_duration_s=600)
