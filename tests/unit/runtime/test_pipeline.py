"""A bundle's pipeline: what a device runs."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest

from edgekit.runtime.pipeline import MODEL_MEMBER, load_pipeline, replay
from edgekit.runtime.replay import main
from edgekit.wire.bundle import open_bundle
from edgekit.wire.errors import BuildError, ConfigError, EdgekitError
from edgekit.wire.manifest import Pipeline, Tolerance


def test_it_predicts_what_its_golden_samples_say(small_bundle):
    with open_bundle(small_bundle.path, [small_bundle.private_key.public]) as bundle:
        pipeline = load_pipeline(bundle.manifest, bundle.read)
        prediction = pipeline.predict(bundle.read("golden/00/input.npy"))
        done = []
        matches = replay(bundle.manifest, bundle.read, bundle.manifest.members, done.append)
    assert prediction["outputs"]["y"]["shape"] == [1, 8, 16, 16]
    assert done == [1, 2, 3, 4]
    assert [m.sample for m in matches] == [0, 1, 2, 3]
    assert all(m.within for m in matches)


def test_replay_finds_an_answer_that_is_not_the_models(small_bundle):
    read = {**small_bundle.members}
    for part in ("expected.json", "output0.npy"):
        read[f"golden/01/{part}"] = read[f"golden/02/{part}"]
    # The digest stands in the swapped document, so the values are what differs.
    loose = dataclasses.replace(
        small_bundle.manifest.golden,
        tolerance=Tolerance(exact=False, absolute=1e-3, cosine_min=0.9999, agreement_min=0.99),
    )
    manifest = dataclasses.replace(small_bundle.manifest, golden=loose)
    bad = [m for m in replay(manifest, read.__getitem__, read) if not m.within]
    assert [m.sample for m in bad] == [1]


@pytest.mark.parametrize(
    ("pipeline", "model", "error", "says"),
    [
        (Pipeline("tensor", {"inputs": ["x"]}, {}), None, ConfigError, 'no task named "tensor"'),
        (Pipeline("tensors", {"inputs": []}, {}), None, ConfigError, "names of the model's inputs"),
        (Pipeline("tensors", {"inputs": ["x"]}, {}), b"junk", BuildError, "cannot load the model"),
    ],
)
def test_what_this_runtime_cannot_run(small_bundle, pipeline, model, error, says):
    manifest = dataclasses.replace(small_bundle.manifest, pipeline=pipeline)
    members = small_bundle.members | ({} if model is None else {MODEL_MEMBER: model})
    with pytest.raises(error, match=says):
        load_pipeline(manifest, members.__getitem__)


def test_feeds_that_do_not_fit_are_an_error_of_ours(small_bundle):
    pipeline = load_pipeline(small_bundle.manifest, small_bundle.members.__getitem__)
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((1, 4, 16, 16), np.float32))
    for data in (buffer.getvalue(), b"", b"junk"):
        with pytest.raises(EdgekitError):
            pipeline.predict(data)


def test_a_machine_without_the_command_line_replays(small_bundle, tmp_path, capsys):
    import json

    with open_bundle(small_bundle.path, None) as bundle:
        folder = bundle.extract(tmp_path / "b")
    assert main([str(folder)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "edgekit.replay/1"
    assert len(document["matches"]) == 4
    (folder / MODEL_MEMBER).write_bytes(b"junk")
    assert main([str(folder)]) == 5
    assert json.loads(capsys.readouterr().out)["error"] == "BuildError"
