"""Speech detection: frames, state, segments."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.runtime import sounds
from edgekit.runtime.session import open_session, runner
from edgekit.runtime.tasks import create_task
from edgekit.toolchain.cache import Cache
from edgekit.toolchain.events import ignore
from edgekit.toolchain.recipe import SourceRef
from edgekit.toolchain.sources import fetch
from edgekit.wire.errors import BuildError, ConfigError

UPSTREAM = json.loads((Path(__file__).parent / "upstream" / "silero.json").read_text())


def recorder(calls: list):
    """A model whose state counts the calls and whose probability is the frame's level."""

    def run(feeds):
        calls.append({k: v.copy() for k, v in feeds.items()})
        level = np.abs(feeds["input"][0, 64:]).max()
        return {"output": np.array([[level]], np.float32), "stateN": feeds["state"] + 1}

    return run


def noise(length: int) -> np.ndarray:
    values = np.random.RandomState(1).uniform(-0.5, 0.5, length)
    return (np.rint(values * 32768) / 32768).astype(np.float32)


def test_frames_carry_their_context_and_the_state():
    calls: list = []
    samples = noise(1300)
    prediction = create_task("detect-speech", {}, {}).predict(
        recorder(calls), sounds.encode_wav(samples, 16000)
    )
    assert len(prediction["frames"]) == len(calls) == 3
    padded = np.concatenate([np.zeros(64), samples, np.zeros(3 * 512 - 1300)]).astype(np.float32)
    for index, call in enumerate(calls):
        assert call["input"].shape == (1, 576)
        assert call["input"].dtype == np.float32
        np.testing.assert_array_equal(call["input"][0], padded[index * 512 : index * 512 + 576])
        np.testing.assert_array_equal(call["state"], np.full((2, 1, 128), index, np.float32))


@pytest.mark.parametrize("case", UPSTREAM["segments"], ids=range(len(UPSTREAM["segments"])))
def test_segments_are_upstreams(case):
    names = {
        "threshold": "threshold",
        "min_speech_duration_ms": "min_speech_ms",
        "min_silence_duration_ms": "min_silence_ms",
        "speech_pad_ms": "pad_ms",
    }
    options = {names[k]: v for k, v in case["options"].items()}
    segmenting = create_task("detect-speech", options, {}).segmenting
    found = segmenting.segments(case["frames"], case["length"])
    assert [list(s) for s in found] == case["segments"]


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=80), st.integers(1, 512))
def test_segments_are_ordered_disjoint_and_inside(probabilities, last):
    length = (len(probabilities) - 1) * 512 + last
    segmenting = create_task("detect-speech", {"min_speech_ms": 0}, {}).segmenting
    edges = [edge for s in segmenting.segments(probabilities, length) for edge in s]
    assert edges == sorted(edges)
    assert not edges or (edges[0] >= 0 and edges[-1] <= length)


def test_agreement_counts_equal_decisions():
    task = create_task("detect-speech", {}, {})
    reference = [{"frames": [0.1, 0.9, 0.6, 0.4]}, {"frames": [0.9]}]
    other = [{"frames": [0.2, 0.8, 0.4, 0.6]}, {"frames": [0.5]}]
    agreement = task.agreement(reference, other)
    assert agreement.metric == "frame_agreement"
    assert agreement.scores == (0.5, 1.0)
    assert agreement.value == 0.75
    assert task.agreement(reference, reference).value == 1.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"treshold": 0.5}, "threshold"),
        ({"threshold": 2}, "threshold"),
        ({"state_shape": [0]}, "state_shape"),
        ({"frame": 0}, "frame"),
    ],
)
def test_wrong_options_are_named(options, words):
    with pytest.raises(ConfigError) as caught:
        create_task("detect-speech", options, {})
    assert words in f"{caught.value.message} {caught.value.hint}"


def test_a_model_without_the_outputs_is_named():
    task = create_task("detect-speech", {"output": "prob"}, {})
    with pytest.raises(BuildError, match="prob"):
        task.predict(recorder([]), sounds.encode_wav(noise(600), 16000))


@pytest.mark.network
def test_probabilities_are_upstreams(shared_cache):
    def get(uri: str, sha256: str) -> Path:
        return fetch(
            SourceRef(uri, sha256),
            cache=Cache(shared_cache),
            folder=Path(),
            on_event=ignore,
            offline=False,
        )

    model = get(
        "pypi:silero-vad==6.2.3!silero_vad/data/silero_vad_16k_op15.onnx",
        "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
    )
    sample = get(
        "pypi:pyannote-audio==4.0.7!pyannote/audio/sample/sample.wav",
        "852ea15c4d85bc34773e618267603ffca6a521669a74d33742692cc67fc700d6",
    )
    raw = runner(open_session(model))
    prediction = create_task("detect-speech", {}, {}).predict(
        lambda feeds: raw({**feeds, "sr": np.array(16000, np.int64)}), sample.read_bytes()
    )
    expected = UPSTREAM["sample"]
    assert len(prediction["frames"]) == expected["count"]
    np.testing.assert_allclose(prediction["frames"][::10], expected["frames"], atol=2e-3)
    assert [
        [round(s["start_s"] * 16000), round(s["end_s"] * 16000)] for s in prediction["segments"]
    ] == expected["segments"]
