"""What a report shows, as plain JSON; drawing it is another module's work."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Sequence
from typing import Any

from edgekit.runtime.golden import Recorded, record
from edgekit.runtime.host import host_kind
from edgekit.runtime.session import open_session, runner
from edgekit.toolchain.decide import Decision, Judged, describe_limit
from edgekit.toolchain.frontier import frontier
from edgekit.toolchain.readers import Sample
from edgekit.toolchain.stages import Workbench

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
_THUMBNAIL = 240
_MAX_TEXT = 2000
SCHEMA = "edgekit.report/1"


def report_document(
    bench: Workbench,
    decision: Decision,
    summary: dict[str, Any],
    samples: Sequence[Sample],
    recorded: Sequence[Recorded],
) -> dict[str, Any]:
    """Collect what a report shows.

    Args:
        bench: The build.
        decision: What was decided, with everything that was tried.
        summary: Facts of the bundle.
        samples: The golden samples.
        recorded: What the shipped model answered on them.

    Returns:
        A JSON document of schema ``edgekit.report/1``.
    """
    target = bench.resolved.target
    shipped = decision.winner
    return {
        "schema": SCHEMA,
        "summary": summary,
        "target": {
            "name": target.name,
            "title": target.title,
            "core": target.cpu.core,
            "cores": target.cpu.cores,
            "threads": target.runtime.threads,
            "family": target.family,
        },
        "host": host_kind(),
        "plan": bench.plan.to_json(),
        "candidates": candidate_documents(decision.judged),
        "search": bench.plan.step("quantize").values()["search"],
        "stopped": decision.stopped,
        "refused": decision.refused,
        "layers": _layers(bench, decision),
        "passes": list(bench.canonical.notes),
        "ops": {
            "fp32": _ops(bench, decision.judged[0]),
            "shipped": _ops(bench, shipped),
        },
        "host_timing": _host_timing(bench, shipped),
        "golden": _golden(bench, samples, recorded),
        "data": {
            "calibration": {
                "n": len(bench.calibration_set.samples),
                "sha256": bench.calibration_set.sha256,
            },
            "evaluation": {
                "n": len(bench.evaluation_set.samples),
                "labelled": sum(s.label is not None for s in bench.evaluation_set.samples),
                "sha256": bench.evaluation_set.sha256,
            },
        },
    }


def candidate_documents(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """Return candidates with what was measured of them, as plain JSON."""
    best = frontier(judged)
    return [{**_candidate(j), "frontier": on} for j, on in zip(judged, best, strict=True)]


def _candidate(judged: Judged) -> dict[str, Any]:
    return {
        "name": judged.candidate.name,
        "precision": judged.candidate.precision,
        "int8_share": judged.candidate.int8_share,
        "size_bytes": judged.candidate.graph.size_bytes,
        "kept_float": list(judged.candidate.kept_float),
        "measurements": [m.to_json() for m in judged.measurements],
        "contract": [
            {
                **v.requirement.to_json(),
                "limit": describe_limit(v.requirement),
                "outcome": v.outcome.value,
            }
            for v in judged.verdicts
        ],
        "outputs": [dataclasses.asdict(output) for output in judged.outputs],
        "latency_ratio": judged.latency_ratio,
        "latency_ratio_kind": judged.ratio_kind,
        "reason": judged.reason,
    }


def _layers(bench: Workbench, decision: Decision) -> dict[str, Any] | None:
    """SQNR by layer, where a static plan was tried; it explains a refusal, too."""
    if not any("static" in judged.candidate.precision for judged in decision.judged):
        return None
    calibration = bench.calibration
    shipped = decision.winner.candidate
    kept = set(shipped.kept_float)
    if "static" not in shipped.precision:
        kept.update(layer.name for layer in calibration.layers)
    return {
        "rule": calibration.rule,
        "rule_sqnr_db": dict(calibration.rule_sqnr_db),
        "rows": [
            {
                "name": layer.name,
                "op": layer.op,
                "parameters": layer.parameters,
                "sqnr_db": calibration.sqnr_db[layer.name],
                "int8": layer.name not in kept,
            }
            for layer in calibration.layers
        ],
    }


def _ops(bench: Workbench, judged: Judged) -> list[dict[str, Any]]:
    """Predicted time by operator and place, the slowest first."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for node in bench.predict(judged.candidate.graph).nodes:
        key = (node.facts.op, node.facts.place.value)
        row = rows.setdefault(
            key, {"op": key[0], "place": key[1], "count": 0, "macs": 0, "ms": 0.0}
        )
        row["count"] += 1
        row["macs"] += node.facts.macs or 0
        row["ms"] += node.total_ms
    return sorted(rows.values(), key=lambda row: -float(row["ms"]))


def _host_timing(bench: Workbench, shipped: Judged) -> dict[str, Any] | None:
    """Paired latency on the device or this host, which is a hint if the target is another one."""
    if shipped.candidate.precision == "fp32":
        return None
    timing = shipped.timing or bench.timing(shipped.candidate.graph)
    return {**dataclasses.asdict(timing), "where": bench.timed_on, "kind": "measured"}


def _golden(
    bench: Workbench, samples: Sequence[Sample], recorded: Sequence[Recorded]
) -> list[dict[str, Any]]:
    """Golden samples, the one on which fp32 and the shipped model differ most first."""
    run = runner(open_session(bench.canonical.graph.to_bytes()))
    reference = [record(bench.task, run, s.data).prediction for s in samples]
    shipped = [r.prediction for r in recorded]
    agreement = bench.task.agreement(reference, shipped)
    rows = [
        {
            "index": index,
            "name": sample.name,
            "agreement": agreement.scores[index],
            "preview": preview(sample),
            "fp32": reference[index],
            "shipped": shipped[index],
        }
        for index, sample in enumerate(samples)
    ]
    return sorted(rows, key=lambda row: float(str(row["agreement"])))


def preview(sample: Sample) -> dict[str, Any] | None:
    """Return a small picture or the text of a sample, as a report shows it; None of others."""
    if sample.suffix.lower() in _PICTURES:
        from PIL import Image, ImageOps

        with Image.open(io.BytesIO(sample.data)) as opened:
            # Upright, as the tasks see it: boxes are written in these pixels.
            picture = ImageOps.exif_transpose(opened).convert("RGB")
        width, height = picture.size
        picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
        buffer = io.BytesIO()
        picture.save(buffer, format="JPEG", quality=80)
        return {
            "kind": "image",
            "width": width,
            "height": height,
            "data": "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode(),
        }
    if sample.suffix.lower() == ".txt":
        return {"kind": "text", "data": sample.data.decode(errors="replace")[:_MAX_TEXT]}
    return None
