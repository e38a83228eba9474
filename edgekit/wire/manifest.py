"""The manifest of a bundle: what the signature covers, and through digests everything else.

``manifest.json`` is canonical JSON. The parser is strict: each field by type and bound, no unknown
field, one spelling. A new field therefore raises :data:`FORMAT`, and an older edgekit refuses the
bundle instead of ignoring what it does not know.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from edgekit.wire.canonical import Json, canonical_json
from edgekit.wire.errors import TrustError
from edgekit.wire.measurement import Requirement
from edgekit.wire.storedzip import MAX_ARCHIVE_BYTES, check_names
from edgekit.wire.strict import MAX_ITEMS, MAX_TEXT, Fields, parse_object, require_canonical

SCHEMA = "edgekit.bundle/1"
FORMAT = 1
MAX_MANIFEST_BYTES = 1 << 20
MAX_OPTIONS_DEPTH = 8

GraphKind = Literal["static-int8", "static-mixed", "dynamic", "fp32"]
OptimizationLevel = Literal["disabled", "basic", "extended", "all"]

_SCHEMA = re.compile(r"edgekit\.bundle/([1-9][0-9]{0,8})")
_MODEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_KEY_ID = re.compile(r"[0-9a-f]{8}")
_DTYPE = re.compile(r"[a-z][a-z0-9]{0,19}")
_MAX_RANK = 16
_MAX_THREADS = 1024


@dataclass(frozen=True)
class BundleTarget:
    """What the bundle was built for.

    Attributes:
        name: The target: ``rpi5``.
        family: Targets between which bundles agree: ``arm64``.
        arch: The CPU's architecture: ``arm64``.
        onnxruntime_max: Newest onnxruntime that installs there: ``1.31``.
        opset: Default operator set of the model.
        threads: Intra-op threads.
    """

    name: str
    family: str
    arch: str
    onnxruntime_max: str
    opset: int
    threads: int


@dataclass(frozen=True)
class Pipeline:
    """How a sample becomes a prediction.

    Attributes:
        task: Name of a file in ``edgekit/runtime/tasks``.
        options: The task's options, plain JSON.
        files: Sidecar files of the task: name to member.
    """

    task: str
    options: Mapping[str, Json]
    files: Mapping[str, str]


@dataclass(frozen=True)
class Tensor:
    """A typed input or output; a string in the shape names a dynamic dimension."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class SessionOptions:
    """How the session is made; other levels give other int8 results."""

    optimization_level: OptimizationLevel
    threads: int


@dataclass(frozen=True)
class Placement:
    """Where the nodes of one operator are expected to run.

    Attributes:
        op: Operator type: ``Conv``.
        precision: ``int8`` or ``fp32``.
        provider: Execution provider: ``CPUExecutionProvider``.
        count: Nodes.
    """

    op: str
    precision: Literal["int8", "fp32"]
    provider: str
    count: int


@dataclass(frozen=True)
class Tolerance:
    """How far a device's outputs may be from the golden ones.

    Attributes:
        exact: True where they must be equal bit for bit.
        absolute: Largest difference of one value.
        cosine_min: Lowest cosine of one output.
        agreement_min: Lowest agreement of the task's predictions, 0..1.
    """

    exact: bool
    absolute: float
    cosine_min: float
    agreement_min: float


@dataclass(frozen=True)
class Golden:
    """The golden samples: raw inputs with the outputs of the shipped model.

    Attributes:
        graph_kind: Kind of graph: what arithmetic it holds.
        tolerance: Of the replay on a device.
        count: Samples.
        made_on: Kind of CPU whose arithmetic made the outputs: ``arm64``.
    """

    graph_kind: GraphKind
    tolerance: Tolerance
    count: int
    made_on: str


@dataclass(frozen=True)
class Member:
    """Size and digest of one file of the bundle."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a bundle is. See ``docs/bundle-format.md`` for every field.

    Attributes:
        model: The recipe's name.
        title: For people.
        serial: Grows with every release; a device refuses a lower one.
        license: SPDX expression.
        precision: ``fp32``, ``int8 static``, ``int8 dynamic``, …
        contract: The acceptance contract.
        placement: Where the operators are expected to run.
        plan_sha256: Digest of the plan that the bundle was built from.
        tools: Versions of edgekit, onnx and onnxruntime; nothing that the plan does not lock.
        key_id: The signing key's id; :func:`edgekit.toolchain.pack.write_bundle` fills it in.
        members: Every file but the manifest and its signature; filled in likewise.
    """

    model: str
    title: str
    serial: int
    license: str
    target: BundleTarget
    precision: str
    pipeline: Pipeline
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    session: SessionOptions
    contract: tuple[Requirement, ...]
    placement: tuple[Placement, ...]
    golden: Golden
    plan_sha256: str
    tools: Mapping[str, str]
    key_id: str = "00000000"
    members: Mapping[str, Member] = field(default_factory=dict)

    def to_json(self) -> dict[str, Json]:
        """Return the JSON form."""
        return {
            "schema": SCHEMA,
            "format": FORMAT,
            "model": self.model,
            "title": self.title,
            "serial": self.serial,
            "license": self.license,
            "target": dict(vars(self.target)),
            "precision": self.precision,
            "pipeline": {
                "task": self.pipeline.task,
                "options": dict(self.pipeline.options),
                "files": dict(self.pipeline.files),
            },
            "inputs": [_tensor_json(tensor) for tensor in self.inputs],
            "outputs": [_tensor_json(tensor) for tensor in self.outputs],
            "session": dict(vars(self.session)),
            "contract": [requirement.to_json() for requirement in self.contract],
            "placement": [dict(vars(row)) for row in self.placement],
            "golden": {
                "graph_kind": self.golden.graph_kind,
                "tolerance": dict(vars(self.golden.tolerance)),
                "count": self.golden.count,
                "made_on": self.golden.made_on,
            },
            "plan_sha256": self.plan_sha256,
            "tools": dict(self.tools),
            "key_id": self.key_id,
            "members": {path: dict(vars(member)) for path, member in self.members.items()},
        }

    def to_bytes(self) -> bytes:
        """Return the canonical form, which is what gets signed."""
        return canonical_json(self.to_json())


def parse_manifest(data: bytes, where: str = "manifest.json") -> Manifest:
    """Read a manifest that strangers wrote.

    Args:
        data: The bytes of ``manifest.json``, at most 1 MiB.
        where: Their name in messages.

    Raises:
        TrustError: Anything is not exactly as the format says, or the format is newer.
    """
    document = parse_object(data, where, most_bytes=MAX_MANIFEST_BYTES)
    _check_version(document, where)
    require_canonical(data, document, where)
    fields = Fields(document, where)
    fields.text("schema")
    fields.integer("format")
    manifest = Manifest(
        model=fields.text("model", pattern=_MODEL),
        title=fields.text("title"),
        serial=fields.integer("serial"),
        license=fields.text("license"),
        target=_target(fields.object("target")),
        precision=fields.text("precision"),
        pipeline=_pipeline(fields.object("pipeline")),
        inputs=tuple(_tensor(item) for item in fields.objects("inputs")),
        outputs=tuple(_tensor(item) for item in fields.objects("outputs")),
        session=_session(fields.object("session")),
        contract=tuple(map(Requirement.from_fields, fields.objects("contract"))),
        placement=tuple(_placement(item) for item in fields.objects("placement")),
        golden=_golden(fields.object("golden")),
        plan_sha256=fields.sha256("plan_sha256"),
        tools=_tools(fields),
        key_id=fields.text("key_id", pattern=_KEY_ID),
        members=_members(fields.object("members")),
    )
    fields.close()
    for name, path in manifest.pipeline.files.items():
        if path not in manifest.members:
            raise TrustError(f'pipeline file "{name}" is not among the members', where=where)
    return manifest


def _check_version(document: dict[str, Json], where: str) -> None:
    schema, version = document.get("schema"), document.get("format")
    match = _SCHEMA.fullmatch(schema) if isinstance(schema, str) else None
    number = int(match.group(1)) if match else 0
    if number < 1 or not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise TrustError("not the manifest of an edgekit bundle", where=where)
    if schema != SCHEMA or version > FORMAT:
        raise TrustError(
            f"made by a newer edgekit (format {schema}, {version}; this one reads up to "
            f"{SCHEMA}, {FORMAT})",
            hint="update edgekit here, or build the bundle with this version",
            where=where,
        )


def _target(fields: Fields) -> BundleTarget:
    target = BundleTarget(
        name=fields.text("name", pattern=_MODEL),
        family=fields.text("family", pattern=_MODEL),
        arch=fields.text("arch", pattern=_MODEL),
        onnxruntime_max=fields.text("onnxruntime_max"),
        opset=fields.integer("opset", 1, 1000),
        threads=fields.integer("threads", 1, _MAX_THREADS),
    )
    fields.close()
    return target


def _pipeline(fields: Fields) -> Pipeline:
    task = fields.text("task", pattern=_MODEL)
    options = fields.mapping("options")
    _check_depth(options, MAX_OPTIONS_DEPTH, fields)
    pipeline = Pipeline(task=task, options=options, files=fields.texts("files"))
    fields.close()
    return pipeline


def _check_depth(value: Json, left: int, fields: Fields) -> None:
    if left < 0:
        raise fields.refuse("options", f"is nested deeper than {MAX_OPTIONS_DEPTH}")
    inner = list(value.values()) if isinstance(value, dict) else value
    for item in inner if isinstance(inner, list) else ():
        _check_depth(item, left - 1, fields)


def _tensor(fields: Fields) -> Tensor:
    name = fields.text("name")
    dtype = fields.text("dtype", pattern=_DTYPE)
    shape = [_dim(dim, fields) for dim in fields.array("shape", most=_MAX_RANK)]
    fields.close()
    return Tensor(name=name, dtype=dtype, shape=tuple(shape))


def _dim(dim: Json, fields: Fields) -> int | str:
    if isinstance(dim, int) and not isinstance(dim, bool) and 0 <= dim < 2**31:
        return dim
    if isinstance(dim, str) and 0 < len(dim) <= MAX_TEXT and dim.isprintable():
        return dim
    raise fields.refuse("shape", "holds something that is neither a size nor a name")


def _tensor_json(tensor: Tensor) -> dict[str, Json]:
    return {"name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape)}


def _session(fields: Fields) -> SessionOptions:
    levels: tuple[OptimizationLevel, ...] = get_args(OptimizationLevel)
    session = SessionOptions(
        optimization_level=fields.choice("optimization_level", levels),
        threads=fields.integer("threads", 1, _MAX_THREADS),
    )
    fields.close()
    return session


def _placement(fields: Fields) -> Placement:
    row = Placement(
        op=fields.text("op"),
        precision=fields.choice("precision", ("int8", "fp32")),
        provider=fields.text("provider"),
        count=fields.integer("count"),
    )
    fields.close()
    return row


def _golden(fields: Fields) -> Golden:
    kinds: tuple[GraphKind, ...] = get_args(GraphKind)
    limits = fields.object("tolerance")
    tolerance = Tolerance(
        exact=limits.boolean("exact"),
        absolute=limits.number("absolute", 0.0),
        cosine_min=limits.number("cosine_min", -1.0, 1.0),
        agreement_min=limits.number("agreement_min", 0.0, 1.0),
    )
    limits.close()
    golden = Golden(
        graph_kind=fields.choice("graph_kind", kinds),
        tolerance=tolerance,
        count=fields.integer("count", 0, MAX_ITEMS),
        made_on=fields.text("made_on"),
    )
    fields.close()
    return golden


def _tools(fields: Fields) -> dict[str, str]:
    tools = fields.texts("tools", most=100)
    for name in ("edgekit", "onnx", "onnxruntime"):
        if name not in tools:
            raise fields.refuse("tools", f"does not name {name}")
    return tools


def _members(fields: Fields) -> dict[str, Member]:
    names = fields.names()
    problem = check_names(names)
    if problem is None and {"manifest.json", "manifest.sig"} & {name.lower() for name in names}:
        problem = "the manifest cannot list itself"
    if problem is not None:
        raise TrustError(f"members: {problem}", where=fields.name)
    members: dict[str, Member] = {}
    for name in names:
        entry = fields.object(name)
        members[name] = Member(
            size_bytes=entry.integer("size_bytes", 0, MAX_ARCHIVE_BYTES),
            sha256=entry.sha256("sha256"),
        )
        entry.close()
    return members
