"""Quantize one ONNX file: the build's stages and its decision, without a recipe or a bundle."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.runtime.session import (
    DISABLED_OPTIMIZERS,
    OPTIMIZATION_LEVEL,
    import_onnxruntime,
    open_session,
    runner,
)
from edgekit.toolchain.cache import Cache
from edgekit.toolchain.compare import compare_outputs
from edgekit.toolchain.decide import (
    Decision,
    Judged,
    TimeLimit,
    decide,
    describe_limit,
    describe_shortfall,
)
from edgekit.toolchain.events import Event, OnEvent, ignore
from edgekit.toolchain.graph import Graph
from edgekit.toolchain.model_input import check_weights
from edgekit.toolchain.output_file import check_output, write_whole
from edgekit.toolchain.plan import make_plan
from edgekit.toolchain.project import folders
from edgekit.toolchain.quantize.candidates import FLOAT
from edgekit.toolchain.quantize_data import blaming, check_data, name_broken_sample, unused_arrays
from edgekit.toolchain.recipe import Recipe
from edgekit.toolchain.report.document import candidate_documents
from edgekit.toolchain.samples import SampleSet
from edgekit.toolchain.scaffold import recipe_for_file
from edgekit.toolchain.scaffold_data import DataOptions, describe_samples
from edgekit.toolchain.settings import load_settings
from edgekit.toolchain.stages import Workbench
from edgekit.toolchain.targets import load_target
from edgekit.wire.canonical import sha256_hex
from edgekit.wire.errors import BuildError, GateError, UsageError
from edgekit.wire.measurement import Requirement

_PLAIN_FEEDS = 4
_SPLIT = "every other file in the order of their paths calibrates, the rest evaluates"
_SAME_AS_ITSELF = 0.999
_LINES = "every other line calibrates, the rest evaluates"


@dataclass(frozen=True)
class Limits:
    """What the quantized model may lose; None leaves a limit as it is by default.

    Attributes:
        min_agreement: Lowest agreement with fp32, 0..1; by default 0.98 for the cosine of the worst
            output and 0.95 for the same best class.
        max_size_mib: Largest file, MiB.
        max_latency_p95_ms: Longest 95th percentile of the latency predicted for the target, ms.
        allow_slower: Take an int8 model that is slower than fp32, too.
    """

    min_agreement: float | None = None
    max_size_mib: float | None = None
    max_latency_p95_ms: float | None = None
    allow_slower: bool = False


@dataclass(frozen=True)
class Quantized:
    """What came of a file.

    Attributes:
        status: ``quantized``; ``kept-fp32`` where fp32 meets the limits and no int8 model does or
            is worth it; ``failed`` where nothing meets them. Only the first writes a file.
        path: The file that was written, or None.
        document: All facts as plain JSON: sizes, measurements, candidates with their reasons.
        error: Why no file was written, or None.
    """

    status: str
    path: Path | None
    document: Mapping[str, Any]
    error: GateError | None = None

    @property
    def exit_code(self) -> int:
        """0, or 6 where no int8 model meets the limits."""
        return 0 if self.error is None else self.error.exit_code


def quantize(
    model: Path | str,
    *,
    data: Path | str,
    target: str,
    out: Path | str,
    min_agreement: float | None = None,
    max_size_mib: float | None = None,
    max_latency_p95_ms: float | None = None,
    allow_slower: bool = False,
    sample_rate_hz: int | None = None,
    tokenizer: Path | str | None = None,
    project: Path | str = ".",
    on_event: OnEvent = ignore,
    **settings: object,
) -> Quantized:
    """Quantize an ONNX file for a target and write it, if it meets the limits.

    Args:
        model: An .onnx file, with its external data beside it if it has any.
        data: Folder of at least 32 samples: an .npz each (keys = input names), an .npy each (one
            input), pictures for a classifier, sounds, or .txt files with a text a line. Every other
            one calibrates, the rest evaluates.
        target: ``rpi5``; ``edgekit targets list`` shows all.
        out: The file to write. It is there whole or not at all.
        min_agreement: See :class:`Limits`, as for the next three.
        max_size_mib: Largest file, MiB.
        max_latency_p95_ms: Longest predicted latency, ms.
        allow_slower: Take an int8 model that is slower than fp32, too.
        sample_rate_hz: Rate at which the model takes sounds; 16000 by default.
        tokenizer: The ``tokenizer.json`` of a model that takes texts; by default the one beside it.
        project: Folder whose ``targets/`` and ``edgekit.toml`` count.
        on_event: Hears of progress.
        **settings: Any setting of ``edgekit.toml`` by name: ``cache_dir="…"``.

    Returns:
        What came of it. No exception is raised where no int8 model meets the limits: then ``path``
        is None and ``exit_code`` is 6.

    Raises:
        UsageError: There is no such model file, ``out`` is a file of the model, or an option is for
            samples of another kind.
        ConfigError: The target, the data or the output folder will not do.
        BuildError: The model cannot be read, has broken weights, or does not run.
    """
    limits = Limits(min_agreement, max_size_mib, max_latency_p95_ms, allow_slower)
    source, target_file = Path(model), Path(out)
    check_output(target_file, source)
    if target_file.exists() and target_file.suffix.lower() != ".onnx":
        # It may be the model's external data, or a sample.
        raise UsageError(
            "the output is a file already, and no .onnx file",
            hint="name another one with -o",
            where=str(target_file),
        )
    resolved = load_target(target, folders(Path(project), "targets"))
    read_as = DataOptions(sample_rate_hz, None if tokenizer is None else Path(tokenizer))
    recipe = _limited(recipe_for_file(source, Path(data), read_as), limits)
    loaded = load_settings(Path(project), dict(settings), os.environ)
    plan = make_plan(recipe, resolved, search=loaded.value("search"))
    limit = TimeLimit.of(loaded.max_minutes, time.monotonic)
    heard = _busy(on_event, recipe.name)
    bench = Workbench(recipe, resolved, plan, Cache(loaded.cache_dir), heard, offline=True)
    check_weights(bench.source.proto, str(source))
    check_data(bench, Path(data))
    with blaming(bench, Path(data)):
        decision = _decide(bench, limit, judge_slower=limits.allow_slower)
        decision = _with_slower(decision, allow_slower=limits.allow_slower)
    found = decision.shipped
    if found is None or found.candidate.precision == "fp32":
        return _kept(bench, decision, source, resolved.target.name)
    data_bytes = found.candidate.graph.to_bytes()
    document = {
        **_document(bench, decision, found, source, resolved.target.name),
        "status": "quantized",
        "path": str(target_file),
        "sha256": sha256_hex(data_bytes),
        "session": _session(bench, found.candidate.graph, data_bytes),
    }
    started = time.perf_counter()
    write_whole(target_file, data_bytes)
    seconds = time.perf_counter() - started
    on_event(Event(recipe.name, "write", 1, 1, detail=target_file.name, seconds=seconds))
    return Quantized("quantized", target_file, document)


def _busy(on_event: OnEvent, name: str) -> OnEvent:
    """Say after each step that another has begun: some take seconds before they count anything."""

    def heard(event: Event) -> None:
        on_event(event)
        if event.seconds is not None or event.stage == "candidate":
            on_event(Event(name, "quantize", 0, 1))

    on_event(Event(name, "optimize", 0, 1))
    return heard


def _decide(bench: Workbench, limit: TimeLimit, *, judge_slower: bool) -> Decision:
    """Decide; where float32 itself is not finite, name the sample instead of what came of it."""
    try:
        decision = decide(bench, limit, judge_slower=judge_slower)
    except BuildError as error:
        if "nan" in error.message.lower():
            name_broken_sample(bench)
        raise
    itself = decision.judged[0].measurements[0].value
    if not itself >= _SAME_AS_ITSELF:
        name_broken_sample(bench)
    return decision


def _limited(recipe: Recipe, limits: Limits) -> Recipe:
    """Put the user's limits in place of the recipe's."""
    contract = dict(recipe.contract)
    if limits.min_agreement is not None:
        metric = next(iter(contract))
        contract[metric] = (
            Requirement(metric, minimum=limits.min_agreement, where="--min-agreement"),
            {},
        )
    for metric, most in (
        ("size_mib", limits.max_size_mib),
        ("latency_p95_ms", limits.max_latency_p95_ms),
    ):
        if most is not None:
            option = f"--max-{metric.replace('_', '-')}"
            contract[metric] = (Requirement(metric, maximum=most, where=option), {})
    return dataclasses.replace(recipe, contract=contract)


def _with_slower(decision: Decision, *, allow_slower: bool) -> Decision:
    """Take the fastest int8 candidate within the limits where none would ship for its speed."""
    ships = decision.shipped
    if not allow_slower or (ships is not None and ships.candidate.precision not in FLOAT):
        return decision
    good = [j for j in decision.judged if j.meets_contract and j.candidate.precision not in FLOAT]
    if not good:
        return decision
    best = min(good, key=lambda j: j.latency_ratio)
    reason = (
        f"{best.candidate.name} meets the contract at {best.latency_ratio:.2f} x the time of fp32 "
        f"({best.ratio_kind}); --allow-slower takes it"
    )
    chosen = dataclasses.replace(best, reason="")
    judged = [chosen if j is best else j for j in decision.judged]
    return dataclasses.replace(decision, shipped=chosen, judged=judged, reason=reason)


def _kept(bench: Workbench, decision: Decision, source: Path, target: str) -> Quantized:
    """Say why no file was written, with the best int8 candidate's numbers if there is one."""
    tried = decision.judged[1:] or decision.judged
    best = max(tried, key=lambda j: (sum(v.met for v in j.verdicts), -j.latency_ratio))
    if decision.shipped is not None:
        status, message = "kept-fp32", decision.reason
    else:
        missed = next(v for v in best.verdicts if not v.met)
        status, message = "failed", f"nothing meets the contract: {describe_shortfall(missed)}"
    document = {
        **_document(bench, decision, best, source, target),
        "status": status,
        "reason": message,
        "path": None,
    }
    error = GateError(
        f"{message}; nothing was written", hint=_what_next(decision), where=str(source)
    )
    document["error"] = {"message": error.message, "hint": error.hint}
    return Quantized(status, None, document, error)


def _what_next(decision: Decision) -> str:
    tried = decision.judged[1:]
    if any(judged.meets_contract for judged in tried):
        return "--allow-slower takes the int8 model all the same"
    if not tried:
        return "no int8 form of it can be had: use the model as it is"
    return "a lower --min-agreement takes more loss; samples closer to the field's may lose less"


def _document(
    bench: Workbench, decision: Decision, shown: Judged, source: Path, target: str
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "model": str(source),
        "target": target,
        "precision": shown.candidate.precision,
        "candidate": shown.candidate.name,
        "reason": decision.reason,
        "size_bytes": shown.candidate.graph.size_bytes,
        "fp32_size_bytes": bench.source.size_bytes,
        "kept_float": list(shown.candidate.kept_float),
        "latency_ratio": shown.latency_ratio,
        "latency_ratio_kind": shown.ratio_kind,
        "measurements": [m.to_json() for m in shown.measurements],
        "fp32": [m.to_json() for m in decision.judged[0].measurements],
        "contract": [
            {
                **verdict.requirement.to_json(),
                "outcome": verdict.outcome.value,
                "limit": describe_limit(verdict.requirement),
            }
            for verdict in shown.verdicts
        ],
        "outputs": [dataclasses.asdict(output) for output in shown.outputs],
        "candidates": candidate_documents(decision.judged),
        "refused": dict(decision.refused),
        "fixed_inputs": {t.name: t.fixed for t in bench.recipe.inputs if t.fixed is not None},
        "data": {
            "read_as": describe_samples(bench.recipe),
            "split": _LINES if bench.recipe.calibration[0].reader == "text-lines" else _SPLIT,
            "unused_arrays": unused_arrays(bench),
            "calibration": _data(bench.calibration_set),
            "evaluation": _data(bench.evaluation_set),
        },
    }
    return {key: _finite(value) for key, value in document.items()}


def _finite(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Write null for what JSON has no number for: a loss against an output that is all zero."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    return [_finite(entry) for entry in value] if isinstance(value, list | tuple) else value


def _data(samples: SampleSet) -> dict[str, Any]:
    return {"n": len(samples.samples), "sha256": samples.sha256}


def _session(bench: Workbench, graph: Graph, model: bytes) -> dict[str, Any]:
    """Tell how the model was run here, and how far a plain session's answers are from that."""
    return {
        "optimization_level": OPTIMIZATION_LEVEL,
        "disabled_optimizers": list(DISABLED_OPTIMIZERS),
        "operator_sets": dict(_operator_sets(graph)),
        "plain_relative_l2": None if _has_branches(graph) else _plain_difference(bench, model),
    }


def _has_branches(graph: Graph) -> bool:
    # There a plain session may end the process: an optimizer fails on what a branch reads.
    return any(a.HasField("g") or a.graphs for n in graph.proto.graph.node for a in n.attribute)


def _plain_difference(bench: Workbench, model: bytes) -> float | None:
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    plain = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    differences = compare_outputs(
        runner(open_session(model)), runner(plain), bench.feeds[:_PLAIN_FEEDS]
    )
    worst = max(d.relative_l2 for d in differences)
    return worst if math.isfinite(worst) else None


def _operator_sets(graph: Graph) -> Iterator[tuple[str, int]]:
    used = {node.domain or "ai.onnx" for node in graph.proto.graph.node}
    for entry in graph.proto.opset_import:
        if (entry.domain or "ai.onnx") in used:
            yield entry.domain or "ai.onnx", int(entry.version)
