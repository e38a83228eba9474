"""File identification: features as the package magika makes them, answers as it gives them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.runtime.session import open_session, runner
from edgekit.runtime.tasks import create_task
from edgekit.runtime.tasks.identify_file import Features
from edgekit.toolchain.cache import Cache
from edgekit.toolchain.events import ignore
from edgekit.toolchain.recipe import SourceRef
from edgekit.toolchain.sources import fetch
from edgekit.wire.errors import BuildError, ConfigError

UPSTREAM = json.loads((Path(__file__).parent / "upstream" / "magika.json").read_text())["cases"]
FEATURES = Features(begin=1024, end=1024, block=4096, padding=256, minimum=8)
CONFIG = {
    "beg_size": 4,
    "mid_size": 0,
    "end_size": 3,
    "use_inputs_at_offsets": False,
    "medium_confidence_threshold": 0.5,
    "min_file_size_for_dl": 2,
    "padding_token": 256,
    "block_size": 16,
    "target_labels_space": ["c", "png", "randombytes"],
    "thresholds": {"c": 0.9},
    "overwrite_map": {"randombytes": "unknown"},
}
TYPES = {"c": {"is_text": True}, "png": {"is_text": False}, "unknown": {"is_text": False}}


def files(config=CONFIG, types=TYPES) -> dict[str, bytes]:
    return {
        "config": json.dumps(config).encode(),
        "content_types": json.dumps(types).encode(),
    }


def content(case: dict) -> bytes:
    return b"".join(bytes.fromhex(part) * count for part, count in case["parts"])


@pytest.mark.parametrize("case", UPSTREAM, ids=[case["name"] for case in UPSTREAM])
def test_features_are_upstreams(case):
    features = FEATURES.extract(content(case))
    if "features_sha256" not in case:
        assert features is None
        return
    assert features.dtype == np.int32
    found = hashlib.sha256(features.astype("<i4").tobytes()).hexdigest()
    assert found == case["features_sha256"]


@settings(deadline=None)
@given(st.binary(max_size=9000))
def test_features_of_any_bytes_are_tokens_of_the_input(data):
    features = FEATURES.extract(data)
    if features is None:
        assert len(data[:4096].lstrip()) < 8
        return
    assert features.shape == (2048,)
    assert features.min() >= 0
    assert features.max() <= 256
    head = features[:1024]
    head = bytes(head[head != 256].astype(np.uint8))
    assert data[:4096].lstrip().startswith(head)
    tail = features[1024:]
    assert data[-4096:].rstrip().endswith(bytes(tail[tail != 256].astype(np.uint8)))


def answer(scores):
    return lambda _feeds: {"target_label": np.array([scores], np.float32)}


@pytest.mark.parametrize(
    ("scores", "best", "label"),
    [
        ([0.95, 0.03, 0.02], "c", "c"),
        ([0.85, 0.1, 0.05], "c", "txt"),  # under its own threshold
        ([0.3, 0.6, 0.1], "png", "png"),
        ([0.3, 0.4, 0.3], "png", "unknown"),  # under the common threshold, and no text
        ([0.1, 0.1, 0.8], "randombytes", "unknown"),  # renamed
    ],
)
def test_answers_follow_the_thresholds(scores, best, label):
    prediction = create_task("identify-file", {"top_k": 2}, files()).predict(
        answer(scores), b"int x;"
    )
    assert prediction["label"] == label
    assert prediction["top"][0]["label"] == best
    assert len(prediction["top"]) == 2


def test_agreement_compares_what_the_model_says():
    task = create_task("identify-file", {}, files())
    one = task.predict(answer([0.95, 0.03, 0.02]), b"int x;")
    unsure = task.predict(answer([0.6, 0.3, 0.1]), b"int x;")
    other = task.predict(answer([0.3, 0.6, 0.1]), b"int x;")
    agreement = task.agreement([one, one], [unsure, other])
    assert (agreement.metric, agreement.value) == ("top1_agreement", 0.5)
    assert agreement.scores == (1.0, 0.0)


def test_a_model_of_another_size_is_refused():
    with pytest.raises(BuildError, match="3 scores"):
        create_task("identify-file", {}, files()).predict(answer([0.5, 0.5]), b"int x;")


@pytest.mark.parametrize(
    ("given_files", "words"),
    [
        ({}, "config"),
        ({"config": b"{"}, "JSON"),
        ({"config": b"[]", "content_types": b"{}"}, "object"),
        (files({**CONFIG, "mid_size": 16}), "middle"),
        (files({**CONFIG, "beg_size": 0}), "beg_size"),
        (files({**CONFIG, "target_labels_space": []}), "kinds"),
        (files({**CONFIG, "thresholds": {"c": "high"}}), "numbers"),
    ],
)
def test_wrong_files_are_named(given_files, words):
    with pytest.raises(ConfigError, match=words):
        create_task("identify-file", {}, given_files)


@pytest.mark.network
def test_answers_are_upstreams(shared_cache):
    wheel = "pypi:magika==1.0.3?wheel=py3-none-manylinux_2_28_x86_64!magika/"
    sha256 = "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529"

    def get(path: str) -> bytes:
        reference = SourceRef(wheel + path, sha256)
        cache = Cache(shared_cache)
        return fetch(
            reference, cache=cache, folder=Path(), on_event=ignore, offline=False
        ).read_bytes()

    task = create_task(
        "identify-file",
        {},
        {
            "config": get("models/standard_v3_3/config.min.json"),
            "content_types": get("config/content_types_kb.min.json"),
        },
    )
    run = runner(open_session(get("models/standard_v3_3/model.onnx")))
    for case in UPSTREAM:
        prediction = task.predict(run, content(case))
        assert prediction["label"] == case["label"], case["name"]
        if "model_label" in case:
            assert prediction["top"][0]["label"] == case["model_label"], case["name"]
            assert prediction["top"][0]["score"] == pytest.approx(case["score"], abs=1e-3)
