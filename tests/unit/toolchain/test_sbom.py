from __future__ import annotations

import json
import uuid
from dataclasses import replace

import pytest
from cyclonedx.exception import MissingOptionalDependencyException
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from edgekit.toolchain.sbom import SbomInputs, SbomPart, make_sbom, public_uri
from edgekit.wire.measurement import Kind, Measurement

INPUTS = SbomInputs(
    model="yolo11n",
    title="YOLO11n",
    serial=3,
    license="AGPL-3.0-only",
    target="rpi5",
    task="detect-objects",
    precision="int8 static",
    model_sha256="ab" * 32,
    plan_sha256="cd" * 32,
    measurements=(
        Measurement("map50", 0.59, Kind.MEASURED, "x86-64-vnni", 300, (0.5, 0.6)),
        Measurement("size_mib", 3.5, Kind.MEASURED, "file"),
    ),
    parts=(
        SbomPart("source", "yolo11n", "pypi:a-b==1.0!a/b.onnx", "ef" * 32, "AGPL-3.0-only"),
        SbomPart("calibration", "pictures", "npm:@x/y@1.2.3!z", "01" * 32, "CC-BY-4.0 OR MIT"),
        SbomPart("evaluation", "own", "file:/home/someone/data"),
        SbomPart("file", "labels", "https://u:p@host.invalid/a b.txt?token=1", "", "our own"),
    ),
    tools={"edgekit": "0.1.0", "onnx": "1.23.2", "onnxruntime": "1.31.1"},
)


def document(inputs=INPUTS):
    return json.loads(make_sbom(inputs))


def test_the_model_is_the_subject_with_its_licence_in_sight():
    found = document()
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.6")
    model = found["metadata"]["component"]
    assert model["type"] == "machine-learning-model"
    assert (model["name"], model["version"]) == ("yolo11n", "3")
    assert model["licenses"][0]["license"]["id"] == "AGPL-3.0-only"
    assert model["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    assert model["purl"].startswith("pkg:pypi/a-b@1.0")
    values = {p["name"]: p["value"] for p in model["properties"]}
    assert values["edgekit:plan_sha256"] == "cd" * 32
    assert values["edgekit:metric:map50"] == "0.59, measured on x86-64-vnni, n=300, 0.5 to 0.6"
    assert values["edgekit:precision"] == "int8 static"


def test_data_and_tools_are_named():
    found = document()
    by_name = {part["name"]: part for part in found["components"]}
    assert by_name["pictures"]["type"] == "data"
    assert by_name["pictures"]["licenses"][0]["expression"] == "CC-BY-4.0 OR MIT"
    assert by_name["labels"]["licenses"][0]["license"]["name"] == "our own"
    assert "licenses" not in by_name["own"]
    tools = {t["name"]: t["version"] for t in found["metadata"]["tools"]["components"]}
    assert tools == dict(INPUTS.tools)


def test_the_bytes_follow_from_the_plan():
    assert make_sbom(INPUTS) == make_sbom(INPUTS)
    found = document()
    assert "timestamp" not in found["metadata"]
    uuid.UUID(found["serialNumber"].removeprefix("urn:uuid:"))
    other = document(replace(INPUTS, plan_sha256="ce" * 32))
    assert other["serialNumber"] != found["serialNumber"]


def test_every_reference_is_defined_once():
    found = document()
    defined = [found["metadata"]["component"]["bom-ref"]]
    defined += [part["bom-ref"] for part in found["components"]]
    assert len(defined) == len(set(defined))
    for row in found["dependencies"]:
        assert {row["ref"], *row.get("dependsOn", [])} <= set(defined)


def test_the_published_schema_accepts_it():
    try:
        problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(make_sbom(INPUTS).decode())
    except MissingOptionalDependencyException:
        pytest.skip("the schema check needs cyclonedx-python-lib[json-validation]")
    assert problem is None


def test_nothing_of_this_machine_goes_in():
    text = make_sbom(INPUTS).decode()
    for word in ("someone", "token", "u:p@"):
        assert word not in text


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("file:/home/me/x.onnx", "file:x.onnx"),
        ("file:models/x.onnx", "file:x.onnx"),
        ("file:/home/me/x.zip!a/b", "file:x.zip!a/b"),
        ("hf:/home/me/checkpoint", "file:checkpoint"),
        ("hf:file:/home/me/checkpoint", "file:checkpoint"),
        ("hf:pypi:a==1!b", "pypi:a==1!b"),
        ("hf:owner/name@rev", "hf:owner/name@rev"),
        ("https://a:b@host.invalid/p/x?key=1", "https://host.invalid/p/x"),
        ("https://host.invalid/p/x.zip!a/b", "https://host.invalid/p/x.zip!a/b"),
        ("pypi:a==1!b", "pypi:a==1!b"),
    ],
)
def test_uris_lose_what_belongs_to_one_machine(uri, expected):
    assert public_uri(uri) == expected
