"""``edgekit quantize`` on folders of sounds and of texts, and on samples that will not do."""

from __future__ import annotations

import io
import wave
import zipfile

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

from edgekit.runtime import sounds

from .quantize_net import (
    RATE,
    Net,
    fill_texts,
    heard,
    refusing,
    save_sound_model,
    save_text_model,
    tokenizer_json,
)


@pytest.fixture
def refuses(edgekit):
    """Run a line that must fail; check what it says and that nothing is written."""
    return refusing(edgekit)


@pytest.fixture
def sound(tmp_path):
    """A model of windows of 512 samples, with four sounds beside it."""
    net = Net(tmp_path / "sound")
    save_sound_model(net, [1, 512])
    for index in range(4):
        (net.data / f"{index}.wav").write_bytes(sounds.encode_wav(heard(index), RATE))
    return net


@pytest.fixture
def text(tmp_path):
    """A model of token ids, its tokenizer, and 40 texts in two files."""
    net = Net(tmp_path / "text")
    save_text_model(net)
    (net.folder / "tokenizer.json").write_text(tokenizer_json())
    fill_texts(net.data)
    return net


def test_windows_of_sounds(sound, edgekit):
    ran = edgekit(*sound.line("--json", "--allow-slower"))
    assert ran.code == 0, ran.out + ran.err
    data = ran.document["data"]
    # 0.6 s are 18.75 windows of 512 samples; the last part is more than half of one.
    assert (data["calibration"]["n"], data["evaluation"]["n"]) == (38, 38)
    assert data["read_as"] == "sounds at 16000 Hz, one channel, in windows of 512 samples"
    assert ran.document["measurements"][0]["metric"] == "output_cosine"
    assert ran.document["fixed_inputs"] == {}
    said = edgekit(*sound.line("--allow-slower"))
    assert "read as sounds at 16000 Hz, one channel, in windows of 512 samples" in said.out
    ran = edgekit(*sound.line("--json", "--allow-slower", "--sample-rate", "8000"))
    assert ran.code == 0, ran.out + ran.err
    assert ran.document["data"]["calibration"]["n"] == 18
    assert "at 8000 Hz" in ran.document["data"]["read_as"]


@pytest.mark.parametrize("shape", [["n"], ["batch", "samples"], [1, 1, "samples"]])
def test_whole_sounds_where_the_length_is_dynamic(sound, edgekit, shape):
    save_sound_model(sound, shape)
    for index in range(32):
        (sound.data / f"{index:02d}.wav").write_bytes(
            sounds.encode_wav(heard(index, 0.1 + index / 100), RATE)
        )
    ran = edgekit(*sound.line("--json", "--allow-slower"))
    assert ran.code == 0, ran.out + ran.err
    assert ran.document["data"]["evaluation"]["n"] == 18
    assert "in windows of up to 160000 samples" in ran.document["data"]["read_as"]


def test_the_sample_rate_becomes_a_constant(sound, edgekit):
    save_sound_model(sound, [1, 512], rate_input=True)
    ran = edgekit(*sound.line("--json", "--allow-slower"))
    assert ran.code == 0, ran.out + ran.err
    assert ran.document["fixed_inputs"] == {"sr": RATE}
    session = onnxruntime.InferenceSession(str(sound.out))
    assert [i.name for i in session.get_inputs()] == ["wave"]
    said = edgekit(*sound.line("--allow-slower")).out
    assert 'input "sr" is gone: it is the constant 16000 now' in said


def wav(channels=1, width=2, frames=9600, rate=RATE):
    buffer = io.BytesIO()
    values = np.repeat(heard(7, frames / rate, rate)[:frames], channels) * 2**29
    raw = values.astype("<i4").view(np.uint8).reshape(-1, 4)[:, 4 - width :]
    if width == 1:
        raw = raw ^ 128  # 8 bits are unsigned
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(raw.tobytes())
    return buffer.getvalue()


@pytest.mark.parametrize("form", [{"channels": 2}, {"width": 3}, {"width": 1}, {"rate": 44100}])
def test_any_form_of_pcm_is_taken(sound, edgekit, form):
    (sound.data / "1.wav").write_bytes(wav(**form))
    ran = edgekit(*sound.line("--json", "--allow-slower", "--min-agreement", "0"))
    assert ran.code == 0, ran.out + ran.err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a sound file"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "not a readable WAV file"),
        (np.random.default_rng(0).bytes(5000), "not a sound file"),
        (wav(frames=0), "the sound is empty"),
        (wav(rate=100), "a sample rate of 100 Hz"),
    ],
    ids=["nothing", "cut", "garbage", "empty", "rate"],
)
def test_sounds_that_will_not_do(sound, refuses, content, says):
    (sound.data / "2.wav").write_bytes(content)
    refuses(sound, code=3, says=says, where="2.wav")


def test_too_few_sounds(sound, refuses):
    for index in range(4):
        (sound.data / f"{index}.wav").write_bytes(sounds.encode_wav(heard(index, 0.1), RATE))
    few = refuses(sound, code=3, says="6 calibration samples are too few", where="samples")
    assert few["hint"] == "give more or longer sounds: each half takes 16 windows"
    for index in range(1, 4):
        (sound.data / f"{index}.wav").unlink()
    refuses(sound, code=3, says="1 sound is too few", hint="at least 2", where="samples")
    for index in range(2):
        (sound.data / f"{index}.wav").write_bytes(
            sounds.encode_wav(np.zeros(RATE, np.float32), RATE)
        )
    refuses(sound, code=3, says="digital silence", where="samples")


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ([1, 80, "frames"], "wave: float32[1, 80, frames]"),
        ([1, 40], "wave: float32[1, 40]"),
        ([2, 512], "wave: float32[2, 512]"),
        ([1, 1, 1, 512], "[1, 1, 1, 512]"),
    ],
)
def test_models_that_take_no_sound(sound, refuses, shape, says):
    save_sound_model(sound, shape)
    refuses(sound, code=3, says=says, hint=".npz", where="net.onnx")


def test_an_input_that_no_sound_tells(text, refuses):
    for path in text.data.iterdir():
        path.unlink()
    for index in range(2):
        (text.data / f"{index}.wav").write_bytes(sounds.encode_wav(heard(index), RATE))
    says = 'do not say what to feed to "input_ids", "attention_mask"'
    refuses(text, code=3, says=says, hint=".npz", where="net.onnx")


def test_lines_of_texts(text, edgekit):
    ran = edgekit(*text.line("--json", "--allow-slower"))
    assert ran.code == 0, ran.out + ran.err
    found = ran.document
    assert (found["data"]["calibration"]["n"], found["data"]["evaluation"]["n"]) == (20, 20)
    assert found["data"]["split"].startswith("every other line")
    assert found["data"]["read_as"].startswith("one text a line, cut at 256 tokens")
    assert found["precision"].startswith("int8")
    elsewhere = (text.folder / "tokenizer.json").rename(text.folder / "out" / "own.json")
    ran = edgekit(*text.line("--json", "--allow-slower", "--tokenizer", elsewhere))
    assert ran.code == 0, ran.out + ran.err
    assert ran.document["sha256"] == found["sha256"]


def test_texts_for_a_model_of_fixed_shape_and_of_int32(text, edgekit):
    save_text_model(text, dtype=TensorProto.INT32, tokens=16)
    ran = edgekit(*text.line("--json", "--allow-slower"))
    assert ran.code == 0, ran.out + ran.err
    assert ran.document["data"]["read_as"].startswith("one text a line, padded to 16 tokens")


def test_tokenizers_that_will_not_do(text, refuses):
    (text.folder / "tokenizer.json").write_text("{}")
    refuses(text, code=3, says="not a tokenizer.json", where="tokenizer.json")
    (text.folder / "tokenizer.json").unlink()
    hint = "--tokenizer"
    says = "texts need the model's tokenizer"
    refuses(text, code=3, says=says, hint=hint, where="text/tokenizer.json")
    nowhere = text.folder / "none.json"
    refuses(text, "--tokenizer", nowhere, code=3, says="no such tokenizer", where="none.json")


def test_a_model_that_takes_no_texts(text, refuses):
    save_text_model(text, more=("position_ids",))
    refuses(text, code=3, says="position_ids: int64[batch, tokens]", hint=".npz", where="net.onnx")


@pytest.mark.parametrize(
    ("content", "says", "line"),
    [
        (b"good\n\xff\xfeg\0\n", "not a text in UTF-8", 2),
        (b"good\ngood\nPK\0\0\n", "zero bytes", 3),
        (b"word1 " * (1 << 18), "over 1 MiB", 1),
    ],
    ids=["utf16", "binary", "long"],
)
def test_texts_that_will_not_do(text, refuses, content, says, line):
    (text.data / "a.txt").write_bytes(content)
    lines = "\n".join(f"word{i % 60} word{i % 7}" for i in range(40))
    (text.data / "b.txt").write_text(lines)
    refuses(text, code=3, says=says, where=f"a.txt:{line}")


def test_too_few_texts(text, refuses):
    (text.data / "b.txt").unlink()
    (text.data / "a.txt").write_text("one\n" * 40)
    refuses(text, code=3, says="1 text is too few", hint="at least 32", where="samples")
    (text.data / "a.txt").write_text("\n \n")
    refuses(text, code=3, says="0 texts are too few", where="samples")


def test_options_for_samples_of_another_kind(text, sound, refuses):
    refuses(text, "--sample-rate", "8000", code=2, says="--sample-rate is for sounds")
    refuses(sound, "--tokenizer", "t.json", code=2, says="--tokenizer is for texts")
    refuses(sound, "--sample-rate", "10", code=2, says="10")


def test_a_pickle_is_never_opened(sound, refuses, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    for path in sound.data.iterdir():
        path.unlink()
    for index in range(32):
        np.savez(sound.data / f"{index}.npz", wave=heard(index)[None, :512])
    np.savez(sound.data / "5.npz", wave=np.array([Trap()], dtype=object))
    refuses(sound, code=3, says="not an .npz or .npy of plain arrays", where="5.npz")
    np.save(sound.data / "5.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    (sound.data / "5.npz").unlink()
    refuses(sound, code=3, says="not an .npz or .npy of plain arrays", where="5.npy")
    assert not (tmp_path / "sprung").exists()
    # Nor is one beside the arrays that the model takes.
    (sound.data / "5.npy").unlink()
    np.savez(sound.data / "5.npz", wave=heard(5)[None, :512], more=np.array([Trap()], dtype=object))
    with zipfile.ZipFile(sound.data / "5.npz") as archive:
        assert "more.npy" in archive.namelist()
    assert not (tmp_path / "sprung").exists()
