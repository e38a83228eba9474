"""Bundles of every released format are still read."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.wire.bundle import open_bundle
from edgekit.wire.canonical import sha256_file
from edgekit.wire.errors import TrustError
from edgekit.wire.measurement import Outcome, Requirement
from edgekit.wire.results import parse_results
from edgekit.wire.signing import generate_key, load_public_key

HERE = Path(__file__).parent


def test_the_fixture_is_the_one_that_was_once_made():
    assert sha256_file(HERE / "bundle-v1.ekb") == (
        "b1566b847b1942d4dbb4aa48b532b80204cde42bb1ca175dfd5279b464140ae4"
    )


def test_format_1_is_read():
    key = load_public_key(HERE / "bundle-v1.pub.pem")
    with open_bundle(HERE / "bundle-v1.ekb", [key]) as bundle:
        manifest = bundle.manifest
        assert bundle.signed_by == key
        assert (manifest.model, manifest.serial, manifest.target.name) == ("tiny", 7, "rpi5")
        assert manifest.contract[0] == Requirement("top1_agreement", minimum=0.95)
        assert bundle.read("pipeline/labels.txt") == b"cat\ndog\nowl\n"
        results = parse_results(bundle.read("measurements.json"))
        assert {v.outcome for v in results.judge(manifest.contract)} == {Outcome.PASS}
        assert manifest.to_bytes() == bundle.manifest_bytes


def test_another_key_does_not_open_it():
    with pytest.raises(TrustError, match="not trusted"):
        open_bundle(HERE / "bundle-v1.ekb", [generate_key().public])
