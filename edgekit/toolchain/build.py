"""Build one model for one target: plan, decide, pack, report."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.runtime.host import host_kind
from edgekit.toolchain.assemble import produce_bundle
from edgekit.toolchain.cache import Cache
from edgekit.toolchain.decide import (
    Decision,
    TimeLimit,
    decide,
    describe_limit,
    describe_shortfall,
)
from edgekit.toolchain.events import Event, OnEvent
from edgekit.toolchain.lock import LOCK_NAME, LockEntry, locked_decision
from edgekit.toolchain.plan import Plan, make_plan
from edgekit.toolchain.recipe import Recipe
from edgekit.toolchain.settings import Settings
from edgekit.toolchain.stages import Workbench
from edgekit.toolchain.targets import Resolved
from edgekit.toolchain.timing import Device
from edgekit.wire.canonical import digest_of, sha256_file
from edgekit.wire.errors import ConfigError, GateError
from edgekit.wire.located import Value
from edgekit.wire.signing import PrivateKey


@dataclass(frozen=True)
class Outcome:
    """What came of one model.

    Attributes:
        model: Its name.
        target: The target's name.
        status: ``built``, ``up-to-date``, ``left-out`` or ``failed``.
        path: The bundle, if there is one.
        report: The report, if there is one.
        summary: JSON facts of the bundle: precision, sizes, measurements, verdicts.
        error: JSON form of the error, if it failed.
        exit_code: 0, or the error's.
        seconds: Wall time.
        lock: What a timing decided, to be written to the lock file.
    """

    model: str
    target: str
    status: str
    path: str | None = None
    report: str | None = None
    summary: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    exit_code: int = 0
    seconds: float = 0.0
    lock: LockEntry | None = None


@dataclass(frozen=True)
class Job:
    """Everything that building one model needs; crosses process borders.

    Attributes:
        recipe: The recipe.
        resolved: The target.
        settings: Cache, key, output folder, denied licences.
        lock: The project's earlier decisions.
        key: Signs the bundle.
        device: A board of the target's kind, whose timings decide.
    """

    recipe: Recipe
    resolved: Resolved
    settings: Settings
    lock: Mapping[str, LockEntry]
    key: PrivateKey
    device: Device | None = None

    @property
    def name(self) -> str:
        """``model/target``, the lock file's key."""
        return f"{self.recipe.name}/{self.resolved.target.name}"


def planned(job: Job) -> Plan:
    """Return the job's plan, with what the lock decided."""
    return locked_plan(job.recipe, job.resolved, job.settings.value("search"), job.lock)


def locked_plan(
    recipe: Recipe, resolved: Resolved, search: Value, lock: Mapping[str, LockEntry]
) -> Plan:
    """Return a recipe's plan, with what the lock decided."""
    free = make_plan(recipe, resolved, search=search)
    decision = locked_decision(lock, f"{recipe.name}/{resolved.target.name}", free.intent_sha256)
    return free if decision is None else make_plan(recipe, resolved, decision, search)


def up_to_date(job: Job, plan: Plan) -> Outcome | None:
    """Return an earlier build of the same plan, its files put back if they are missing."""
    cache = Cache(job.settings.cache_dir)
    folder = kept_build(cache, plan.sha256, job.key.key_id)
    if folder is None:
        return None
    summary = json.loads((folder / "summary.json").read_text())
    path, report, same = _deliver(folder, job, summary)
    return Outcome(
        plan.model, plan.target, "up-to-date" if same else "built", str(path), str(report), summary
    )


def build_one(job: Job, on_event: OnEvent) -> Outcome:
    """Build one model for one target.

    Args:
        job: What to build.
        on_event: Hears of progress.

    Raises:
        ConfigError: Its licence is denied, the target is refused, its data is wrong.
        GateError: Nothing meets the contract.
        EdgekitError: A stage failed.
    """
    started = time.perf_counter()
    check_license(job)
    plan = planned(job)
    cache = Cache(job.settings.cache_dir)
    offline, device = job.settings.offline, job.device
    bench = Workbench(job.recipe, job.resolved, plan, cache, on_event, offline, device)
    limit = TimeLimit.of(job.settings.max_minutes, time.monotonic)
    decision = decide(bench, limit)
    if decision.shipped is None:
        raise _gate_error(decision)
    entry = _lock_entry(decision, bench)
    if entry is not None:
        # From here on the decision is an input, as it is for whoever rebuilds.
        shipped = Value(entry.ships, LOCK_NAME)
        plan = make_plan(job.recipe, job.resolved, shipped, job.settings.value("search"))
        bench = bench.with_plan(plan)
    folder, _ = cache.stage(
        "bundle",
        _bundle_key(plan.sha256, job.key.key_id),
        lambda out: produce_bundle(out, bench, decision, job.key),
    )
    summary = json.loads((folder / "summary.json").read_text())
    path, report, _ = _deliver(folder, job, summary)
    seconds = time.perf_counter() - started
    on_event(Event(plan.model, "bundle", 1, 1, detail=path.name, seconds=seconds))
    return Outcome(
        plan.model,
        plan.target,
        "built",
        str(path),
        str(report),
        summary,
        seconds=seconds,
        lock=entry,
    )


def check_license(job: Job) -> None:
    """Refuse a recipe whose licence the project denies.

    Raises:
        ConfigError: Names the licence and where it is denied.
    """
    terms = set(job.recipe.license.replace("(", " ").replace(")", " ").split())
    denied = sorted(terms & set(job.settings.licenses_deny))
    if denied:
        raise ConfigError(
            f"{job.recipe.name} is under {denied[0]}, which this project denies",
            hint=f"it stands in licenses.deny, {job.settings.origins['licenses_deny']}",
            where=job.recipe.origins.get("license", job.recipe.file),
        )


def kept_build(cache: Cache, plan_sha256: str, key_id: str) -> Path | None:
    """Return the folder of an earlier build of a plan, with its report; None if it is not kept.

    Args:
        cache: Where builds are kept.
        plan_sha256: The plan's digest; a bundle's manifest has it.
        key_id: Of the key that signed it.
    """
    key = _bundle_key(plan_sha256, key_id)
    return cache.stage("bundle", key, lambda _: None)[0] if cache.has("bundle", key) else None


def _bundle_key(plan_sha256: str, key_id: str) -> str:
    return digest_of([plan_sha256, key_id, host_kind()])


def _lock_entry(decision: Decision, bench: Workbench) -> LockEntry | None:
    """Return what a rebuild must repeat: what rested on a timing, or on a limit of time."""
    timed = [judged for judged in decision.judged if judged.timing is not None]
    if not timed and not decision.stopped:
        return None
    shown = decision.winner if decision.winner.timing or not timed else timed[-1]
    return LockEntry(
        bench.plan.intent_sha256,
        decision.winner.candidate.name,
        round(shown.latency_ratio, 3),
        bench.device.name if bench.device else host_kind(),
        "a time limit" if decision.stopped else "a timing",
    )


def _gate_error(decision: Decision) -> GateError:
    rows = []
    best = max(decision.judged, key=lambda j: (sum(v.met for v in j.verdicts), -j.latency_ratio))
    reference = {m.metric: m.value for m in decision.judged[0].measurements}
    for verdict in best.verdicts:
        value = "absent" if verdict.measurement is None else f"{verdict.measurement.value:.3f}"
        fp32 = reference.get(verdict.requirement.metric)
        rows.append(
            f"  {verdict.requirement.metric:<22}{'–' if fp32 is None else f'{fp32:.3f}':>8}"
            f"{value:>10}   {describe_limit(verdict.requirement):<16}{'✓' if verdict.met else '✗'}"
        )
    failed = next(v for v in best.verdicts if not v.met)
    table = "\n".join(["", f"  {'':<22}{'fp32':>8}{'best':>10}   contract", *rows])
    return GateError(
        f"the contract is not met: {describe_shortfall(failed)}{table}",
        hint=f"best was {best.candidate.name}; change [accept] if that will do",
        where=failed.requirement.where,
    )


def _deliver(folder: Path, job: Job, summary: Mapping[str, Any]) -> tuple[Path, Path, bool]:
    """Copy bundle and report to the output folder; say whether they were there already."""
    stem = f"{job.recipe.name}-{job.resolved.target.name}"
    dist = job.settings.dist_dir
    path, report = dist / f"{stem}.ekb", dist / f"{stem}.html"
    same = path.is_file() and report.is_file() and sha256_file(path) == summary["sha256"]
    if not same:
        pairs = ((folder / "report.html", report), (folder / "bundle.ekb", path))
        partials = [place.with_name(f".{place.name}.{os.getpid()}.part") for _, place in pairs]
        try:
            dist.mkdir(parents=True, exist_ok=True)
            # Both are there whole before either takes its place: they belong together.
            for (source, _), partial in zip(pairs, partials, strict=True):
                shutil.copyfile(source, partial)
            for (_, place), partial in zip(pairs, partials, strict=True):
                partial.replace(place)
        except OSError as error:
            raise ConfigError(
                f"cannot write to the output folder: {error.strerror}",
                hint="give another folder with -o DIR",
                where=str(dist),
            ) from error
        finally:
            for partial in partials:
                with contextlib.suppress(OSError):
                    partial.unlink()
    return path, report, same
