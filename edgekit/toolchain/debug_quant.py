"""What quantization cost a bundle: layer by layer, output by output, sample by sample.

The facts come from the report that its build has left in the cache. Where that is gone, or where
all evaluation samples are asked for, the recipe's stages are run again and the bundle's own model
is compared with float32.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgekit.runtime.pipeline import MODEL_MEMBER
from edgekit.toolchain.api import find_recipe
from edgekit.toolchain.build import kept_build, locked_plan
from edgekit.toolchain.cache import Cache
from edgekit.toolchain.decide import decide
from edgekit.toolchain.events import OnEvent, ignore
from edgekit.toolchain.graph import Graph
from edgekit.toolchain.lock import read_lock
from edgekit.toolchain.plan import Plan
from edgekit.toolchain.project import folders
from edgekit.toolchain.quantize.candidates import FLOAT
from edgekit.toolchain.quantize.layers import find_layers
from edgekit.toolchain.recipe import Recipe
from edgekit.toolchain.report.document import SCHEMA, candidate_documents, preview
from edgekit.toolchain.settings import load_settings
from edgekit.toolchain.stages import Workbench
from edgekit.toolchain.targets import Resolved, load_target
from edgekit.wire.bundle import Bundle
from edgekit.wire.errors import BuildError, ConfigError
from edgekit.wire.manifest import Manifest

_WORST = 16
_SAME = 0.9995  # an agreement of less is a difference, as in reports
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Facts:
    """What is known of a bundle's quantization, wherever it comes from.

    Attributes:
        source: ``report`` of its build, or ``recipe``: measured again.
        note: The same for people.
        candidate: Name of the candidate that ships.
        reason: Why it ships.
        candidates: What was tried, as in a report's document.
        refused: Plans that were not evaluated, with the reason.
        layers: ``name``, ``op``, ``parameters``, ``sqnr_db`` (None without ranges) and ``int8``, in
            graph order.
        outputs: Differences from float32, one an output.
        samples: ``set``, ``metric``, ``n``, ``differing`` and ``rows``, the worst first.
    """

    source: Literal["report", "recipe"]
    note: str
    candidate: str
    reason: str
    candidates: Sequence[Mapping[str, Any]]
    refused: Mapping[str, str]
    layers: Rows
    outputs: Sequence[Mapping[str, Any]]
    samples: Mapping[str, Any]


def debug_quant(
    bundle: Bundle,
    *,
    project: Path,
    rebuild: bool = False,
    on_event: OnEvent = ignore,
    **settings: object,
) -> dict[str, Any]:
    """Find out what quantization cost a bundle.

    Args:
        bundle: Open and verified.
        project: Folder whose ``models/``, ``targets/`` and ``edgekit.toml`` count.
        rebuild: Measure again, on all evaluation samples, even if the build's report is there.
        on_event: Hears of progress.
        **settings: Any setting of ``edgekit.toml`` by name: ``cache_dir="…"``.

    Returns:
        A JSON document: layers in graph order with why a float32 one is float32, outputs, samples,
        and the recipe to measure again with, if there is one.

    Raises:
        ConfigError: Neither the build's report nor the recipe is to be had.
        EdgekitError: A stage that is run again fails.
    """
    loaded = load_settings(project, dict(settings), os.environ)
    cache = Cache(loaded.cache_dir)
    facts = None if rebuild else _from_report(bundle, cache)
    if facts is None:
        recipe, resolved = _named(bundle.manifest, project, rebuild=rebuild)
        plan = locked_plan(recipe, resolved, loaded.value("search"), read_lock(project))
        bench = Workbench(recipe, resolved, plan, cache, on_event, loaded.offline)
        facts = _from_recipe(bundle, bench, plan)
    return {**_document(bundle, facts), "recipe": _recipe_file(bundle.manifest, project)}


def _recipe_file(manifest: Manifest, project: Path) -> str | None:
    try:
        return find_recipe(manifest.model, project).file
    except ConfigError:
        return None


def _from_report(bundle: Bundle, cache: Cache) -> Facts | None:
    """Read the report of the build that made exactly this bundle."""
    folder = kept_build(cache, bundle.manifest.plan_sha256, bundle.manifest.key_id)
    if folder is None:
        return None
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    summary = report["summary"]
    if report.get("schema") != SCHEMA or summary["sha256"] != bundle.sha256():
        return None
    shipped = next(c for c in report["candidates"] if c["name"] == summary["candidate"])
    golden = report["golden"]
    return Facts(
        source="report",
        note="from the report of its build, in the cache",
        candidate=summary["candidate"],
        reason=summary["reason"],
        candidates=report["candidates"],
        refused=report["refused"],
        layers=report["layers"]["rows"] if report["layers"] else _float_layers(bundle),
        outputs=shipped["outputs"],
        samples=_samples("golden", report["candidates"], golden, [g["agreement"] for g in golden]),
    )


def _from_recipe(bundle: Bundle, bench: Workbench, plan: Plan) -> Facts:
    """Run the stages of the recipe and compare the bundle's own model with float32."""
    decision = decide(bench)
    graph = _model(bundle)
    candidates = candidate_documents(decision.judged)
    same = next((j for j in decision.judged if j.candidate.graph.sha256 == graph.sha256), None)
    precision = bundle.manifest.precision
    outputs = [] if precision == "fp32" else bench.differences(graph)
    reference = bench.predictions(bench.canonical.graph, "fp32")
    found = bench.predictions(graph, "the bundle's model")
    scores = bench.task.agreement(reference, found).scores
    order = sorted(range(len(scores)), key=lambda i: scores[i])[:_WORST]
    rows = [
        {
            "index": i,
            "name": bench.evaluation_set.samples[i].name,
            "agreement": scores[i],
            "preview": preview(bench.evaluation_set.samples[i]),
            "fp32": reference[i],
            "shipped": found[i],
        }
        for i in order
    ]
    changed = "" if plan.sha256 == bundle.manifest.plan_sha256 else _changed(same is not None)
    return Facts(
        source="recipe",
        note=f"measured again with the recipe {bench.recipe.file}{changed}",
        candidate=same.candidate.name if same else precision,
        reason=decision.reason if same is decision.shipped else "",
        candidates=candidates,
        refused=decision.refused,
        layers=_measured_layers(bundle, bench, candidates),
        outputs=[dataclasses.asdict(difference) for difference in outputs],
        samples=_samples("evaluation", candidates, rows, scores),
    )


def _changed(is_tried: bool) -> str:
    what = "; recipe or edgekit have changed since the bundle was built"
    return what if is_tried else f"{what}, and a build would now give another model"


def _measured_layers(
    bundle: Bundle, bench: Workbench, candidates: Sequence[Mapping[str, Any]]
) -> Rows:
    if not any("static" in candidate["precision"] for candidate in candidates):
        return _float_layers(bundle)
    calibration = bench.calibration
    ops = tuple({layer.op for layer in calibration.layers})
    left = {layer.name for layer in find_layers(_model(bundle).proto, ops)}
    return [
        {
            "name": layer.name,
            "op": layer.op,
            "parameters": layer.parameters,
            "sqnr_db": calibration.sqnr_db[layer.name],
            "int8": layer.name not in left,
        }
        for layer in calibration.layers
    ]


def _float_layers(bundle: Bundle) -> Rows:
    """List the layers whose weights are float32 in the bundle's model."""
    return [
        {"name": x.name, "op": x.op, "parameters": x.parameters, "sqnr_db": None, "int8": False}
        for x in find_layers(_model(bundle).proto)
    ]


def _model(bundle: Bundle) -> Graph:
    import onnx

    return Graph.of(onnx.load_from_string(bundle.read(MODEL_MEMBER)))


def _samples(
    name: str,
    candidates: Sequence[Mapping[str, Any]],
    rows: Rows,
    scores: Sequence[float],
) -> dict[str, Any]:
    return {
        "set": name,
        "metric": candidates[0]["measurements"][0]["metric"],
        "n": len(scores),
        "differing": sum(float(score) < _SAME for score in scores),
        "rows": rows[:_WORST],
    }


def _named(manifest: Manifest, project: Path, *, rebuild: bool) -> tuple[Recipe, Resolved]:
    try:
        recipe = find_recipe(manifest.model, project)
        return recipe, load_target(manifest.target.name, folders(project, "targets"))
    except ConfigError as error:
        gone = "" if rebuild else "the report of its build is not in this cache, and "
        hint = "name its project with --project DIR; `edgekit init FILE.onnx --data DIR` makes one"
        if not rebuild:
            hint += "; or build it again, or name the cache of its build with --cache-dir"
        raise ConfigError(
            f"{gone}there is no recipe to measure again with: {error.message}",
            hint=hint,
            where=error.where or manifest.model,
        ) from error


def _document(bundle: Bundle, facts: Facts) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "bundle": str(bundle.path),
        "model": manifest.model,
        "title": manifest.title,
        "target": manifest.target.name,
        "precision": manifest.precision,
        "candidate": facts.candidate,
        "reason": facts.reason,
        "source": facts.source,
        "note": facts.note,
        "layers": _explained(facts, manifest.precision),
        "outputs": list(facts.outputs),
        "samples": facts.samples,
        "candidates": list(facts.candidates),
        "refused": dict(facts.refused),
    }


def _explained(facts: Facts, precision: str) -> Rows:
    """Number the layers and say why a float32 one is float32."""
    shipped = next((c for c in facts.candidates if c["name"] == facts.candidate), None)
    kept = list(shipped["kept_float"]) if shipped is not None else []
    before = _before(facts)
    rows = []
    for number, row in enumerate(facts.layers, 1):
        why = "" if row["int8"] else _why(row, kept, before, precision, facts.reason)
        rows.append({"number": number, **row, "why": why})
    return rows


def _before(facts: Facts) -> str:
    """Say what the plan missed that had fewer layers in float32."""
    names = [candidate["name"] for candidate in facts.candidates]
    if facts.candidate not in names:
        return ""
    tried = facts.candidates[: names.index(facts.candidate)]
    fewer = [c for c in tried if c["reason"] and c["precision"] != "fp32"]
    return f"{fewer[-1]['name']}: {fewer[-1]['reason']}" if fewer else ""


def _why(
    row: Mapping[str, Any], kept: Sequence[str], before: str, precision: str, reason: str
) -> str:
    if precision in FLOAT:
        return reason or f"the bundle is {precision}"
    if "static" not in precision:
        return f"dynamic int8 leaves this {row['op']} as it is"
    if row["name"] not in kept:
        return "the plan leaves it as it is"
    # A plan names its float32 layers with the one that costs most first.
    place = f"costs most, {kept.index(row['name']) + 1} of {len(kept)} that the plan leaves out"
    return f"{place}; {before}" if before else place


def plottable(document: Mapping[str, Any]) -> Rows:
    """Return the layers that a plot can show.

    Raises:
        BuildError: No layer was measured: the model is dynamically quantized.
    """
    rows = [dict(row) for row in document["layers"] if row["sqnr_db"] is not None]
    if not rows:
        raise BuildError(
            "there is no noise by layer to plot: no plan with calibrated ranges was tried",
            hint="-o page.html shows outputs and samples",
        )
    return rows
