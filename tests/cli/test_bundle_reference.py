"""A built bundle carries the drift reference of the model that it ships."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
import pytest

from edgekit.runtime.pipeline import load_pipeline
from edgekit.runtime.reference import REFERENCE_NAME, answered_classes, load
from edgekit.wire.bundle import open_bundle
from edgekit.wire.canonical import sha256_hex


@pytest.mark.network
def test_the_reference_is_of_the_shipped_model_and_the_same_in_two_builds(
    digits, shared_cache, cold_cache, key_file, edgekit
):
    options = ("--target", "rpi5", "--project", digits, "--key-file", key_file, "--json")
    made = []
    for name, cache in (("a", shared_cache), ("b", cold_cache)):
        ran = edgekit("build", "digits-cnn", *options, "-o", digits / name, "--cache-dir", cache)
        assert ran.code == 0, ran.out + ran.err
        with open_bundle(digits / name / "digits-cnn-rpi5.ekb", None) as bundle:
            data = bundle.read(REFERENCE_NAME)
            assert bundle.manifest.members[REFERENCE_NAME].sha256 == sha256_hex(data)
            reference = load(bundle.manifest, bundle.read)
            pipeline = load_pipeline(bundle.manifest, bundle.read)
        made.append(data)
    assert made[0] == made[1]
    assert reference.samples == 64
    assert sum(reference.classes.values()) == 64
    blank = io.BytesIO()
    np.save(blank, np.zeros((8, 8), np.uint8))
    ((label, _),) = answered_classes(pipeline.predict(blank.getvalue()))
    assert label in reference.classes, Counter(reference.classes)
