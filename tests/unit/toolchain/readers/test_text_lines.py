"""Lines of text files, tokenized."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tokenizers

from edgekit.toolchain.readers import read_samples
from edgekit.wire.errors import ConfigError

WORDS = ["[PAD]", "[UNK]", "a", "good", "film", "bad"]


@pytest.fixture
def folder(tmp_path):
    """Two files of texts, some of them twice, and a tokenizer."""
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token=WORDS[1])
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    (tmp_path / "own.json").write_text(made.to_str())
    (tmp_path / "b.txt").write_bytes(b"bad film\n \na good film")
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa good film\r\ngood\r\nother words\n")
    return tmp_path


def read(folder, **options):
    extra = {"tokenizer": folder / "own.json"}
    found = read_samples("text-lines", folder, {"include": ["*.txt"], **options}, extra)
    return {s.name: dict(np.load(io.BytesIO(s.data))) for s in found}


def test_each_line_is_what_the_model_is_fed(folder):
    found = read(folder)
    assert list(found) == ["a.txt:1", "a.txt:2", "a.txt:3", "b.txt:1"]
    assert found["a.txt:1"]["input_ids"].tolist() == [[2, 3, 4]]
    assert found["a.txt:3"]["input_ids"].tolist() == [[1, 1]]
    assert sorted(found["b.txt:1"]) == ["attention_mask", "input_ids", "token_type_ids"]
    assert {str(array.dtype) for feeds in found.values() for array in feeds.values()} == {"int64"}


def test_halves_share_no_text(folder):
    even, odd = read(folder, lines="even"), read(folder, lines="odd")
    assert (list(even), list(odd)) == (["a.txt:1", "a.txt:3"], ["a.txt:2", "b.txt:1"])
    assert list(read(folder, most=2)) == ["a.txt:1", "a.txt:3"]


def test_a_models_own_inputs_length_and_type(folder):
    found = read(
        folder, inputs=["input_ids", "attention_mask"], dtype="int32", max_tokens=4, pad_to=4
    )
    assert found["a.txt:2"]["input_ids"].tolist() == [[3, 0, 0, 0]]
    assert found["a.txt:2"]["attention_mask"].tolist() == [[1, 0, 0, 0]]
    assert set(found["a.txt:2"]) == {"input_ids", "attention_mask"}
    assert found["a.txt:2"]["input_ids"].dtype == np.int32


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lines": "some"}, "take"),
        ({"dtype": "float32"}, "dtype"),
        ({"inputs": ["ids"]}, "ids"),
        ({"max_tokens": 1}, "max_tokens"),
        ({"line": "even"}, "no option"),
        ({"include": ["*.md"]}, "md"),
    ],
)
def test_wrong_options_are_named(folder, options, words):
    with pytest.raises(ConfigError, match=words):
        read(folder, **options)


@pytest.mark.parametrize(
    ("content", "line"), [(b"a\n\xe9t\xe9\n", 2), (b"a\nb\nc\0", 3)], ids=["latin1", "zero"]
)
def test_what_is_no_text_is_named_with_its_line(folder, content, line):
    (folder / "b.txt").write_bytes(content)
    with pytest.raises(ConfigError, match="not a text") as caught:
        read(folder)
    assert caught.value.where == f"{folder / 'b.txt'}:{line}"


def test_a_file_that_is_too_large(folder):
    with (folder / "b.txt").open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(ConfigError, match="over 64 MiB"):
        read(folder)
