"""Put a decided build together: members, manifest, SBOM, summary, report."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import edgekit
from edgekit.runtime.golden import record, to_members
from edgekit.runtime.host import host_kind
from edgekit.runtime.pipeline import MODEL_MEMBER
from edgekit.runtime.reference import REFERENCE_NAME
from edgekit.runtime.session import open_session, runner
from edgekit.toolchain.decide import Decision, Judged, describe_limit
from edgekit.toolchain.pack import write_bundle
from edgekit.toolchain.pins import version_of
from edgekit.toolchain.placement import Place
from edgekit.toolchain.quantize.candidates import FLOAT
from edgekit.toolchain.recipe import Recipe
from edgekit.toolchain.reference import make_calibrated
from edgekit.toolchain.report import render_report
from edgekit.toolchain.report.document import report_document
from edgekit.toolchain.samples import evenly
from edgekit.toolchain.sbom import SbomInputs, SbomPart, make_sbom
from edgekit.toolchain.stages import Workbench
from edgekit.toolchain.steadiness import Steady, choose_steady
from edgekit.wire.bundle import MEASUREMENTS_NAME
from edgekit.wire.manifest import (
    BundleTarget,
    Golden,
    GraphKind,
    Manifest,
    Pipeline,
    Placement,
    SessionOptions,
    Tensor,
    Tolerance,
)
from edgekit.wire.results import Results
from edgekit.wire.signing import PrivateKey

GOLDEN_SAMPLES = 16
# Between QuantizeLinear and DequantizeLinear these run on integers, or only move values.
_INTEGER_OPS = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "Conv", "Gemm", "MatMul", "Relu", "Clip", "MaxPool"}
    | {"Flatten", "Reshape", "Squeeze"}
)

# Static int8 is integer arithmetic, equal on every CPU that does not saturate.
EXACT = Tolerance(exact=True, absolute=0.0, cosine_min=1.0, agreement_min=1.0)
# Golden samples are chosen among this many.
_GOLDEN_CANDIDATES = 24


def produce_bundle(out: Path, bench: Workbench, decision: Decision, key: PrivateKey) -> None:
    """Write bundle, report and summary of a decided build into a folder."""
    shipped = decision.winner
    golden = _golden(bench, shipped)
    members = _members(bench, decision, golden)
    draft = _manifest(bench, shipped, golden)
    packed = write_bundle(out / "bundle.ekb", draft, members, key)
    summary = _summary(bench, decision, packed.sha256, packed.size_bytes, key)
    document = report_document(bench, decision, summary, golden.samples, golden.recorded)
    (out / "summary.json").write_text(json.dumps(summary))
    (out / "report.json").write_text(json.dumps(document))
    (out / "report.html").write_text(render_report(document), encoding="utf-8")


def _golden(bench: Workbench, shipped: Judged) -> Steady:
    samples, graph = bench.calibration_set.samples, shipped.candidate.graph
    if graph_kind(shipped) == "static-int8":
        chosen = evenly(samples, GOLDEN_SAMPLES)
        run = runner(open_session(graph.to_bytes()))
        answers = tuple(record(bench.task, run, sample.data) for sample in chosen)
        return Steady(chosen, answers, EXACT)
    places = {node.facts.name: node.facts.place for node in bench.predict(graph).nodes}
    return choose_steady(
        bench.task, graph, places, evenly(samples, _GOLDEN_CANDIDATES), GOLDEN_SAMPLES
    )


def _members(bench: Workbench, decision: Decision, golden: Steady) -> dict[str, bytes | Path]:
    shipped = decision.winner
    members: dict[str, bytes | Path] = {MODEL_MEMBER: shipped.candidate.graph.to_bytes()}
    for name, data in bench.task_files.items():
        members[f"pipeline/{name}"] = data
    for index, (sample, answer) in enumerate(zip(golden.samples, golden.recorded, strict=True)):
        members.update(to_members(index, sample.suffix, sample.data, answer))
    members[MEASUREMENTS_NAME] = Results(
        shipped=shipped.measurements, fp32=decision.judged[0].measurements
    ).to_bytes()
    run = runner(open_session(shipped.candidate.graph.to_bytes()))
    members[REFERENCE_NAME] = make_calibrated(
        bench.task, run, bench.calibration_set.samples
    ).to_bytes()
    members["sbom.cdx.json"] = make_sbom(_sbom_inputs(bench, shipped))
    members["licenses/NOTICE.txt"] = _notice(bench.recipe).encode()
    return members


def _manifest(bench: Workbench, shipped: Judged, golden: Steady) -> Manifest:
    recipe, target, graph = bench.recipe, bench.resolved.target, shipped.candidate.graph
    kind = graph_kind(shipped)
    return Manifest(
        model=recipe.name,
        title=recipe.title,
        serial=recipe.serial,
        license=recipe.license,
        target=BundleTarget(
            name=target.name,
            family=target.family,
            arch=target.cpu.arch,
            onnxruntime_max=target.runtime.onnxruntime_max,
            opset=graph.opset,
            threads=target.runtime.threads,
        ),
        precision=shipped.candidate.precision,
        pipeline=Pipeline(
            task=recipe.task,
            options=recipe.task_options,
            files={name: f"pipeline/{name}" for name in bench.task_files},
        ),
        inputs=tuple(Tensor(t.name, t.dtype, t.shape) for t in recipe.inputs if t.fixed is None),
        outputs=tuple(Tensor(t.name, t.dtype, t.shape) for t in recipe.outputs),
        session=SessionOptions(optimization_level="all", threads=target.runtime.threads),
        contract=recipe.contract_for(target.name),
        placement=_placement(bench, shipped),
        golden=Golden(kind, golden.tolerance, len(golden.samples), host_kind()),
        plan_sha256=bench.plan.sha256,
        tools=_tools(),
    )


def graph_kind(shipped: Judged) -> GraphKind:
    """Return the kind of graph: a static-int8 one must be answered bit for bit."""
    if shipped.candidate.precision in FLOAT:
        return "fp32"
    if "dynamic" in shipped.candidate.precision:
        return "dynamic"
    # Exact only where no float32 arithmetic is left between the first and the last rounding.
    ops = {node.op_type for node in shipped.candidate.graph.proto.graph.node}
    exact = not shipped.candidate.kept_float and ops <= _INTEGER_OPS
    return "static-int8" if exact else "static-mixed"


def _placement(bench: Workbench, shipped: Judged) -> tuple[Placement, ...]:
    rows: Counter[tuple[str, Literal["int8", "fp32"]]] = Counter()
    for node in bench.predict(shipped.candidate.graph).nodes:
        rows[node.facts.op, "int8" if node.facts.place is Place.INT8 else "fp32"] += 1
    return tuple(
        Placement(op, precision, "CPUExecutionProvider", count)
        for (op, precision), count in sorted(rows.items())
    )


def _sbom_inputs(bench: Workbench, shipped: Judged) -> SbomInputs:
    recipe = bench.recipe
    return SbomInputs(
        model=recipe.name,
        title=recipe.title,
        serial=recipe.serial,
        license=recipe.license,
        target=bench.plan.target,
        task=recipe.task,
        precision=shipped.candidate.precision,
        model_sha256=shipped.candidate.graph.sha256,
        plan_sha256=bench.plan.sha256,
        measurements=shipped.measurements,
        parts=tuple(_sbom_parts(recipe)),
        tools=_tools(),
    )


def _sbom_parts(recipe: Recipe) -> Iterator[SbomPart]:
    yield SbomPart("source", recipe.name, recipe.source.uri, recipe.source.sha256, recipe.license)
    for package in recipe.packages:
        yield SbomPart("package", package.uri, package.uri, package.sha256)
    for name, reference in recipe.task_files.items():
        yield SbomPart("file", name, reference.uri, reference.sha256)
    for role, specs in (("calibration", recipe.calibration), ("evaluation", recipe.evaluation)):
        for spec in specs:
            if spec.source is not None:
                kind: Literal["calibration", "evaluation"] = (
                    "calibration" if role == "calibration" else "evaluation"
                )
                yield SbomPart(kind, spec.source.uri, spec.source.uri, spec.source.sha256)


def _tools() -> dict[str, str]:
    return {
        "edgekit": edgekit.__version__,
        "onnx": version_of("onnx") or "",
        "onnxruntime": version_of("onnxruntime") or "",
    }


def _notice(recipe: Recipe) -> str:
    lines = [f"{recipe.title}", f"Licence: {recipe.license}", f"Source: {recipe.source.uri}"]
    lines += [f"Package: {package.uri}" for package in recipe.packages]
    return "\n".join(lines) + "\n"


def _summary(
    bench: Workbench, decision: Decision, sha256: str, size_bytes: int, key: PrivateKey
) -> dict[str, Any]:
    shipped = decision.winner
    return {
        "model": bench.plan.model,
        "target": bench.plan.target,
        "title": bench.recipe.title,
        "license": bench.recipe.license,
        "precision": shipped.candidate.precision,
        "candidate": shipped.candidate.name,
        "reason": decision.reason,
        "sha256": sha256,
        "size_bytes": size_bytes,
        "key_id": key.key_id,
        "plan_sha256": bench.plan.sha256,
        "latency_ratio": shipped.latency_ratio,
        "latency_ratio_kind": shipped.ratio_kind,
        "fp32": [m.to_json() for m in decision.judged[0].measurements],
        "measurements": [m.to_json() for m in shipped.measurements],
        "contract": [
            {
                **verdict.requirement.to_json(),
                "outcome": verdict.outcome.value,
                "limit": describe_limit(verdict.requirement),
                "where": verdict.requirement.where,
            }
            for verdict in shipped.verdicts
        ],
        "left_out": [*bench.calibration_set.left_out, *bench.evaluation_set.left_out],
    }
