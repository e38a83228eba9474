"""Quantizers side by side: edgekit, onnxruntime, Olive, NNCF and Optimum on the same models.

    python benchmarks/quant.py                           # everything; writes docs/benchmarks/
    python benchmarks/quant.py digits-cnn --tools ort,edgekit --keep /tmp/work

Every tool runs in an environment and a process of its own; what one cannot do is a row. Peers'
results are kept in $EDGEKIT_BENCH_DIR or the user's cache, edgekit builds anew every time. Latency
is measured at the end, when nothing else of the benchmark runs. EDGEKIT_BENCH_TIMEOUT_S limits one
run of a tool (1800 s).
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from build import link_downloads
from quant_peers import rows, table
from quant_peers.inputs import (
    Prepared,
    int8_share,
    own_models,
    prepare_model,
    to_json,
    workbench,
)
from quant_peers.peers import HERE, PEERS, bench_folder, quantize

from edgekit.runtime.host import host_kind
from edgekit.toolchain.graph import Graph
from edgekit.toolchain.process import run
from edgekit.toolchain.quantize.candidates import FLOAT
from edgekit.toolchain.stages import Workbench
from edgekit.toolchain.verify import accuracy_measurements
from edgekit.wire.errors import BuildError, EdgekitError
from edgekit.wire.measurement import Measurement, judge

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = float(os.environ.get("EDGEKIT_BENCH_TIMEOUT_S", "1800"))
ROUNDS, SECONDS = 3, 2.0  # of a latency: processes, and how long each measures
EVALUATION_TIMEOUT_S = 3600.0
EDGEKIT_PACKAGES = ("edgekit", "onnx", "onnxruntime", "numpy", "torch")


def main() -> int:
    options = arguments()
    known = own_models()
    unknown = [name for name in options.models if name not in known]
    if unknown:
        print(
            f"error: no recipe named {unknown[0]}; there are: {', '.join(known)}", file=sys.stderr
        )
        return 2
    with tempfile.TemporaryDirectory(prefix="edgekit-bench-") as temporary:
        work = options.keep or Path(temporary)
        models, left_out = [], {}
        for name in options.models or known:
            try:
                models.append(measure(name, known[name], options.tools, work / name))
            except EdgekitError as error:
                left_out[name] = error.message.splitlines()[0]
                say(f"  left out: {left_out[name]}")
        for model in models:
            time_all(model)
        document = finish(models) | {"left_out": left_out}
    for text in table.lines(document):
        print(text)
    out = options.out
    if out is None and not options.models and options.tools == tools():
        out = ROOT / "docs" / "benchmarks" / "quant.json"
    if out is not None:
        from quant_peers.plot import draw

        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(document, indent=1) + "\n")
        draw(document, out)
        print(f"wrote {out}", file=sys.stderr)
    return int(not models)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help="recipes; all by default")
    parser.add_argument("--tools", type=tool_list, default=tools(), help=",".join(tools()))
    parser.add_argument("--keep", type=Path, help="folder for the models; not removed")
    parser.add_argument("--out", type=Path, help="where the JSON goes, and the plot beside it")
    return parser.parse_args()


def tools() -> list[str]:
    return [*PEERS, "edgekit"]


def tool_list(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in tools():
            raise argparse.ArgumentTypeError(f"no tool named {name}")
    return names


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclasses.dataclass
class Model:
    """A model with its rows: one list of variants a tool."""

    prepared: Prepared
    bench: Workbench
    fp32: list[dict[str, Any]]
    found: dict[str, list[dict[str, Any]]]


def measure(name: str, project: Path | None, chosen: list[str], folder: Path) -> Model:
    """Let every tool quantize a model, and evaluate what they give."""
    say(f"{name}: model, feeds, float32 predictions")
    folder.mkdir(parents=True, exist_ok=True)
    prepared = prepare_model(name, project, folder)
    bench = workbench(name, project)
    reference = predictions(prepared, prepared.published, bench, edgekit=False)
    if reference["status"] != rows.USABLE:
        raise BuildError(f"{name}: the float32 model {reference['status']}: {reference['error']}")
    model = Model(prepared, bench, reference["predictions"], {})
    for tool in chosen:
        made = [edgekit_row(model, folder)] if tool == "edgekit" else peer_rows(model, tool)
        model.found[tool] = made
        for row in made:
            value = row["agreement"]["value"] if row["agreement"] else float("nan")
            say(f"  {tool} {row['variant']}: {row['status']} {value:.3f} {row['note']}")
    return model


def peer_rows(model: Model, tool: str) -> list[dict[str, Any]]:
    made = []
    peer = PEERS[tool]
    for variant in peer.variants(model.prepared):
        try:
            place = quantize(peer, variant, model.prepared, bench_folder(), TIMEOUT_S)
        except BuildError as error:
            made.append(empty_row(tool, variant, "not installed", error.message))
            continue
        result = json.loads((place / "result.json").read_text())
        row = empty_row(tool, variant, "failed", result["error"] or "") | costs(result)
        row |= {"settings": result.get("settings", {}), "versions": result.get("versions", {})}
        if result["error"] is None:
            evaluate(model, row, place / "out.onnx")
        made.append(row)
    return made


def edgekit_row(model: Model, folder: Path) -> dict[str, Any]:
    """Build in a new project with a new cache that holds the downloads alone."""
    with tempfile.TemporaryDirectory(prefix="edgekit-bench-build-") as temporary:
        project = Path(temporary)
        if model.prepared.project is not None:
            for place in ("models", "targets"):
                if (model.prepared.project / place).is_dir():
                    (project / place).symlink_to(model.prepared.project / place)
        link_downloads(project / "cache")
        job = {
            "name": model.prepared.name,
            "target": host_kind(),
            "project": str(project),
            "dist": str(project / "dist"),
            "out": str(folder / "edgekit.onnx"),
        }
        result = child("build", job, TIMEOUT_S, {"EDGEKIT_CACHE_DIR": str(project / "cache")})
    summary = result.get("summary")
    if summary is None:
        return empty_row("edgekit", "", "ships nothing", str(result["error"])) | costs(result)
    row = empty_row("edgekit", summary["candidate"], "failed", "") | costs(result)
    row["settings"] = {"ships": summary["candidate"], "reason": summary["reason"]}
    row["settings"]["stages_s"] = result["stages"]
    evaluate(model, row, folder / "edgekit.onnx")
    if summary["precision"] in FLOAT:
        # Stored weights make a smaller file, not an int8 model.
        row |= {"status": "fp32", "note": summary["reason"]}
    return row


def empty_row(tool: str, variant: str, status: str, note: str) -> dict[str, Any]:
    return {
        "tool": tool,
        "variant": variant,
        "status": status,
        "note": note,
        "settings": {},
        "versions": {},
        **dict.fromkeys(("agreement", "truth", "meets_contract", "size_ratio", "int8_share")),
        **dict.fromkeys(("latency", "cpu_s", "import_cpu_s", "peak_mib", "base_mib")),
        "over_base_mib": None,
        "graph": None,
        "scores": None,
    }


def costs(result: dict[str, Any]) -> dict[str, Any]:
    found = {key: result.get(key) for key in ("cpu_s", "import_cpu_s", "peak_mib", "base_mib")}
    if found["peak_mib"] is not None and found["base_mib"] is not None:
        found["over_base_mib"] = round(found["peak_mib"] - found["base_mib"], 1)
    return found


def evaluate(model: Model, row: dict[str, Any], path: Path) -> None:
    """Fill in what a graph is worth."""
    share = None
    try:
        share = int8_share(Graph.load(path))
    except BuildError as error:
        row |= {"status": "does not load", "note": error.message}
        return
    row["graph"] = str(path)
    row["int8_share"] = round(share, 4)
    row["size_ratio"] = round(path.stat().st_size / model.prepared.published.stat().st_size, 4)
    found = predictions(model.prepared, path, model.bench, edgekit=row["tool"] == "edgekit")
    row["status"] = rows.status_of(found["status"], share)
    if found["status"] != rows.USABLE:
        row["note"] = found["error"]
        return
    bench = model.bench
    own, reference = (accuracy(bench, model.fp32, p) for p in (found["predictions"], model.fp32))
    row["agreement"] = brief(own[0])
    row["scores"] = bench.task.agreement(model.fp32, found["predictions"]).scores
    row["truth"] = brief(own[1]) if len(own) > 1 else None
    measured = {m.metric for m in own}
    verdicts = judge(bench.recipe.contract_for(host_kind()), own, reference)
    row["meets_contract"] = all(v.met for v in verdicts if v.requirement.metric in measured)


def accuracy(
    bench: Workbench, reference: list[Any], predictions: list[Any]
) -> tuple[Measurement, ...]:
    return tuple(
        accuracy_measurements(
            bench.task, bench.recipe.metric, bench.evaluation_set, reference, predictions, "here"
        )
    )


def brief(measurement: Measurement) -> dict[str, Any]:
    interval = measurement.interval
    return {
        "metric": measurement.metric,
        "value": round(measurement.value, 5),
        "n": measurement.n,
        "interval": None if interval is None else [round(v, 4) for v in interval],
    }


def predictions(
    prepared: Prepared, graph: Path, bench: Workbench, *, edgekit: bool
) -> dict[str, Any]:
    """Return a graph's predictions on the evaluation set, from the cache if they are there."""
    digest = hashlib.sha256(graph.read_bytes() + bench.evaluation_set.sha256.encode())
    for path in sorted((ROOT / "edgekit" / "runtime").rglob("*.py")):
        digest.update(path.read_bytes())
    digest.update(f"{edgekit}{bench.recipe.task}{dict(bench.recipe.task_options)}".encode())
    place = bench_folder() / "predictions" / f"{prepared.name}-{digest.hexdigest()[:24]}.json"
    if place.exists():
        kept: dict[str, Any] = json.loads(place.read_text())
        return kept
    job = {**json.loads(to_json(prepared)), "graph": str(graph), "edgekit": edgekit}
    found = child("predict", job, EVALUATION_TIMEOUT_S)
    if found["status"] == rows.USABLE:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(found))
    return found


def child(
    action: str, job: dict[str, Any], timeout_s: float, more: dict[str, str] | None = None
) -> dict[str, Any]:
    """Run a part of edgekit's own in a process of its own; how it ends is its result."""
    with tempfile.TemporaryDirectory() as temporary:
        given, result = Path(temporary) / "job.json", Path(temporary) / "result.json"
        given.write_text(json.dumps(job))
        command = [sys.executable, str(HERE / "child.py"), action, str(given), str(result)]
        try:
            done = run(command, timeout_s=timeout_s, missing="", env={**os.environ, **(more or {})})
        except BuildError as error:
            return {"status": "timeout", "error": error.message}
        if result.exists():
            document: dict[str, Any] = json.loads(result.read_text())
            return document
        how = f"signal {-done.code}" if done.code < 0 else f"exit code {done.code}"
        return {"status": f"ended by {how}", "error": done.tail(1)}


def time_all(model: Model) -> None:
    """Time every graph that runs against the float32 one, several times."""
    say(f"{model.prepared.name}: latency")
    for row in (row for found in model.found.values() for row in found):
        if row["agreement"] is None:
            continue
        job = {
            **json.loads(to_json(model.prepared)),
            "graph": row["graph"],
            "edgekit": row["tool"] == "edgekit",
            "seconds": SECONDS,
        }
        rounds = [child("time", job, EVALUATION_TIMEOUT_S) for _ in range(ROUNDS)]
        if all("ratio" in found for found in rounds):
            ratios = [found["ratio"] for found in rounds]
            row["latency"] = {
                "ratio": round(statistics.median(ratios), 4),
                "low": round(min(ratios), 4),
                "high": round(max(ratios), 4),
                "ms": round(statistics.median(found["ms"] for found in rounds), 4),
                "fp32_ms": round(statistics.median(found["fp32_ms"] for found in rounds), 4),
                "pairs": [found["pairs"] for found in rounds],
            }
        else:
            row["note"] = next(str(r["error"]) for r in rounds if "ratio" not in r)
            say(f"  {row['tool']} {row['variant']}: not timed: {row['note']}")


def finish(models: list[Model]) -> dict[str, Any]:
    """Put the document together."""
    written = [model_document(model) for model in models]
    versions: dict[str, Any] = {"edgekit": installed()}
    for model in models:
        for found in model.found.values():
            versions.update({row["tool"]: row["versions"] for row in found if row["versions"]})
    return {
        "schema": "edgekit.bench.quant/1",
        "where": f"{host_kind()} host, {os.cpu_count()} cores, measured here",
        "host": host_kind(),
        "rule": rows.RULE,
        "latency": f"median of {ROUNDS} processes, each the median ratio of alternating pairs over "
        f"{SECONDS:.0f} s, CPU time of one thread",
        "tools": {name: peer.title for name, peer in PEERS.items()},
        "versions": versions,
        "models": written,
        "summary": rows.summary(written),
    }


def model_document(model: Model) -> dict[str, Any]:
    chosen = {tool: rows.choose(found) for tool, found in model.found.items()}
    reference = accuracy(model.bench, model.fp32, model.fp32)
    contract = model.bench.recipe.contract_for(host_kind())
    limit = [r.minimum for r in contract if r.metric == reference[0].metric and r.vs == "absolute"]
    peers = [row for tool, row in chosen.items() if tool != "edgekit"]
    prepared = model.prepared
    return {
        "model": prepared.name,
        "title": model.bench.recipe.title,
        "task": model.bench.recipe.task,
        "source_sha256": prepared.source_sha256,
        "source_bytes": prepared.published.stat().st_size,
        "opset": prepared.opset,
        "convolutional": prepared.convolutional,
        "calibration_feeds": len(list(prepared.feeds.glob("*.npz"))),
        "agreement_metric": reference[0].metric,
        "n": reference[0].n,
        "contract": limit[0] if limit else None,
        "fp32": brief(reference[1]) if len(reference) > 1 else None,
        "rows": {tool: public(row) for tool, row in chosen.items()},
        "variants": [public(row) for found in model.found.values() for row in found[1:] and found],
        "verdict": rows.verdict(chosen["edgekit"], peers) if "edgekit" in chosen else None,
    }


def public(row: rows.Row) -> dict[str, Any]:
    """Return a row without paths of this machine and single scores."""
    return {k: v for k, v in row.items() if k not in ("graph", "versions", "scores")}


def installed() -> dict[str, str]:
    found = {}
    for name in EDGEKIT_PACKAGES:
        try:
            found[name] = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    sys.exit(main())
