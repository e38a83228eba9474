"""The report as one HTML page: no network, no scripts, the same bytes for the same document.

Everything in the document is untrusted text. The template escapes it, pictures are taken only as
``data:image`` URIs, nothing becomes a link, and the page's own content security policy forbids
scripts and anything from outside.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgekit.toolchain.refusals import summed_up
from edgekit.toolchain.report import plots, words
from edgekit.toolchain.report.figure import Ink
from edgekit.toolchain.report.samples import differing, shown_samples
from edgekit.toolchain.report.templates import markup, template
from edgekit.wire.errors import ConfigError

SCHEMA = "edgekit.report/1"
_MAX_VALUE = 2000
_OUTCOMES = {
    "pass": ("✓", "met"),
    "fail": ("✗", "not met"),
    "undecided": ("?", "left to the device"),
    "absent": ("✗", "not measured"),
}
_ROLES = {"fetch": "model and its files", "calibrate": "calibration", "verify": "evaluation"}

Document = Mapping[str, Any]


def render_page(document: Document) -> str:
    """Draw the page.

    Args:
        document: Of schema ``edgekit.report/1``.

    Returns:
        HTML.

    Raises:
        ConfigError: The document is of another schema or a part is missing or malformed.
        MissingToolError: jinja2 or matplotlib is not installed.
    """
    if document.get("schema") != SCHEMA:
        raise ConfigError(
            f"not a report: its schema is {document.get('schema')!r}, expected {SCHEMA!r}"
        )
    try:
        view = _view(document)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ConfigError(
            f"the report's document is malformed: {type(error).__name__}: {error}"
        ) from error
    return template("page.html.j2").render(view)


def _view(document: Document) -> dict[str, Any]:
    """Compute everything that the template shows."""
    summary = document["summary"]
    metrics = _metric_rows(summary)
    tried = _candidates(document)
    golden = document["golden"]
    return {
        "document": document,
        "refused": summed_up(dict(sorted(document["refused"].items()))),
        "summary": summary,
        "target": document["target"],
        "verdict": _verdict(metrics),
        "metrics": metrics,
        "static_ships": "static" in summary["precision"],
        "is_fp32": summary["precision"] == "fp32",
        "ships": words.ships(summary["precision"], summary["reason"]),
        "before_after": list(_before_after(document, metrics)),
        "candidates": tried,
        "candidate_plot": _candidate_plot(document, tried),
        "layers": _layers(document),
        "operators": _operators(document),
        "samples": shown_samples(golden),
        "golden_count": len(golden),
        "golden_differing": differing(golden),
        "sources": list(_sources(document["plan"])),
        "tools": _tools(document["plan"]),
        "steps": list(_steps(document["plan"])),
        "download": _download(document),
    }


def _metric_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Join requirements and measurements: the contract first, then what it does not limit."""
    shipped = {m["metric"]: m for m in summary["measurements"]}
    fp32 = {m["metric"]: m for m in summary["fp32"]}
    required = [r["metric"] for r in summary["contract"]]
    rows = [
        _metric_row(r["metric"], r, shipped.get(r["metric"]), fp32.get(r["metric"]))
        for r in summary["contract"]
    ]
    free = [name for name in shipped if name not in required]
    return rows + [_metric_row(name, None, shipped[name], fp32.get(name)) for name in free]


def _metric_row(
    metric: str,
    requirement: Mapping[str, Any] | None,
    shipped: Mapping[str, Any] | None,
    fp32: Mapping[str, Any] | None,
) -> dict[str, Any]:
    outcome = None if requirement is None else requirement["outcome"]
    sign, word = ("", "no limit") if outcome is None else _OUTCOMES[outcome]
    bounds = None if shipped is None else shipped.get("interval")
    return {
        "metric": metric,
        "label": words.metric_label(metric),
        "fp32": "–" if fp32 is None else words.quantity(metric, fp32["value"]),
        "shipped": "–" if shipped is None else words.quantity(metric, shipped["value"]),
        "limit": "–" if requirement is None else words.limit_text(metric, requirement["limit"]),
        "line": None if requirement is None else _line(requirement, fp32),
        "where_limit": "" if requirement is None else requirement.get("where", ""),
        "outcome": outcome or "none",
        "sign": sign,
        "word": word,
        "n": None if shipped is None else shipped.get("n"),
        "interval": None if bounds is None else words.interval(metric, (bounds[0], bounds[1])),
        "provenance": "absent" if shipped is None else words.provenance(shipped),
        "kind": None if shipped is None else shipped["kind"],
        "where": "" if shipped is None else shipped["where"],
    }


def _line(requirement: Mapping[str, Any], fp32: Mapping[str, Any] | None) -> float | None:
    """Return where a plot draws the limit; one relative to fp32 is moved there."""
    bound = requirement.get("min", requirement.get("max"))
    if bound is None or requirement["vs"] != "fp32":
        return None if bound is None else float(bound)
    return None if fp32 is None else float(fp32["value"]) + float(bound)


def _verdict(metrics: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    limited = [m for m in metrics if m["outcome"] != "none"]
    failed = [m["label"] for m in limited if m["outcome"] in ("fail", "absent")]
    open_ = [m["label"] for m in limited if m["outcome"] == "undecided"]
    if failed:
        return {
            "state": "fail",
            "sign": "✗",
            "text": f"Does not meet its contract: {', '.join(failed)}",
        }
    if not limited:
        return {"state": "none", "sign": "–", "text": "No contract: nothing was required"}
    met = f"{len(limited) - len(open_)} of {len(limited)} limits"
    if open_:
        return {
            "state": "undecided",
            "sign": "?",
            "text": f"Meets {met}; the device decides {', '.join(open_)}",
        }
    return {"state": "pass", "sign": "✓", "text": f"Meets its contract, {met}"}


def _before_after(
    document: Document, metrics: Sequence[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Draw one figure a metric; where fp32 ships, beside the fastest int8 candidate."""
    summary = document["summary"]
    rows = [("fp32", summary["fp32"], Ink.FP32), ("shipped", summary["measurements"], Ink.SHIPPED)]
    if summary["precision"] == "fp32":
        rows = [("fp32, ships", summary["fp32"], Ink.SHIPPED)]
        others = [c for c in document["candidates"] if c["precision"] != "fp32"]
        if others:
            best = min(others, key=lambda c: float(c["latency_ratio"]))
            rows.append(("int8, refused", best["measurements"], Ink.FP32))
    for index, metric in enumerate(metrics):
        bars = [
            plots.Bar(label, float(m["value"]), _pair(m.get("interval")), colour)
            for label, measurements, colour in rows
            for m in measurements
            if m["metric"] == metric["metric"]
        ]
        if bars:
            svg = plots.before_after(
                f"metric-{index}", metric["metric"], bars, metric["line"], metric["limit"]
            )
            yield {
                "label": metric["label"],
                "provenance": metric["provenance"],
                "kind": metric["kind"],
                "banded": any(b.interval is not None for b in bars),
                "svg": markup(svg),
            }


def _pair(bounds: Sequence[float] | None) -> tuple[float, float] | None:
    return None if bounds is None else (float(bounds[0]), float(bounds[1]))


def _candidates(document: Document) -> list[dict[str, Any]]:
    """Describe what was tried, numbered; the same one twice stands once."""
    ships = document["summary"]["candidate"]
    found: dict[str, dict[str, Any]] = {}
    for candidate in document["candidates"]:
        if candidate["name"] in found:
            continue
        missed = [v["metric"] for v in candidate["contract"] if v["outcome"] in ("fail", "absent")]
        is_ship = candidate["name"] == ships
        kind = "misses" if missed else "fp32" if candidate["precision"] == "fp32" else "meets"
        accuracy = candidate["measurements"][0]
        found[candidate["name"]] = {
            **candidate,
            "number": len(found) + 1,
            "kind": "ships" if is_ship else kind,
            "missed": missed,
            "accuracy": float(accuracy["value"]),
            "accuracy_metric": accuracy["metric"],
            "accuracy_label": words.metric_label(accuracy["metric"]),
            "accuracy_text": words.quantity(accuracy["metric"], accuracy["value"]),
            "reason": "ships" if is_ship else candidate["reason"] or "the reference",
        }
    return list(found.values())


def _candidate_plot(
    document: Document, tried: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    if len(tried) < 2:  # noqa: PLR2004 - one point compares nothing
        return None
    metric = tried[0]["accuracy_metric"]
    limit, label = None, ""
    for requirement in document["summary"]["contract"]:
        if requirement["metric"] == metric:
            reference = {m["metric"]: m for m in document["summary"]["fp32"]}
            limit = _line(requirement, reference.get(metric))
            label = words.limit_text(metric, requirement["limit"])
    points = [
        plots.Point(
            c["number"],
            float(c["latency_ratio"]),
            c["accuracy"],
            c["kind"],
            c["size_bytes"] / tried[0]["size_bytes"],
            c["frontier"],
        )
        for c in tried
    ]
    svg = plots.candidates("candidates", points, metric, limit)
    return {"svg": markup(svg), "limit": f"{words.metric_label(metric)} {label}" if label else ""}


def _layers(document: Document) -> dict[str, Any] | None:
    layers = document["layers"]
    if not layers or not layers["rows"]:
        return None
    rows = [{**row, "number": i + 1} for i, row in enumerate(layers["rows"])]
    return {
        "svg": markup(plots.layers("layers", rows)),
        "rule": layers["rule"],
        "rules": sorted(layers["rule_sqnr_db"].items()),
        "rows": rows,
        "lowest": sorted(rows, key=lambda r: (float(r["sqnr_db"]), r["number"]))[:5],
        "kept": sum(not row["int8"] for row in rows),
    }


def _operators(document: Document) -> dict[str, Any] | None:
    ops = document["ops"]
    total = {side: sum(float(r["ms"]) for r in ops[side]) for side in ("fp32", "shipped")}
    if not total["fp32"] and not total["shipped"]:
        return None
    # Where fp32 ships the two are the same model.
    before = [] if document["summary"]["precision"] == "fp32" else ops["fp32"]
    return {
        "svg": markup(plots.operators("operators", before, ops["shipped"])),
        "total": {side: words.quantity("total_ms", value) for side, value in total.items()},
        "rows": ops["shipped"],
    }


def _sources(plan: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """List what was fetched: the model, its files, the data sets; with digests."""
    for step in plan["steps"]:
        if step["name"] == "fetch":
            for name, param in step["params"].items():
                yield _source(_ROLES["fetch"], name, param["value"])
        data = step["params"].get("data")
        if data is not None and step["name"] in _ROLES:
            for spec in data["value"]:
                reader = f"read by {spec['reader']}"
                yield _source(_ROLES[step["name"]], reader, spec.get("source"))


def _source(role: str, name: str, value: object) -> dict[str, str]:
    row = {"role": role, "name": name, "uri": "made by the reader", "sha256": ""}
    if isinstance(value, list) and len(value) == 2:  # noqa: PLR2004 - URI and digest
        row |= {"uri": str(value[0]), "sha256": str(value[1])}
    elif value is not None:
        row["uri"] = _value(value)
    return row


def _tools(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Collect the versions that the plan was made with."""
    found: dict[str, str] = {}
    for step in plan["steps"]:
        params = step["params"]
        if "tools" in params:
            found.update({str(k): str(v) for k, v in params["tools"]["value"].items()})
        if "edgekit" in params:
            found["edgekit"] = str(params["edgekit"]["value"])
    return sorted(found.items())


def _steps(plan: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for step in plan["steps"]:
        params = [
            {"name": name, "value": _value(p["value"]), "origin": p["origin"]}
            for name, p in step["params"].items()
        ]
        yield {"name": step["name"], "params": params}


def _value(value: object) -> str:
    written = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return written if len(written) <= _MAX_VALUE else written[:_MAX_VALUE] + "…"


def _download(document: Document) -> str:
    """Return the document without its pictures as a ``data:`` link."""
    golden = [{k: v for k, v in row.items() if k != "preview"} for row in document["golden"]]
    raw = json.dumps({**document, "golden": golden}, indent=1, ensure_ascii=True)
    return "data:application/json;base64," + base64.b64encode(raw.encode()).decode()
