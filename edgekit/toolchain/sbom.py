"""The software bill of materials of a bundle: CycloneDX 1.6, the same bytes for the same plan.

The model is the subject, a machine-learning-model component; the library has no class for model
cards, so task, precision, plan and metrics stand as properties. The serial number comes from the
plan's digest. There is no timestamp: the standard asks for none, the time of a build may not change
its bytes, and an invented one would be worse.
"""

from __future__ import annotations

import json
import urllib.parse
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal

from edgekit.toolchain.recipe import SourceRef
from edgekit.wire.errors import MissingToolError
from edgekit.wire.measurement import Measurement

if TYPE_CHECKING:
    from cyclonedx.model import ExternalReference, HashType, Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component
    from cyclonedx.model.license import License
    from packageurl import PackageURL

Role = Literal["source", "package", "file", "calibration", "evaluation"]
_DATA_ROLES = ("calibration", "evaluation")


@dataclass(frozen=True)
class SbomPart:
    """Something that the bundle was made from.

    Attributes:
        role: ``source`` (the model as published), ``package`` (code that exports it), ``file`` (a
            sidecar: labels, tokenizer), ``calibration`` or ``evaluation`` (data).
        name: For people.
        uri: Where it comes from, as in the recipe.
        sha256: Of what the URI names, or empty.
        license: SPDX expression, or empty where the recipe states none.
    """

    role: Role
    name: str
    uri: str
    sha256: str = ""
    license: str = ""


@dataclass(frozen=True)
class SbomInputs:
    """What the document is made from; all of it follows from the plan.

    Attributes:
        model: The recipe's name.
        title: For people.
        serial: Version of the model.
        license: SPDX expression of the model.
        target: The target's name.
        task: What the model is for.
        precision: ``fp32``, ``int8 static``, …
        model_sha256: Of the model in the bundle.
        plan_sha256: Of the plan.
        measurements: Of the model in the bundle.
        parts: What it was made from.
        tools: Versions by name: edgekit, onnx, onnxruntime.
    """

    model: str
    title: str
    serial: int
    license: str
    target: str
    task: str
    precision: str
    model_sha256: str
    plan_sha256: str
    measurements: Sequence[Measurement]
    parts: Sequence[SbomPart]
    tools: Mapping[str, str]


def make_sbom(inputs: SbomInputs) -> bytes:
    """Write the bill of materials.

    Returns:
        CycloneDX 1.6 as indented JSON with sorted keys.

    Raises:
        ConfigError: The URI of a part is malformed.
        MissingToolError: cyclonedx-python-lib is not installed.
    """
    try:
        from cyclonedx.output.json import JsonV1Dot6
    except ImportError as error:
        raise MissingToolError(
            "cyclonedx-python-lib is not installed", hint="pip install 'edgekit[build]'"
        ) from error
    document = json.loads(JsonV1Dot6(_bom(inputs)).output_as_string())
    return (json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def public_uri(uri: str) -> str:
    """Return a URI without what belongs to one machine: folders of files, names, passwords."""
    scheme, _, rest = uri.partition(":")
    if scheme == "hf" and (rest.startswith(("/", ".", "~")) or ":" in rest):
        # A local checkpoint, or one inside another source.
        return public_uri(rest if ":" in rest else f"file:{rest}")
    if scheme == "file":
        path, mark, member = rest.partition("!")
        return f"file:{PurePosixPath(path).name}{mark}{member}"
    if scheme in ("http", "https"):
        parts = urllib.parse.urlsplit(uri)
        host = parts.netloc.rpartition("@")[2]
        # A query often holds a token; the digest says which file it was.
        _, mark, member = uri.partition("!")
        path = parts.path.partition("!")[0]
        return urllib.parse.urlunsplit((parts.scheme, host, path, "", "")) + mark + member
    return uri


def _package_url(part: SbomPart) -> PackageURL | None:
    from packageurl import PackageURL

    from edgekit.toolchain.sources import describe

    if not part.uri:
        return None
    return PackageURL.from_string(describe(SourceRef(public_uri(part.uri), part.sha256)))


def _bom(inputs: SbomInputs) -> Bom:
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.tool import ToolRepository

    model = _model(inputs)
    tools = [
        Component(
            name=name, version=version, type=ComponentType.APPLICATION, bom_ref=f"tool:{name}"
        )
        for name, version in sorted(inputs.tools.items())
    ]
    parts = [_part(index, part) for index, part in enumerate(inputs.parts)]
    metadata = BomMetaData(component=model, tools=ToolRepository(components=tools))
    metadata.timestamp = None
    bom = Bom(
        components=parts,
        metadata=metadata,
        serial_number=uuid.uuid5(uuid.NAMESPACE_OID, f"edgekit:plan:{inputs.plan_sha256}"),
        version=1,
    )
    bom.register_dependency(model, parts)
    return bom


def _model(inputs: SbomInputs) -> Component:
    from cyclonedx.model.component import Component, ComponentType

    source = next((part for part in inputs.parts if part.role == "source"), None)
    return Component(
        name=inputs.model,
        version=str(inputs.serial),
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="model",
        description=inputs.title,
        hashes=_hashes(inputs.model_sha256),
        licenses=_licenses(inputs.license),
        purl=_package_url(source) if source is not None else None,
        external_references=_references(source) if source is not None else [],
        properties=list(_properties(inputs)),
    )


def _part(index: int, part: SbomPart) -> Component:
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component, ComponentType

    kind = ComponentType.FILE
    if part.role in _DATA_ROLES:
        kind = ComponentType.DATA
    elif part.role == "source":
        kind = ComponentType.MACHINE_LEARNING_MODEL
    elif part.role == "package":
        kind = ComponentType.LIBRARY
    purl = _package_url(part)
    return Component(
        name=part.name,
        version=purl.version if purl is not None else None,
        type=kind,
        bom_ref=f"{part.role}:{index}",
        hashes=_hashes(part.sha256),
        licenses=_licenses(part.license),
        purl=purl,
        external_references=_references(part),
        properties=[Property(name="edgekit:role", value=part.role)],
    )


def _properties(inputs: SbomInputs) -> Iterator[Property]:
    from cyclonedx.model import Property

    for name, value in (
        ("task", inputs.task),
        ("precision", inputs.precision),
        ("target", inputs.target),
        ("plan_sha256", inputs.plan_sha256),
    ):
        yield Property(name=f"edgekit:{name}", value=value)
    for measurement in inputs.measurements:
        yield Property(name=f"edgekit:metric:{measurement.metric}", value=_described(measurement))


def _described(measurement: Measurement) -> str:
    text = f"{measurement.value!r}, {measurement.kind.value} on {measurement.where}"
    if measurement.n is not None:
        text += f", n={measurement.n}"
    if measurement.interval is not None:
        text += f", {measurement.interval[0]!r} to {measurement.interval[1]!r}"
    return text


def _hashes(sha256: str) -> list[HashType]:
    from cyclonedx.model import HashAlgorithm, HashType

    return [HashType(alg=HashAlgorithm.SHA_256, content=sha256)] if sha256 else []


def _licenses(expression: str) -> list[License]:
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model.license import LicenseAcknowledgement

    if not expression:
        return []
    declared = LicenseAcknowledgement.DECLARED
    return [LicenseFactory().make_from_string(expression, license_acknowledgement=declared)]


def _references(part: SbomPart) -> list[ExternalReference]:
    from cyclonedx.model import ExternalReference, ExternalReferenceType, XsUri

    if not part.uri:
        return []
    return [
        ExternalReference(
            type=ExternalReferenceType.DISTRIBUTION,
            url=XsUri(public_uri(part.uri)),
            hashes=_hashes(part.sha256),
        )
    ]
