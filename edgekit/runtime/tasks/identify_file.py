"""Say what kind of file some bytes are (Magika, model standard_v3_3).

Options:
    input: Name of the model's input, default ``"bytes"``.
    output: Name of the probabilities, ``[1, kinds]``, default ``"target_label"``.
    top_k: How many kinds a prediction names, default 5.

Files:
    config: Upstream's ``config.min.json``: sizes, padding, the kinds, thresholds.
    content_types: Upstream's ``content_types_kb.min.json``: which kinds are text.

``top`` is what the model says, best first. ``label`` is what the package magika answers in its
default mode: ``txt`` or ``unknown`` where the best kind stays under its threshold, and for files
of which too few bytes are left without the white space around them. A sample is any file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.runtime.options import Options
from edgekit.runtime.session import Run
from edgekit.runtime.tasks import Agreement, Prediction
from edgekit.wire.errors import BuildError, ConfigError

MAX_CONFIG_BYTES = 4 << 20
MAX_SIZE = 1 << 20


@dataclass(frozen=True)
class Features:
    """How bytes become the model's input.

    Attributes:
        begin: Bytes taken from the start.
        end: Bytes taken from the end.
        block: Bytes that are looked at on each side; white space is stripped inside of them.
        padding: Token that stands where there is no byte.
        minimum: Fewer bytes than that are not worth the model.
    """

    begin: int
    end: int
    block: int
    padding: int
    minimum: int

    def extract(self, data: bytes) -> npt.NDArray[np.int32] | None:
        """Extract features as the package magika does.

        Args:
            data: The file.

        Returns:
            int32[begin + end], 0..255 or the padding token; None where too few bytes are left.
        """
        if len(data) < self.minimum:
            return None
        # bytes.lstrip without an argument takes exactly ASCII white space, as upstream does.
        head = data[: self.block].lstrip()[: self.begin]
        tail = data[-self.block :].rstrip()[-self.end :] if self.end else b""
        if len(head) < self.minimum:
            return None
        features = np.full(self.begin + self.end, self.padding, dtype=np.int32)
        features[: len(head)] = np.frombuffer(head, dtype=np.uint8)
        if tail:
            features[-len(tail) :] = np.frombuffer(tail, dtype=np.uint8)
        return features


@dataclass(frozen=True)
class IdentifyFile:
    """The task; see the module's text for the options.

    Attributes:
        input: Name of the model's input.
        output: Name of the probabilities.
        features: How bytes become the input.
        kinds: Names of the model's outputs.
        text_kinds: Kinds that are text.
        thresholds: Lowest score at which a kind is answered.
        threshold: The same for kinds that are not among them.
        renamed: Kinds that are answered under another name.
        top_k: Kinds that a prediction names.
    """

    input: str
    output: str
    features: Features
    kinds: tuple[str, ...]
    text_kinds: frozenset[str]
    thresholds: Mapping[str, float]
    threshold: float
    renamed: Mapping[str, str]
    top_k: int

    def predict(self, run: Run, data: bytes) -> Prediction:
        """Identify one file.

        Returns:
            ``{"top": [{"index", "label", "score"}, …], "label": kind}``; scores run 0..1 and are
            rounded to 6 decimals. ``top`` has one entry without an index where the model was not
            asked.

        Raises:
            BuildError: The model's output does not fit.
        """
        features = self.features.extract(data)
        if features is None:
            label = self._without_model(data)
            return {"top": [{"index": None, "label": label, "score": 1.0}], "label": label}
        outputs = run({self.input: features[None]})
        if self.output not in outputs or outputs[self.output].size != len(self.kinds):
            raise BuildError(
                f'the model does not give {len(self.kinds)} scores in "{self.output}"',
                hint=f"outputs: {', '.join(outputs)}",
            )
        scores = np.asarray(outputs[self.output], dtype=np.float64).ravel()
        best = np.argsort(-scores, kind="stable")[: self.top_k]
        top = [
            {"index": int(i), "label": self.kinds[i], "score": round(float(scores[i]), 6)}
            for i in best
        ]
        return {"top": top, "label": self._answer(self.kinds[best[0]], float(scores[best[0]]))}

    def agreement(self, reference: Sequence[Prediction], other: Sequence[Prediction]) -> Agreement:
        """Compare the best kinds."""
        scores = tuple(
            float(a["top"][0]["label"] == b["top"][0]["label"])
            for a, b in zip(reference, other, strict=True)
        )
        return Agreement("top1_agreement", float(np.mean(scores)) if scores else 1.0, scores)

    def _answer(self, kind: str, score: float) -> str:
        answer = self.renamed.get(kind, kind)
        if score >= self.thresholds.get(kind, self.threshold):
            return answer
        return "txt" if answer in self.text_kinds else "unknown"

    def _without_model(self, data: bytes) -> str:
        if not data:
            return "empty"
        try:
            data[: self.features.block].decode()
        except UnicodeDecodeError:
            return "unknown"
        return "txt"


def create(options: Mapping[str, Any], files: Mapping[str, bytes]) -> IdentifyFile:
    """Make the task.

    Raises:
        ConfigError: An option is wrong or unknown, or a file is missing or not what it should be.
    """
    opts = Options(options, "identify-file")
    config = Options(_json(files, "config"), "identify-file: config")
    types = _json(files, "content_types")
    if config.get("mid_size", int, 0) or config.get("use_inputs_at_offsets", bool, False):
        raise ConfigError(
            "identify-file: the config asks for bytes of the middle",
            hint="models since standard_v3 do without",
        )
    kinds = config.strings("target_labels_space")
    if not kinds:
        raise ConfigError("identify-file: the config names no kinds")
    task = IdentifyFile(
        input=opts.get("input", str, "bytes"),
        output=opts.get("output", str, "target_label"),
        features=Features(
            begin=int(config.within("beg_size", 1, MAX_SIZE)),
            end=int(config.within("end_size", 0, MAX_SIZE)),
            block=int(config.within("block_size", 1, MAX_SIZE)),
            padding=int(config.within("padding_token", 0, 65535)),
            minimum=int(config.within("min_file_size_for_dl", 1, MAX_SIZE)),
        ),
        kinds=kinds,
        text_kinds=frozenset(
            kind
            for kind, facts in types.items()
            if isinstance(facts, dict) and facts.get("is_text")
        ),
        thresholds=_numbers(config.get("thresholds", dict, {})),
        threshold=config.within("medium_confidence_threshold", 0, 1),
        renamed={str(k): str(v) for k, v in config.get("overwrite_map", dict, {}).items()},
        top_k=int(opts.within("top_k", 1, 1000, 5)),
    )
    opts.close()
    return task


def _numbers(table: Mapping[str, Any]) -> dict[str, float]:
    try:
        return {str(k): float(v) for k, v in table.items()}
    except (TypeError, ValueError) as error:
        raise ConfigError("identify-file: the config's thresholds must be numbers") from error


def _json(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    if name not in files:
        raise ConfigError(
            f'identify-file needs the file "{name}"',
            hint=f'add [task.files] {name} = {{ uri = "…", sha256 = "…" }} to the recipe',
        )
    if len(files[name]) > MAX_CONFIG_BYTES:
        raise ConfigError(f'identify-file: the file "{name}" is over 4 MiB')
    try:
        document = json.loads(files[name])
    except (ValueError, RecursionError) as error:
        raise ConfigError(f'identify-file: the file "{name}" is not JSON') from error
    if not isinstance(document, dict):
        raise ConfigError(f'identify-file: the file "{name}" must hold an object')
    return document
