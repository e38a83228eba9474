"""Windows of sound as samples, made noises, speakers' turns."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.runtime import sounds
from edgekit.toolchain.noise import noise, noise_kinds
from edgekit.toolchain.readers import read_samples
from edgekit.toolchain.readers.sounds import label_of, parse_lab, parse_rttm
from edgekit.wire.errors import ConfigError

RATE = 16000


@pytest.fixture
def folder(tmp_path):
    """Four seconds: silence, then a loud second, then two quiet ones; turns beside it."""
    samples = np.concatenate([np.zeros(RATE), np.full(RATE, 0.5), np.full(2 * RATE, 0.01)])
    (tmp_path / "a.wav").write_bytes(sounds.encode_wav(samples.astype(np.float32), RATE))
    (tmp_path / "a.rttm").write_text("SPEAKER a 1 1.0 1.2 <NA> <NA> one <NA> <NA>\n")
    (tmp_path / "a.lab").write_text("0.9\t0.9\tspeech\n2.3\t2.3\tsilence\n")
    return tmp_path


def read(root, **options):
    return list(read_samples("sounds", root, {"include": ["*.wav"], **options}, {}))


def test_windows_have_the_turns_labels(folder):
    found = read(folder, window_s=1.0, segments=".rttm")
    # Second 2 is speech for 0.2 of it: neither.
    assert [(s.name, s.label) for s in found] == [
        ("a.wav@0.000s", 0),
        ("a.wav@1.000s", 1),
        ("a.wav@3.000s", 0),
    ]
    assert all(s.suffix == ".wav" for s in found)
    assert len(sounds.decode(found[0].data, rate_hz=RATE)) == RATE


def test_a_label_track_holds_until_the_next_entry(folder):
    assert [s.label for s in read(folder, window_s=1.0, segments=".lab")] == [0, 1, 0]


def test_pauses_of_a_speech_file_are_left_out(folder):
    assert [s.name for s in read(folder, window_s=1.0, label=1)] == ["a.wav@1.000s"]
    assert len(read(folder, window_s=1.0, label=0)) == 4


def test_a_short_rest_is_left_out_and_a_long_one_kept(folder):
    assert len(read(folder, window_s=1.9)) == 2
    assert len(read(folder, window_s=1.5)) == 3
    assert len(read(folder, window_s=0)) == 1


def test_noise_has_the_level_that_its_name_says(folder):
    clean, noisy = read(folder, window_s=1.0, noise=["clean", "white@6"])[2:4]
    assert noisy.name == "a.wav@1.000s+white@6"
    added = sounds.decode(noisy.data, rate_hz=RATE) - sounds.decode(clean.data, rate_hz=RATE)
    level = 20 * np.log10(0.5 / np.sqrt(np.mean(added**2)))
    assert level == pytest.approx(6, abs=0.1)


def test_most_windows_are_spread_over_files_and_leave_silence_out(folder):
    assert [s.name for s in read(folder, window_s=1.0, most=2)] == ["a.wav@1.000s", "a.wav@2.000s"]
    loud = np.sin(np.arange(3 * RATE, dtype=np.float32))
    for name in "bcd":
        (folder / f"{name}.wav").write_bytes(sounds.encode_wav(loud, RATE))
    found = read(folder, window_s=0.5, most=8)
    assert [s.name.partition("@")[0] for s in found] == [f"{n}.wav" for n in "aabbccdd"]
    assert [s.name for s in read(folder, window_s=1.0, most=2)] == ["a.wav@1.000s", "c.wav@0.000s"]
    (folder / "a.wav").write_bytes(sounds.encode_wav(np.zeros(RATE, np.float32), RATE))
    with pytest.raises(ConfigError, match="digital silence"):
        read(folder, include=["a.wav"], most=2)


def test_windows_as_arrays_of_a_models_shape(folder):
    found = read(folder, shape=[1, 30000])
    arrays = [np.load(io.BytesIO(s.data)) for s in found]
    assert [a.shape for a in arrays] == [(1, 30000), (1, 30000)]
    assert {(s.suffix, str(a.dtype)) for s, a in zip(found, arrays, strict=True)} == {
        (".npy", "float32")
    }
    # 4 s are two windows and 4000 samples, less than half of one.
    assert arrays[0][0, 20000] == pytest.approx(0.5, abs=1e-4)
    (long,) = read(folder, shape=[1, 1, 100000])
    whole = np.load(io.BytesIO(long.data))
    assert whole.shape == (1, 1, 100000)
    assert not whole[0, 0, 4 * RATE :].any()
    (free,) = read(folder, shape=[0], window_s=10)
    assert np.load(io.BytesIO(free.data)).shape == (4 * RATE,)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"noise": ["loud"]}, "loud"),
        ({"noise": ["pinc@10"]}, "pinc"),
        ({"noise": ["pink@999"]}, "dB"),
        ({"segments": ".rttm", "label": 1}, "not both"),
        ({"segments": ".txt"}, "segments"),
        ({"window": 1}, "window"),
        ({"shape": [2, 512]}, "shape"),
        ({"shape": [1, -1]}, "shape"),
        ({"include": ["*.mp3"]}, "mp3"),
    ],
)
def test_wrong_options_are_named(folder, options, words):
    with pytest.raises(ConfigError, match=words):
        read(folder, **options)


def test_missing_or_malformed_turns_name_their_file(folder):
    (folder / "a.rttm").write_text("SPEAKER a 1 start end\n")
    with pytest.raises(ConfigError, match="line 1") as caught:
        read(folder, segments=".rttm")
    assert caught.value.where.endswith("a.rttm")
    (folder / "a.lab").unlink()
    with pytest.raises(ConfigError, match="no segments"):
        read(folder, segments=".lab")


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_parsed_or_refused(text):
    for parse in (parse_rttm, parse_lab):
        try:
            spans = parse(text)
        except ConfigError:
            continue
        assert all(len(span) == 2 for span in spans)


def test_turns_are_parsed():
    assert parse_rttm(";; note\nSPEAKER x 1 0.5 1.5 <NA> <NA> a <NA> <NA>\n") == [(0.5, 2.0)]
    assert parse_lab("1 1 speech\n2 2 silence\n3 3 speech\n") == [(1.0, 2.0), (3.0, np.inf)]


def test_overlapping_turns_count_once():
    assert label_of([(0, 0.3), (0.1, 0.4), (0.2, 0.3)], 0, 1) is None
    assert label_of([(0, 0.3), (0.1, 0.5)], 0, 1) == 1
    assert label_of([(0, 0.1)], 0, 1) == 0
    assert label_of([], 0, 1) == 0


@pytest.mark.parametrize("kind", noise_kinds())
def test_noises_have_level_one_and_the_asked_length(kind):
    wave = noise(kind, 12345, RATE, "a")
    assert wave.shape == (12345,)
    assert wave.dtype == np.float32
    level = np.sqrt(np.mean(wave.astype(np.float64) ** 2))
    assert level == pytest.approx(0 if kind == "silence" else 1, abs=1e-5)
    assert np.isfinite(wave).all()


def test_noises_are_the_same_everywhere():
    def digest(kind: str) -> str:
        wave = noise(kind, 4000, RATE, "fixed")
        return hashlib.sha256(np.rint(wave * 1000).astype("<i4").tobytes()).hexdigest()[:16]

    # Integers until the last division: no CPU and no version of numpy gives others.
    assert {k: digest(k) for k in ("white", "pink", "brown")} == {
        "white": "47695dc963da561a",
        "pink": "6229f7ec3633aa24",
        "brown": "bb81979b8681124b",
    }


def test_another_seed_is_another_noise():
    first = list(read_samples("noises", None, {"seed": 0}, {}))
    again = list(read_samples("noises", None, {"seed": 0}, {}))
    other = list(read_samples("noises", None, {"seed": 1}, {}))
    assert first == again
    assert len(first) == 1 + 7 * 3 * 2
    assert all(s.label == 0 for s in first)
    shared = {s.sha256 for s in first} & {s.sha256 for s in other}
    # Silence has no seed; hum, beeps and sweeps have few forms.
    assert len(shared) < len(first) // 2


def test_an_unknown_noise_is_named():
    with pytest.raises(ConfigError, match="whit") as caught:
        list(read_samples("noises", None, {"kinds": ["whit"]}, {}))
    assert "white" in caught.value.hint
