from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.toolchain.bundle_diff import FieldChange, diff_bundles
from edgekit.wire.bundle import open_bundle
from edgekit.wire.manifest import Member, Placement
from edgekit.wire.measurement import Requirement
from edgekit.wire.results import parse_results

WIRE = Path(__file__).parents[2] / "wire"


@pytest.fixture(scope="module")
def old():
    with open_bundle(WIRE / "bundle-v1.ekb", None) as bundle:
        return bundle.manifest, parse_results(bundle.read("measurements.json"))


def test_a_bundle_is_the_same_as_itself(old):
    manifest, results = old
    assert diff_bundles(manifest, manifest, results, results).same


def test_changed_fields_carry_both_values(old):
    manifest, results = old
    new = replace(
        manifest, serial=8, contract=(Requirement("size_mib", maximum=5.0), *manifest.contract[2:])
    )
    found = diff_bundles(manifest, new, results, results)
    assert FieldChange("serial", 7, 8) in found.fields
    assert FieldChange("contract[size_mib].max", 6.0, 5.0) in found.fields
    assert FieldChange("contract[top1_agreement].min", 0.95, None) in found.fields
    # The line that only moved is not named.
    assert not any("latency" in change.field for change in found.fields)


def test_placement_is_known_by_operator(old):
    manifest, results = old
    row = Placement("Conv", "int8", "CPUExecutionProvider", 2)
    new = replace(manifest, placement=(row, *manifest.placement))
    found = diff_bundles(manifest, new, results, results)
    assert {change.field for change in found.fields} == {
        f"placement[Conv int8 CPUExecutionProvider].{field}"
        for field in ("op", "precision", "provider", "count")
    }


def test_members_come_go_and_change(old):
    manifest, results = old
    members = dict(manifest.members)
    gone = members.pop("licenses/NOTICE.txt")
    members["model.onnx"] = Member(1, "ab" * 32)
    members["zzz"] = Member(2, "cd" * 32)
    found = diff_bundles(manifest, replace(manifest, members=members), results, results)
    changes = {change.path: (change.old, change.new) for change in found.members}
    assert changes == {
        "licenses/NOTICE.txt": (gone, None),
        "model.onnx": (manifest.members["model.onnx"], Member(1, "ab" * 32)),
        "zzz": (None, Member(2, "cd" * 32)),
    }
    assert not found.fields


def test_measurements_bring_the_contracts_outcome(old):
    manifest, results = old
    worse = replace(results, shipped=(replace(results.shipped[0], value=0.9), *results.shipped[1:]))
    (change,) = diff_bundles(manifest, manifest, results, worse).measurements
    assert (change.metric, change.old_outcome, change.new_outcome) == (
        "top1_agreement",
        "pass",
        "fail",
    )
    absent = diff_bundles(manifest, manifest, results, None).measurements
    assert {change.new_outcome for change in absent} == {None}
    assert len(absent) == 3
