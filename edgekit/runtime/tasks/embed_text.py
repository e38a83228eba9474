"""Turn a text into a vector whose direction is its meaning (sentence-transformers encoders).

Options:
    max_tokens: Longer texts are cut, special tokens included; default 256.
    pad_to: Every text is padded to that many tokens, for a model of fixed shape; 0, the default,
        pads nothing.
    output: Name of the model's output, ``[1, tokens, size]`` (pooled here) or ``[1, size]``;
        default ``"last_hidden_state"``.
    inputs: Which of ``input_ids``, ``attention_mask`` and ``token_type_ids`` the model takes;
        default all three.
    pooling: ``"mean"`` (default) over the tokens of the text, or ``"cls"``.
    normalise: True (default) makes the vector's length 1.

Files:
    tokenizer: A ``tokenizer.json`` of the package tokenizers.

A sample is a UTF-8 text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgekit.runtime.options import Options
from edgekit.runtime.session import Run
from edgekit.runtime.tasks import Agreement, Prediction
from edgekit.wire.errors import BuildError, ConfigError, MissingToolError

MAX_TOKENS = 8192
MAX_TEXT_BYTES = 1 << 20
MAX_TOKENIZER_BYTES = 64 << 20
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# Fewer samples have too few pairs for a rank correlation.
_MIN_RANKED = 3
_MIN_INTERVAL = 10
_Z_95 = 1.959964  # 97.5 % quantile of the standard normal distribution


@dataclass(frozen=True)
class EmbedText:
    """The task; see the module's text for the options.

    Attributes:
        tokenizer: A ``tokenizers.Tokenizer`` with truncation and padding set.
        inputs: Inputs that the model takes.
        output: Name of the model's output.
        pooling: How tokens become one vector.
        normalise: Whether the vector gets length 1.
    """

    tokenizer: Any
    inputs: tuple[str, ...]
    output: str
    pooling: Literal["mean", "cls"]
    normalise: bool

    def predict(self, run: Run, data: bytes) -> Prediction:
        """Embed one text.

        Returns:
            ``{"embedding": [float, …]}``, rounded to 6 decimals.

        Raises:
            ConfigError: Not UTF-8, or over 1 MiB.
            BuildError: The model's output does not fit.
        """
        feeds = self._feeds(_text(data))
        outputs = run({name: feeds[name] for name in self.inputs})
        if self.output not in outputs:
            raise BuildError(
                f'the model has no output "{self.output}"', hint=f"outputs: {', '.join(outputs)}"
            )
        vector = self._pool(outputs[self.output], feeds["attention_mask"])
        return {"embedding": [round(float(v), 6) for v in vector]}

    def agreement(self, reference: Sequence[Prediction], other: Sequence[Prediction]) -> Agreement:
        """Compare how two models rank the similarities of all pairs of samples.

        Returns:
            ``similarity_spearman``: Spearman's correlation over all pairs, negative ones as 0. A
            sample's score is one minus what the pairs that it is in lose, so that the correlation
            is the scores' mean. With fewer than three samples there is nothing to rank: then both
            are the cosine between the two models' vectors.
        """
        first, second = _matrix(reference), _matrix(other)
        if len(first) != len(second):
            raise ConfigError(f"{len(first)} predictions against {len(second)}")
        if len(first) < _MIN_RANKED:
            scores = tuple(
                max(0.0, min(1.0, float(a @ b))) for a, b in zip(first, second, strict=True)
            )
            return Agreement(
                "similarity_spearman", float(np.mean(scores)) if scores else 1.0, scores
            )
        value, shares = spearman_of_pairs(first @ first.T, second @ second.T)
        return Agreement(
            "similarity_spearman",
            min(1.0, max(0.0, value)),
            tuple(float(s) for s in np.clip(shares, 0.0, 1.0)),
            _interval(value, shares),
        )

    def _feeds(self, text: str) -> dict[str, npt.NDArray[np.int64]]:
        encoding = self.tokenizer.encode(text)
        return {
            "input_ids": np.array([encoding.ids], dtype=np.int64),
            "attention_mask": np.array([encoding.attention_mask], dtype=np.int64),
            "token_type_ids": np.array([encoding.type_ids], dtype=np.int64),
        }

    def _pool(
        self, output: npt.NDArray[Any], mask: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        values = np.asarray(output, dtype=np.float64)
        if values.ndim == 3 and values.shape[1] == mask.shape[1]:  # noqa: PLR2004 - one a token
            if self.pooling == "cls":
                values = values[:, 0]
            else:
                weights = mask[..., None]
                values = (values * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1e-9)
        if values.ndim != 2 or values.shape[0] != 1:  # noqa: PLR2004 - one vector
            raise BuildError(
                f'"{self.output}" has the shape {list(output.shape)}',
                hint="expected [1, tokens, size] or [1, size]",
            )
        vector: npt.NDArray[np.float64] = values[0]
        if self.normalise:
            vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
        return vector


def spearman_of_pairs(
    first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]
) -> tuple[float, npt.NDArray[np.float64]]:
    """Return Spearman's rank correlation over all pairs, and what each sample has in it.

    Two standardised ranks z and w correlate by 1 - mean((z - w)²) / 2; a sample's share is that
    mean over its own pairs, and every pair counts for both of its samples.

    Args:
        first: float64[N, N], symmetric similarities, N ≥ 3; the diagonal is not read.
        second: float64[N, N].

    Returns:
        The correlation, -1..1 (1 where both are constant, 0 where one is), and float64[N], at most
        1, whose mean it is.
    """
    pairs = np.triu_indices(len(first), k=1)
    left, right = _standard_ranks(first[pairs]), _standard_ranks(second[pairs])
    lost = np.zeros(len(first))
    loss = (left - right) ** 2 / 2
    if (not left.any() and right.any()) or (left.any() and not right.any()):
        loss = np.ones_like(loss)
    np.add.at(lost, pairs[0], loss)
    np.add.at(lost, pairs[1], loss)
    shares = 1 - lost / (len(first) - 1)
    return float(1 - loss.mean()), shares


def _interval(value: float, shares: npt.NDArray[np.float64]) -> tuple[float, float] | None:
    """Return the 95 % interval of a mean over pairs, from its shares by sample.

    Leaving a sample out (the jackknife) moves a mean over pairs by twice what it would move a mean
    over samples, as each pair has two (Arvesen, Annals of Mathematical Statistics 40, 1969).
    """
    n = len(shares)
    if n < _MIN_INTERVAL:
        return None
    pseudo = value + 2 * (n - 1) / (n - 2) * (shares - value)
    half = _Z_95 * float(pseudo.std(ddof=1)) / float(np.sqrt(n))
    return max(0.0, value - half), min(1.0, value + half)


def _standard_ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return ranks with mean 0 and variance 1; equal values share their mean rank."""
    ranks = _ranks(values)
    ranks = ranks - ranks.mean()
    spread = float(np.sqrt(np.mean(ranks**2)))
    standard: npt.NDArray[np.float64] = ranks / spread if spread else ranks
    return standard


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: npt.NDArray[np.float64] = (last - (counts - 1) / 2)[inverse.ravel()]
    return ranks


def _matrix(predictions: Sequence[Prediction]) -> npt.NDArray[np.float64]:
    """Return float64[N, size] with rows of length 1, so that products are cosines."""
    rows = np.array([p["embedding"] for p in predictions], dtype=np.float64)
    if rows.size == 0:
        return rows.reshape(0, 0)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: npt.NDArray[np.float64] = rows / np.maximum(lengths, 1e-12)
    return unit


def _text(data: bytes) -> str:
    if len(data) > MAX_TEXT_BYTES:
        raise ConfigError("the text is over 1 MiB")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError("the text is not UTF-8") from error


def create(options: Mapping[str, Any], files: Mapping[str, bytes]) -> EmbedText:
    """Make the task.

    Raises:
        ConfigError: An option is wrong or unknown, or the tokenizer is missing or unreadable.
        MissingToolError: The package tokenizers is not installed.
    """
    opts = Options(options, "embed-text")
    max_tokens = int(opts.within("max_tokens", 3, MAX_TOKENS, 256))
    pad_to = int(opts.within("pad_to", 0, MAX_TOKENS, 0))
    inputs = opts.strings("inputs", INPUTS)
    unknown = [name for name in inputs if name not in INPUTS]
    if unknown or not inputs:
        raise ConfigError(
            f'embed-text: "inputs" holds {", ".join(unknown) or "nothing"}',
            hint=f"choose among {', '.join(INPUTS)}",
        )
    pooling: Literal["mean", "cls"] = (
        "cls" if opts.choice("pooling", ("mean", "cls"), "mean") == "cls" else "mean"
    )
    task = EmbedText(
        tokenizer=_tokenizer(files, min(max_tokens, pad_to) if pad_to else max_tokens, pad_to),
        inputs=inputs,
        output=opts.get("output", str, "last_hidden_state"),
        pooling=pooling,
        normalise=opts.get("normalise", bool, True),
    )
    opts.close()
    return task


def _tokenizer(files: Mapping[str, bytes], max_tokens: int, pad_to: int) -> Any:  # noqa: ANN401
    if "tokenizer" not in files:
        raise ConfigError(
            'embed-text needs the file "tokenizer"',
            hint='add [task.files] tokenizer = { uri = "…", sha256 = "…" } to the recipe',
        )
    if len(files["tokenizer"]) > MAX_TOKENIZER_BYTES:
        raise ConfigError("embed-text: the tokenizer is over 64 MiB")
    try:
        import tokenizers
    except ImportError as error:
        raise MissingToolError(
            "the package tokenizers is not installed", hint='pip install "edgekit[text]"'
        ) from error
    try:
        tokenizer = tokenizers.Tokenizer.from_str(files["tokenizer"].decode())
    except Exception as error:  # tokenizers raises nothing more specific
        raise ConfigError("embed-text: the tokenizer is not a tokenizer.json") from error
    tokenizer.enable_truncation(max_length=max_tokens)
    # The file may ask for padding to a length of its own, which would only cost time.
    tokenizer.no_padding()
    if pad_to:
        pad = tokenizer.token_to_id("[PAD]")
        tokenizer.enable_padding(length=pad_to, pad_id=0 if pad is None else pad)
    return tokenizer
