"""Text embedding: tokens, pooling, rank agreement."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.runtime.session import open_session, runner
from edgekit.runtime.tasks import create_task
from edgekit.runtime.tasks.embed_text import spearman_of_pairs
from edgekit.wire.errors import BuildError, ConfigError

tokenizers = pytest.importorskip("tokenizers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "the"]
TABLE = np.random.RandomState(2).normal(size=(len(WORDS), 6)).astype(np.float32)


@pytest.fixture(scope="module")
def tokenizer() -> bytes:
    """A real tokenizer of eight words that pads to 16 unless it is told not to."""
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token=WORDS[1])
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.enable_padding(length=16)
    return made.to_str().encode()


@pytest.fixture(scope="module")
def run():
    """A real model: a table of vectors."""
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])],
        "table",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "tokens"])],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [1, "tokens", 6])],
        [numpy_helper.from_array(TABLE, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return runner(open_session(model.SerializeToString()))


def expected(tokens: list[int]) -> np.ndarray:
    mean = TABLE[tokens].astype(np.float64).mean(axis=0)
    return mean / np.linalg.norm(mean)


def make(tokenizer: bytes, **options):
    return create_task("embed-text", {"inputs": "input_ids", **options}, {"tokenizer": tokenizer})


def test_a_text_is_the_mean_of_its_tokens_with_length_one(tokenizer, run):
    found = make(tokenizer).predict(run, b"the good film")["embedding"]
    np.testing.assert_allclose(found, expected([2, 7, 4, 6, 3]), atol=1e-6)
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)


def test_padding_does_not_count(tokenizer, run):
    padded = make(tokenizer, pad_to=12)
    assert padded.predict(run, b"bad") == make(tokenizer).predict(run, b"bad")
    seen = []
    padded.predict(lambda feeds: seen.append(feeds) or run(feeds), b"bad")
    assert seen[0]["input_ids"].tolist() == [[2, 5, 3] + [0] * 9]


def test_a_long_text_is_cut(tokenizer, run):
    found = make(tokenizer, max_tokens=5).predict(run, b"film " * 100)["embedding"]
    np.testing.assert_allclose(found, expected([2, 6, 6, 6, 3]), atol=1e-6)


def test_cls_pooling_and_no_normalising(tokenizer, run):
    task = make(tokenizer, pooling="cls", normalise=False)
    np.testing.assert_allclose(task.predict(run, b"bad")["embedding"], TABLE[2], atol=1e-6)


def test_a_pooled_output_is_taken_as_it_is(tokenizer):
    task = make(tokenizer, output="sentence")
    prediction = task.predict(lambda _: {"sentence": np.array([[3.0, 4.0]])}, b"bad")
    assert prediction["embedding"] == [0.6, 0.8]


def test_agreement_is_spearman_of_all_pairs(tokenizer):
    task = make(tokenizer)
    first = [{"embedding": list(v)} for v in np.eye(4) + 0.1 * TABLE[:4, :4]]
    second = [{"embedding": list(-np.array(p["embedding"]) * 3)} for p in first]
    same = task.agreement(first, second)
    assert same.metric == "similarity_spearman"
    assert same.value == pytest.approx(1)
    assert len(same.scores) == 4
    other = [{"embedding": list(v)} for v in TABLE[4:8, :4]]
    assert task.agreement(first, other).value < 0.9
    pair = task.agreement(first[:1], [{"embedding": list(np.eye(4)[1])}])
    assert pair.value < 0.5


def similarities(values: list[float], n: int) -> np.ndarray:
    """Put values into the upper triangle of a symmetric matrix."""
    matrix = np.zeros((n, n))
    matrix[np.triu_indices(n, k=1)] = values
    return matrix + matrix.T


@settings(deadline=None)
@given(
    st.integers(3, 8).flatmap(
        lambda n: st.tuples(st.just(n), st.permutations(range(n * (n - 1) // 2)))
    )
)
def test_spearman_sees_order_alone(drawn):
    n, order = drawn
    first = similarities([v // 2 for v in order], n)
    value, shares = spearman_of_pairs(first, np.exp(first / 10))
    assert value == pytest.approx(1)
    np.testing.assert_allclose(shares, 1)
    second = similarities(sorted(order), n)
    value, shares = spearman_of_pairs(first, second)
    assert -1 - 1e-9 <= value <= 1 + 1e-9
    assert shares.mean() == pytest.approx(value)
    assert shares.max() <= 1 + 1e-9
    assert spearman_of_pairs(second, first)[0] == pytest.approx(value)


def test_spearman_with_ties_is_the_textbooks():
    # Ranks 1, 2.5, 2.5 against 1, 2, 3: Pearson's correlation of the ranks.
    first, second = similarities([1, 2, 2], 3), similarities([1, 2, 3], 3)
    assert spearman_of_pairs(first, second)[0] == pytest.approx(np.sqrt(3) / 2)


def test_a_constant_agrees_with_a_constant_alone():
    constant, other = similarities([1, 1, 1], 3), similarities([1, 2, 3], 3)
    assert spearman_of_pairs(constant, constant)[0] == 1
    assert spearman_of_pairs(constant, other)[0] == 0
    assert spearman_of_pairs(other, constant)[0] == 0


def test_the_interval_is_as_wide_as_the_spread_over_draws(tokenizer):
    task, random = make(tokenizer), np.random.RandomState(6)
    values, widths = [], []
    for _ in range(60):
        rows = random.normal(size=(40, 8))
        noisy = rows + 0.3 * random.normal(size=(40, 8))
        agreement = task.agreement(*([{"embedding": list(r)} for r in m] for m in (rows, noisy)))
        assert agreement.value == pytest.approx(np.mean(agreement.scores), abs=1e-3)
        values.append(agreement.value)
        widths.append(agreement.interval[1] - agreement.interval[0])
    assert np.mean(widths) / (2 * 1.96 * np.std(values)) == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize(
    ("data", "words"), [(b"\xff\xfe", "UTF-8"), (b"a" * ((1 << 20) + 1), "1 MiB")]
)
def test_unfit_texts_are_refused(tokenizer, run, data, words):
    with pytest.raises(ConfigError, match=words):
        make(tokenizer).predict(run, data)


def test_a_wrong_output_is_named(tokenizer, run):
    with pytest.raises(BuildError, match="pooled"):
        make(tokenizer, output="pooled").predict(run, b"bad")


@pytest.mark.parametrize(
    ("options", "given_files", "words"),
    [
        ({}, {}, "tokenizer"),
        ({}, {"tokenizer": b"{}"}, "tokenizer.json"),
        ({"inputs": ["ids"]}, {"tokenizer": b"{}"}, "ids"),
        ({"pooling": "max"}, {"tokenizer": b"{}"}, "pooling"),
    ],
)
def test_wrong_options_are_named(options, given_files, words):
    with pytest.raises(ConfigError, match=words):
        create_task("embed-text", options, given_files)
